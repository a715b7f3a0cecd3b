"""What a network computes on its way to the logits: outputs of named layers, and the classifier's input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robusteval.branches import BranchNorm
from robusteval.errors import UserError
from robusteval.method import TRAINING_ONLY


def _layers(model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> list[str]:
    """Names of the layers of a kind in registration order; without branches and parts that only training needs."""
    inside = {id(part) for norm in model.modules() if isinstance(norm, BranchNorm) for part in norm.aux_bn.modules()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kind) and id(module) not in inside and not name.startswith(TRAINING_ONLY)
    ]


def classifier(model: nn.Module) -> str:
    """The name of the last linear layer, whose input is the penultimate representation.

    Raises:
        UserError: there is no linear layer.
    """
    names = _layers(model, nn.Linear)
    if not names:
        raise UserError(f"{type(model).__name__}: has no linear layer, so no penultimate features")
    return names[-1]


def last_stage(model: nn.Module) -> tuple[str, ...]:
    """The BatchNorm layers of the last residual stage that a rectifier follows, in order.

    For ResNet-18 ``layer4.{0,1}.bn{1,2}`` and for wide networks ``block3.layer.*.bn{1,2}`` with the final ``bn1``:
    the layers that AR-AT regularises (Waseda et al., 2024, arXiv:2402.14648, reference code). Projections of
    shortcuts do not belong to them. A network without stages gives its last BatchNorm layer.
    """
    norms = [name for name in _layers(model, _BatchNorm) if "shortcut" not in name.lower()]
    stages = [name.split(".")[0] for name in norms if "." in name]
    if not stages:
        return tuple(norms[-1:])
    last = stages[-1]
    children = list(model._modules)
    after = set(children[children.index(last) :])
    return tuple(name for name in norms if name.split(".")[0] in after)


@contextmanager
def captured(model: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """A context that keeps the output of each named layer in its latest forward pass, with its graph."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept[name] = output

        return model.get_submodule(name).register_forward_hook(hook)

    handles = [keep(name) for name in layers]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def penultimate(model: nn.Module) -> Iterator[list[Tensor]]:
    """A context that collects the classifier's input (B, D), with its graph, of every forward pass."""
    kept: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0])

    handle = model.get_submodule(classifier(model)).register_forward_pre_hook(hook)
    try:
        yield kept
    finally:
        handle.remove()
