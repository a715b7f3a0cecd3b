"""Optimizer, learning-rate schedule and averaged weights, as functions of the training options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robusteval.training import Training


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer over every parameter that requires a gradient, in one or two groups by weight decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if training.decay_norm_and_bias:
        groups: list[dict[str, Any]] = [{"params": trainable}]
    else:
        decayed = [p for p in trainable if p.ndim > 1]  # BatchNorm parameters and biases have one dimension
        groups = [{"params": decayed}, {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0}]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr, weight_decay=training.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
    )


def learning_rate(step: int, *, steps: int, steps_per_epoch: int, training: Training) -> float:
    """The learning rate of a step (from 0): a pure function, so that there is no scheduler to resume.

    Warm-up rises linearly from lr / w to lr over its w steps (or stays at ``warmup_lr``); the schedule runs over the
    steps after it.
    ``cosine`` falls to 0 (Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5, without restarts);
    ``onecycle`` rises from lr / 25 over 30 % of the steps and falls to lr / (25 * 10**4), by cosines (Smith
    and Topin, 2018, arXiv:1708.07120, with the constants of torch's OneCycleLR).
    """
    warmup = round(training.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return training.warmup_lr or training.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if training.schedule == "constant":
        return training.lr
    if training.schedule == "step":
        return training.lr * training.gamma ** sum(done >= milestone for milestone in training.milestones)
    if training.schedule == "cosine":
        return training.lr * (1 + math.cos(math.pi * done)) / 2
    position, last = step - warmup, steps - warmup - 1
    peak = 0.3 * (last + 1) - 1
    if position <= peak:
        start, stop, share = training.lr / 25, training.lr, position / peak
    else:
        start, stop, share = training.lr, training.lr / 25e4, (position - peak) / (last - peak)
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors under ``<parameter>|<slot>``, for a checkpoint."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}|{slot}": value
        for p, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def restore_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Puts the tensors of `named_state` back."""
    parameters = dict(model.named_parameters())
    for key, value in state.items():
        name, slot = key.rsplit("|", 1)
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU; every other slot is as its parameter.
        placed = value.clone() if value.ndim == 0 else torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][slot] = placed.detach()


class Averages:
    """Averaged weights: exponential (EMA) or the equal-weight mean of snapshots (SWA).

    Both average the parameters; BatchNorm statistics of averaged weights are re-estimated by `reestimate`
    (Izmailov et al., 2018, arXiv:1803.05407, sec. 3.2).
    """

    def __init__(self, training: Training, *, steps: int) -> None:
        self.training = training
        self.first = min(round(training.swa_start * steps), steps - 1)
        self.count = 0
        self.weights: dict[str, Tensor] = {}

    @property
    def active(self) -> bool:
        """Whether the options ask for averaged weights."""
        return bool(self.training.ema or self.training.swa_start)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after a step (from 0)."""
        if not self.active:
            return
        swa = self.training.swa_start > 0
        if swa and (step < self.first or (step - self.first) % self.training.swa_every_steps):
            return
        self.count += 1
        for name, p in model.named_parameters():
            if name not in self.weights:
                self.weights[name] = p.detach().clone()
            else:
                # The mean over the first steps of an EMA too, so that the random start does not linger.
                share = 1 / self.count if swa else max(1 - self.training.ema, 1 / self.count)
                self.weights[name].lerp_(p.detach(), share)

    def restore(self, model: nn.Module, weights: Mapping[str, Tensor], count: int) -> None:
        """Goes on from ``weights`` and ``count`` as a checkpoint kept them."""
        self.count = count
        parameters = dict(model.named_parameters())
        self.weights = {name: torch.empty_like(parameters[name]).copy_(w).detach() for name, w in weights.items()}

    @torch.no_grad()
    def apply(self, model: nn.Module) -> bool:
        """Puts the averaged weights into the model; whether there were any."""
        parameters = dict(model.named_parameters())
        for name, weight in self.weights.items():
            parameters[name].copy_(weight)
        return bool(self.weights)


def reestimate(model: nn.Module, batches: Iterable[Any], run_step: Callable[[Any], None]) -> None:
    """Recomputes the running statistics of every BatchNorm layer and branch as plain means over training steps.

    Args:
        model: its running statistics are replaced; in train mode.
        batches: what ``run_step`` takes, one after the other.
        run_step: makes the forward passes of a training step, each branch seeing what it sees in training.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            # torch's cumulative average, whose first batch replaces what was there. Until then, and not after a
            # reset, the old statistics serve attacks that run in eval mode.
            norm.momentum = None
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()
        for batch in batches:
            run_step(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
