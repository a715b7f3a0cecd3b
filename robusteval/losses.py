"""Pure functions of logits: per-sample losses and scores, in float32 whatever the precision of the logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample (B,), in nats."""
    return F.cross_entropy(logits.float(), y, reduction="none")


def mixed_cross_entropy(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor) -> Tensor:
    """``lam * CE(y_a) + (1 - lam) * CE(y_b)`` of each sample (B,) (Zhang et al., 2018, arXiv:1710.09412, sec. 2).

    Args:
        logits: (B, K).
        y_a: (B,) int64 labels of the first image in each mixture.
        y_b: (B,) int64 labels of the second.
        lam: (B,) share of the first.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    of_a, of_b = (log_p.gather(1, y.unsqueeze(1)).squeeze(1) for y in (y_a, y_b))
    return -(lam * of_a + (1 - lam) * of_b)


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of each sample's softmax (B,), in nats, in [0, ln K]."""
    log_p = F.log_softmax(logits.float(), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the label minus the highest other logit, of each sample (B,); positive where the sample is right."""
    logits = logits.float()
    of_label = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return of_label - others.amax(dim=1)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of samples whose highest logit is the label's: a scalar, detached."""
    return (logits.detach().argmax(dim=1) == y).float().mean()
