"""Small images and networks whose scores are known."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.data.sets import ImageSet
from robusteval.randomness import Stream
from robusteval.tasks.task import Context

CLASSES = 5
SPACING = 40
"""Grey levels between the labels that are written into a pixel."""


class Reads(nn.Module):
    """Reads the label from the first pixel, rounded to the nearest written one: always right, no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, 0, 0] * 255 / SPACING).round().long()
        return F.one_hot(label.clamp(0, CLASSES - 1), CLASSES).float()


class Constant(nn.Module):
    """Always answers class 2."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), CLASSES, device=x.device) + 0 * x.flatten(1).sum(1, keepdim=True)
        logits[:, 2] += 1
        return logits


class Matches(nn.Module):
    """The class whose pattern the image correlates with most: linear in the image, logits of a few units."""

    def __init__(self, patterns: Tensor) -> None:
        super().__init__()
        self.patterns = nn.Parameter(patterns.flatten(1) / 100)

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.patterns.T


class Line(nn.Module):
    """Linear: the logit of class 0 exceeds that of class 1 by the inner product with a weight; no others matter."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.flatten())

    def forward(self, x: Tensor) -> Tensor:
        lead = (x - 0.5).flatten(1) @ self.weight
        return torch.stack([lead / 2, -lead / 2, *[torch.full_like(lead, -99)] * (CLASSES - 2)], dim=1)


class Counting:
    """A `Progress` that remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.done = 0

    def begin(self, stage: str, total: int) -> None:
        self.stages.append((stage, total))

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount


class Notes:
    """A draft in memory that ends the work after ``survive`` notes."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, npt.NDArray[Any]]] = {}
        self.survive = 1000

    def read(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        return self.kept.get(key)

    def write(self, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        if self.survive == 0:
            raise KeyboardInterrupt
        self.survive -= 1
        self.kept[key] = {name: value.copy() for name, value in arrays.items()}


def _patterns() -> Tensor:
    """One pattern of +-1 per class, (5, 3, 32, 32), smooth enough to survive a blur."""
    coarse = Stream.of(11).uniform(torch.arange(CLASSES), 3, 4, 4) - 0.5
    return F.interpolate(coarse, size=32, mode="nearest").sign()


def _network() -> nn.Module:
    """Convolutions, BatchNorm with statistics of its own, dropout; a frozen parameter."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 64, CLASSES),
    )
    model[1].running_mean.uniform_(-0.1, 0.1)
    model[5].bias.requires_grad_(False)
    return model.train()


@pytest.fixture
def data() -> ImageSet:
    """53 images: their class's pattern at low contrast plus noise; the first pixel tells the label."""
    index = torch.arange(53)
    labels = Stream.of(12).integers(index, CLASSES)
    noise = Stream.of(13).uniform(index, 3, 32, 32) - 0.5
    values = 0.5 + 0.1 * _patterns()[labels] + 0.4 * noise
    images = (values * 255).round().to(torch.uint8)
    images[:, 0, 0, 0] = (labels * SPACING).to(torch.uint8)
    return ImageSet("cifar10-sample", "test", images, labels, ("a", "b", "c", "d", "e"), "0" * 64, False)


@pytest.fixture
def network() -> Callable[[], nn.Module]:
    return _network


@pytest.fixture
def known() -> Mapping[str, nn.Module]:
    """Networks with known scores, as if they were branches."""
    return {"reads": Reads(), "constant": Constant(), "linear": Matches(_patterns())}


@pytest.fixture
def context() -> Context:
    return Context(torch.device("cpu"), seed=3, deployed="main", batch_size=16)


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def line() -> Callable[[int], nn.Module]:
    """A `Line` for 8 x 8 images by its number; all of them have much in common."""
    common = Stream.of(21).normal(torch.arange(1), 192)[0]
    return lambda number: Line((common + 0.7 * Stream.of(22).normal(torch.tensor([number]), 192)[0]) / 8)


@pytest.fixture
def grains() -> ImageSet:
    """90 images of 8 x 8 pixels that keep a distance of 0.3 to black and white; most labels are what `line` 0 says."""
    index = torch.arange(90)
    images = ((0.3 + 0.4 * Stream.of(23).uniform(index, 3, 8, 8)) * 255).round().to(torch.uint8)
    common = Stream.of(21).normal(torch.arange(1), 192)[0]
    labels = ((images.flatten(1) / 255 - 0.5) @ common < 0.8 * Stream.of(24).normal(index)).long()
    return ImageSet("cifar10-sample", "test", images, labels, ("a", "b", "c", "d", "e"), "0" * 64, False)


@pytest.fixture
def mutant() -> Callable[[str, str, str], types.ModuleType]:
    """A module from a copy of its source in which a piece of the text is another: a planted mistake."""

    def planted(name: str, old: str, new: str) -> types.ModuleType:
        source = inspect.getsource(importlib.import_module(name))
        if source.count(old) != 1:  # no AssertionError: that is what a test of a mutant expects
            raise ValueError(f"{old!r} is {source.count(old)} times in {name}")
        module = types.ModuleType(f"{name}_mutant{abs(hash((old, new)))}")
        sys.modules[module.__name__] = module  # pydantic looks types up there
        exec(compile(source.replace(old, new), module.__name__, "exec"), module.__dict__)
        return module

    return planted
