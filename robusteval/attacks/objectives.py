"""What an attack drives up: per-sample functions of logits and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from robusteval.errors import UserError
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


def objective(name: str, *, classes: int, where: str) -> Objective:
    """The objective of that name.

    Args:
        name: one of `OBJECTIVES`.
        classes: of the data.
        where: what asks, for the error.

    Raises:
        UserError: it needs more classes.
    """
    if name == "dlr" and classes < 3:
        raise UserError(f"{where}: loss: 'dlr' needs 3 classes, the data have {classes}; allowed: 'ce' or 'margin'")
    return OBJECTIVES[name]


OBJECTIVES: Mapping[str, Objective] = {"ce": cross_entropy, "margin": negative_margin, "dlr": logit_ratio}
"""By the name that options use; ``dlr`` needs three classes."""
