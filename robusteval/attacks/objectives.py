"""What an attack drives up: per-sample functions of logits and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from robusteval.losses import cross_entropy, kl_divergence, logit_ratio, margin

Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, K), y (B,)) -> (B,), higher where the sample is closer to being wrong."""


def negative_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Highest other logit minus the label's (B,) (Carlini and Wagner, 2017, arXiv:1608.04644, sec. V-A)."""
    return -margin(logits, y)


def divergence_from(reference: Tensor) -> Objective:
    """The objective KL(p || q), p of fixed logits (B, K), q of the attacked ones, labels unused (TRADES)."""

    def objective(logits: Tensor, y: Tensor) -> Tensor:
        return kl_divergence(reference, logits)

    return objective


OBJECTIVES: Mapping[str, Objective] = {"ce": cross_entropy, "margin": negative_margin, "dlr": logit_ratio}
"""By the name that options use; ``dlr`` needs three classes."""
