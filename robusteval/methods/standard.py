"""Standard training: cross-entropy on augmented images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from robusteval.branches import MAIN
from robusteval.losses import accuracy, smoothed_cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes
from robusteval.options import Probability, options


@options
class Standard(Method):
    """Cross-entropy on the augmented batch, the baseline that every cost is relative to.

    Attributes:
        label_smoothing: share of the target that is spread over all classes (Szegedy et al., 2016).
    """

    name: ClassVar[str] = "standard"
    card: ClassVar[Card] = Card(
        title="Deep Residual Learning for Image Recognition",
        authors="He, Zhang, Ren, Sun",
        venue="CVPR",
        year=2016,
        url="https://arxiv.org/abs/1512.03385",
        summary="Cross-entropy on randomly cropped and flipped images; the baseline of every comparison.",
        reference="akamaster/pytorch_resnet_cifar10",
    )

    label_smoothing: Probability = 0.0

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        logits = model(batch.x)
        loss = smoothed_cross_entropy(logits, batch.y, smoothing=self.label_smoothing).mean()
        backward(loss)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, batch.y)}

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1})
