"""The step in which each branch learns from images of its own, as many as the others (Xie et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from robusteval.branches import MAIN, split_batch, use_branch
from robusteval.data.augment import Mixed
from robusteval.losses import accuracy, mixed_cross_entropy
from robusteval.method import Backward


def unmixed(x: Tensor, y: Tensor) -> Mixed:
    """Images with one label each, as mixtures with nothing."""
    return Mixed(x, y, y, torch.ones(len(y), device=y.device))


def learn(
    model: nn.Module,
    parts: Mapping[str, Mixed],
    backward: Backward,
    *,
    loss_weighting: Literal["mean", "sum"],
    forward: Literal["one", "two"],
) -> dict[str, Tensor]:
    """The logs of a step that gives each branch its own images, as many as every other branch.

    Args:
        model: a model with these branches.
        parts: the images of each branch, ``main`` first; the loss of a branch is its mean cross-entropy.
        backward: see `Method.step`.
        loss_weighting: of the branches' losses.
        forward: all branches in one pass, or each in its own.
    """
    scale = 1 / len(parts) if loss_weighting == "mean" else 1.0
    logits: list[Tensor] = []
    losses: list[Tensor] = []
    if forward == "one":
        with split_batch(model, {branch: len(part.x) for branch, part in parts.items()}):
            logits += model(torch.cat([part.x for part in parts.values()])).chunk(len(parts))
            losses += map(_loss, logits, parts.values())
            backward(scale * torch.stack(losses).sum())
    else:
        for branch, part in parts.items():
            with use_branch(model, branch):
                logits.append(model(part.x))
                losses.append(_loss(logits[-1], part))
                backward(scale * losses[-1])
    logs = {"loss": scale * torch.stack(losses).detach().sum()}
    for branch, part, out, loss in zip(parts, parts.values(), logits, losses, strict=True):
        heavier = part.y_a.where(part.lam >= 0.5, part.y_b)
        if branch == MAIN:
            logs["accuracy"] = accuracy(out, heavier)
        else:
            logs |= {f"loss_{branch}": loss.detach(), f"accuracy_{branch}": accuracy(out, heavier)}
    return logs


def _loss(logits: Tensor, part: Mixed) -> Tensor:
    return mixed_cross_entropy(logits, part.y_a, part.y_b, part.lam).mean()
