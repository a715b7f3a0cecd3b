"""What EntProp selects images by, and how often each training image was selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from robusteval.attacks.objectives import negative_margin
from robusteval.losses import cross_entropy, entropy
from robusteval.method import TRAINING_ONLY, attached

SELECTIONS = "selections"
"""The name under which `Selections` is attached to a model."""


def _entropy(logits: Tensor, y: Tensor) -> Tensor:
    return entropy(logits)


def _doubt(logits: Tensor, y: Tensor) -> Tensor:
    return -logits.float().softmax(dim=1).amax(dim=1)


SCORES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "entropy": _entropy,
    "cross_entropy": cross_entropy,
    "confidence": _doubt,
    "margin": negative_margin,
}
"""(logits (B, K), y (B,)) -> uncertainty (B,); higher is more uncertain."""


class Selections(nn.Module):
    """Counts how often each training image was selected, in the int32 buffer ``counts`` (images,).

    A mixture counts for its first image.
    """

    counts: Tensor

    def __init__(self, images: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(images, dtype=torch.int32))

    def add(self, index: Tensor) -> None:
        """Counts the image at each position of ``index`` once more."""
        self.counts.index_add_(0, index, torch.ones_like(index, dtype=torch.int32))


def selections(model: nn.Module) -> Selections | None:
    """The counter that is attached to the model, if there is one."""
    parts = model._modules.get(TRAINING_ONLY)
    if not isinstance(parts, nn.ModuleDict) or SELECTIONS not in parts:
        return None
    counter = attached(model, SELECTIONS)
    assert isinstance(counter, Selections)
    return counter
