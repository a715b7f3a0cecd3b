"""Train and eval mode, and precision, for a while; every flag comes back (``train()`` would wake frozen teachers)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

AttackMode = Literal["eval", "train", "train-frozen-stats"]
"""The statistics BatchNorm uses while an adversarial example is sought: the running ones; those of the batch,
updating the running ones as a training pass would; those of the batch, updating nothing."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in which every module is in eval mode: BatchNorm uses running statistics and updates none."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, flag in before:
            module.training = flag


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """A context in which BatchNorm layers in train mode use batch statistics without updating the running ones."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm, norm.track_running_stats) for norm in norms]
    try:
        for norm, _ in before:
            norm.track_running_stats = False
        yield
    finally:
        for norm, flag in before:
            norm.track_running_stats = flag


@contextmanager
def without_graph() -> Iterator[None]:
    """A context without gradients whose half-precision copies of weights serve nothing after it.

    Under autocast, torch keeps a weight's copy for later passes; one made without a graph would cut the weight off from
    the loss of a training pass that follows in the same context (some versions of torch).
    """
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


def attack_mode(model: nn.Module, mode: AttackMode) -> AbstractContextManager[None]:
    """The context for an attack; ``train`` leaves the model as it is. Both train modes need one in train mode."""
    if mode == "eval":
        return evaluating(model)
    assert model.training, f"mode {mode!r} attacks a network as it is being trained"
    return frozen_statistics(model) if mode == "train-frozen-stats" else nullcontext()


@contextmanager
def true_float32() -> Iterator[None]:
    """A context without TensorFloat-32 and its like: torch uses it in GPU convolutions unless told otherwise."""
    backends = torch.backends
    units = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)  # type: ignore[attr-defined]  # submodules that torch's stub lacks
    before = [unit.fp32_precision for unit in units]
    try:
        for unit in units:
            unit.fp32_precision = "ieee"
        yield
    finally:
        for unit, precision in zip(units, before, strict=True):
            unit.fp32_precision = precision
