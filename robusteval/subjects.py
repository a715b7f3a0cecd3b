"""A caller's networks made ready to be judged: copies in eval mode, one a branch, that take what tasks feed them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.jit._trace import TopLevelTracedModule

from robusteval.branches import MAIN, branch_names, keep_branch
from robusteval.errors import UserError
from robusteval.method import TRAINING_ONLY
from robusteval.tasks.predict import logits, to_input

Model = nn.Module | Mapping[str, nn.Module]
"""A network, with BatchNorm branches or without, or networks by branch name."""

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class Contiguous(nn.Module):
    """A network that needs its images contiguous, as one that flattens features with ``view`` does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """The network's output."""
        out: Tensor = self.network(x.contiguous())
        return out


class Subjects(NamedTuple):
    """Networks to be judged by branch name, and lines on what was done to them."""

    models: dict[str, nn.Module]
    notes: tuple[str, ...]


def copies(model: Model, device: torch.device) -> Subjects:
    """A copy of each branch's network on the device and in eval mode: nothing that tasks do reaches the caller's.

    Raises:
        UserError: not a network, no network, or one that cannot be copied or put into eval mode.
    """
    given = model if isinstance(model, Mapping) else {MAIN: model}
    if not given:
        raise UserError("model: no network; allowed: a torch.nn.Module, or branch names with one each")
    models: dict[str, nn.Module] = {}
    notes = []
    for name, network in given.items():
        if not isinstance(network, nn.Module) or not isinstance(name, str) or not name:
            raise UserError(
                f"model: {name!r} is a {type(network).__name__}; allowed: a torch.nn.Module, or names with one each"
            )
        while isinstance(network, _WRAPPERS):
            network = network.module
        if not hasattr(network, "training"):
            raise UserError(
                f"{name}: frozen TorchScript has no train and eval mode; allowed: the module before torch.jit.freeze"
            )
        if network.training and isinstance(network, TopLevelTracedModule):
            raise UserError(
                f"{name}: was traced in train mode, which a trace keeps; allowed: torch.jit.trace after .eval()"
            )
        if network.training:
            notes.append(f"{name}: was in train mode; a copy is judged in eval mode")
        own = _copy(network, name)
        if TRAINING_ONLY in own._modules:
            delattr(own, TRAINING_ONLY)
        own = own.to(device).eval()
        branches = branch_names(own)
        if len(branches) == 1:
            models[name] = own
        elif isinstance(model, Mapping):
            raise UserError(f"{name}: has BatchNorm branches ({', '.join(branches)}) itself; give it alone")
        else:
            models |= {branch: keep_branch(own, branch) for branch in branches}
    return Subjects(models, tuple(notes))


def _copy(network: nn.Module, name: str) -> nn.Module:
    """A copy that shares nothing with the network."""
    try:
        with torch.no_grad():  # else TorchScript's copies of weights hang on the weights, which would get gradients
            own = copy.deepcopy(network)
    except Exception as error:  # whatever a module holds may refuse to be copied in its own way
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{name}: cannot be copied: {reason}; allowed: what copy.deepcopy copies (a network whose layers keep "
            "tensors of an earlier pass can, after a call under torch.no_grad())"
        ) from error
    for copied, parameter in zip(own.parameters(), network.parameters(), strict=True):
        copied.requires_grad_(parameter.requires_grad)  # which TorchScript's copies forget
    return own


def width(model: nn.Module, images: Tensor, device: torch.device, *, where: str) -> int:
    """The number of logits that a network gives for the first of the images, uint8 (N, 3, H, W)."""
    x = to_input(images[:1], device)
    with torch.no_grad():
        try:
            out = model(x.contiguous())
        except Exception as error:  # other people's networks raise every kind of error
            raise _refused(where, x, error) from error
    if not isinstance(out, Tensor) or out.ndim != 2:
        shown = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UserError(f"{where}: the network's output is {shown}; allowed: logits (B, classes)")
    return out.shape[1]


def tried(model: nn.Module, images: Tensor, device: torch.device, *, classes: int, where: str) -> nn.Module:
    """The network, in the form in which it takes images as tasks feed them (channels last in memory).

    Args:
        model: the network.
        images: uint8 (N, 3, H, W).
        device: where the network is.
        classes: number of logits that there have to be.
        where: what it is, for errors.

    Raises:
        UserError: it fails on them in either memory format, or gives no finite logits of so many classes.
    """
    x = to_input(images, device)
    first: Exception | None = None
    for form in (model, Contiguous(model).eval()):
        try:
            logits(form, x, classes=classes, where=where)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - other people's networks raise every kind of error
            first = first or error
        else:
            return form
    assert first is not None
    raise _refused(where, x, first) from first


def _refused(where: str, x: Tensor, error: Exception) -> UserError:
    """The error for a network that fails."""
    text = " ".join(str(error).split())[:200]
    return UserError(
        f"{where}: the network fails on float32 images {tuple(x.shape)} in [0, 1]: {type(error).__name__}: {text}"
    )
