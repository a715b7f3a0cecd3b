"""Networks of other packages by name, behind our input: ``timm:NAME``, ``torchvision:NAME``, ``robustbench:NAME``.

They are built with fresh weights and never download any: weights come from a checkpoint of the user's, through
`robusteval.models.weights`. Images reach a network as they are, or enlarged with ``resize``; attacks and corruptions
act on the images before that.
"""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.errors import UserError
from robusteval.models.layers import NORMALIZATIONS, Normalization, Normalize


class Found(NamedTuple):
    """A network of another package; the other fields are those of `External`."""

    network: nn.Module
    constants: tuple[str, ...] = ()
    unused: str = ""


class Loaded(NamedTuple):
    """What `External.completed` gives: a state dict that fits, and lines on what was done to it."""

    state: Mapping[str, Tensor]
    notes: list[str]


class External(nn.Module):
    """A network of another package that takes images in [0, 1].

    Args:
        network: its input are normalised images.
        normalization: applied to the pixels first.
        resize: height and width that images are brought to (bilinear); None leaves them as they are.
        constants: keys of the network that checkpoints may lack: what it was built with is right.
        unused: a pattern of keys that checkpoints may hold and the network never reads.
    """

    def __init__(
        self,
        network: nn.Module,
        normalization: Normalization,
        *,
        resize: int | None = None,
        constants: Iterable[str] = (),
        unused: str = "",
    ) -> None:
        super().__init__()
        self.resize = resize
        self.normalize = Normalize(normalization)
        self.network = network
        self.constants, self.unused = tuple(constants), unused

    def forward(self, x: Tensor) -> Tensor:
        """The network's output for images (B, 3, H, W) in [0, 1]."""
        if self.resize is not None and x.shape[2:] != (self.resize, self.resize):
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bilinear", align_corners=False)
        out: Tensor = self.network(self.normalize(x))
        return out

    def completed(self, state: Mapping[str, Tensor]) -> Loaded:
        """The state with constants that it lacks, and without what the network never reads.

        Names that begin with ``model.`` in the network may lack that: a prefix of all keys was taken for a wrapper's.
        """
        own = self.network.state_dict()
        state = {_within(key, own): tensor for key, tensor in state.items()}
        missing = {key: own[key] for key in self.constants if key not in state}
        extra = [key for key in state if key not in own and re.fullmatch(self.unused, key)]
        notes = []
        if missing:
            notes.append(f"not in the checkpoint, so as the network was built: {', '.join(missing)}")
        if extra:
            notes.append(f"{len(extra)} tensors of the checkpoint that the network never reads (first {extra[0]})")
        return Loaded({key: tensor for key, tensor in state.items() if key not in extra} | missing, notes)


def _within(key: str, own: Mapping[str, Tensor]) -> str:
    """The key, with a beginning that it lost."""
    return f"model.{key}" if key not in own and f"model.{key}" in own else key


def is_external(name: str) -> bool:
    """Whether the name is one of another package's network."""
    return name.partition(":")[0] in _MAKERS and ":" in name


def normalises_itself(name: str) -> bool:
    """Whether the named network takes pixels in [0, 1] as it is, so that there is nothing to choose."""
    return name.startswith("robustbench:")


def wrappers(name: str) -> tuple[str, ...]:
    """Where else than usual the named network's checkpoints may hold their state dict.

    Some of RobustBench's hold two, ``last`` and ``best``; its loader takes the last.
    """
    return ("last",) if name.startswith("robustbench:") else ()


def make(name: str, *, classes: int, normalization: Normalization | None, resize: int | None) -> External:
    """The named network with fresh weights.

    Args:
        name: the package, a colon, and the package's name for it.
        classes: number of logits.
        normalization: of its input; None only if `normalises_itself`.
        resize: see `External`.

    Raises:
        UserError: the package is not installed or has no such network, or it cannot be built.
    """
    package, _, inner = name.partition(":")
    if normalises_itself(name) != (normalization is None):
        raise UserError(f"{name}: normalises pixels itself; leave the normalisation out")
    found = _MAKERS[package](inner, classes)
    return External(
        found.network,
        normalization or NORMALIZATIONS["none"],
        resize=resize,
        constants=found.constants,
        unused=found.unused,
    )


def built(name: str, how: Callable[[], nn.Module]) -> nn.Module:
    """What ``how`` builds.

    Raises:
        UserError: its error in one line, whatever it is.
    """
    try:
        # Some print as they are built, and standard output is for results.
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")  # of initialisations that will change: the weights come from a file
            return how()
    except Exception as error:  # other people's constructors raise every kind of error
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: cannot be built here: {type(error).__name__}: {text}") from error


def package(name: str, extra: str) -> ModuleType:
    """The package of that name, imported.

    Raises:
        UserError: it is not installed; what to type is said.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the package itself uses and torch will drop
            return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"{name}: is not installed; allowed after: pip install 'robusteval[{extra}]'") from None


def no_such(package: str, name: str, names: Iterable[str], listed: str) -> UserError:
    """The error for a name that the package does not have: too many to list, so where they are listed is said."""
    nearest = difflib.get_close_matches(name, list(names), n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"{package}: unknown network {name!r}{hint}; allowed: those of {listed}")


def _timm(name: str, classes: int) -> Found:
    timm = package("timm", "timm")
    if not timm.is_model(name):
        raise no_such("timm", name, timm.list_models(), "timm.list_models()")
    return Found(built(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, num_classes=classes)))


def _torchvision(name: str, classes: int) -> Found:
    from torchvision import models

    names = models.list_models(module=models)  # those for whole images: no detection, segmentation, video
    if name not in names:
        raise no_such("torchvision", name, names, "torchvision.models.list_models(module=torchvision.models)")
    return Found(built(f"torchvision:{name}", lambda: models.get_model(name, weights=None, num_classes=classes)))


def _robustbench(name: str, classes: int) -> Found:
    from robusteval.models.robustbench import find

    return find(name, classes)


_MAKERS: Mapping[str, Callable[[str, int], Found]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "robustbench": _robustbench,
}
