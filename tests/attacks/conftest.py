"""What tests of searches share: planted mistakes, and networks with images that they get right."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robusteval.randomness import Stream

_NUMBERS = count()
Case = tuple[nn.Module, Tensor, Tensor, Tensor]
"""A network, images, its predictions as labels, and the images' numbers."""


class Linear(nn.Module):
    """Logits that are linear in a 3x4x4 image; with two classes, the boundary is a hyperplane."""

    def __init__(self, classes: int, faint: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(Stream.of(4).normal(torch.arange(classes), 48))
        self.weight.data[:, ::7] *= faint

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


class Smooth(nn.Module):
    """A small network with BatchNorm and curved boundaries, which computes in float64."""

    def __init__(self, bend: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(2)
        layers = (nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), bend, nn.Flatten(), nn.Linear(96, 5))
        self.net = nn.Sequential(*layers).double()
        self.net[4].weight.data *= 3

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.double())
        return logits


def _case(model: nn.Module, n: int, *, size: int, spread: float) -> Case:
    index = torch.arange(100, 100 + n)
    x = (0.5 + spread * (Stream.of(6).uniform(index, 3, size, size) - 0.5)).clamp(0, 1)
    with torch.no_grad():
        return model, x, model.eval()(x).argmax(dim=1), index


def _linear(classes: int, n: int, *, spread: float, faint: float = 1.0) -> Case:
    return _case(Linear(classes, faint), n, size=4, spread=spread)


def _smooth(n: int, *, spread: float, bend: nn.Module | None = None) -> Case:
    return _case(Smooth(bend or nn.Tanh()), n, size=8, spread=spread)


@pytest.fixture(scope="session")
def linear() -> Callable[..., Case]:
    """Makes a linear network and images around grey, over ``spread``; every seventh pixel weighs ``faint`` as much."""
    return _linear


@pytest.fixture(scope="session")
def smooth() -> Callable[..., Case]:
    """Makes a curved network and images around grey, over ``spread``."""
    return _smooth


def _planted(subject: Any, old: str, new: str) -> Any:
    """The class or function from a copy of its module in which a piece of the text is another."""
    source = inspect.getsource(importlib.import_module(subject.__module__))
    if source.count(old) != 1:  # no AssertionError: that is what a test of a mutant expects
        raise ValueError(f"{old!r} is {source.count(old)} times in {subject.__module__}")
    module = types.ModuleType(f"{subject.__module__}_planted{next(_NUMBERS)}")
    sys.modules[module.__name__] = module  # dataclasses look types up there
    exec(compile(source.replace(old, new), module.__name__, "exec"), module.__dict__)
    return getattr(module, subject.__name__)


@pytest.fixture(scope="session")
def planted() -> Callable[[Any, str, str], Any]:
    return _planted
