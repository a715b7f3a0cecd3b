"""A problem that a tiny network learns in a second, as a suite with its baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from robusteval import models, planning
from robusteval.check import calibration
from robusteval.check.baseline import Baseline, Cell, CellCost, Made, Number, Quantity
from robusteval.check.packing import pack
from robusteval.cli import main
from robusteval.data import load

CLASSES, SIDE = 4, 16
SUITE = """
name = "toy"
training = { epochs = 8, batch_size = 50, lr = 0.05, precision = "float32", crop_padding = 0 }
tasks = [{ name = "clean" }, { name = "pgd", steps = 2, epsilon = "12/255", step = "8/255", checked = 0, limit = 250 }]

[[methods]]
name = "standard"

# An attack so strong that what one branch cannot withstand is not what the other cannot.
[[methods]]
name = "advprop"
targeted = false
steps = 3
epsilon = "24/255"
step_size = "10/255"
training = { epochs = 16 }
"""


class Tiny(nn.Module):
    """Two convolutions; for images of 16 x 16 and more."""

    def __init__(self, *, classes: int, normalization: object = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 4, stride=4, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 2, stride=2, bias=False), nn.BatchNorm2d(16)
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return self.linear(adaptive_avg_pool2d(x, 2).flatten(1))


def images(split: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patterns under noise; half of the test images are mirrored and none of the training images."""
    patterns = np.random.default_rng(9).choice([-1, 1], (CLASSES, 1, SIDE, SIDE))
    rng = np.random.default_rng(0 if split == "train" else 1)
    labels = rng.integers(0, CLASSES, n)
    strength = rng.uniform(0.02, 0.12, (n, 1, 1, 1))
    x = 0.5 + strength * patterns[labels] + 0.06 * rng.normal(size=(n, 3, SIDE, SIDE))
    if split == "test":
        x[::2] = x[::2, ..., ::-1]
    return torch.from_numpy(np.clip(np.rint(255 * x), 0, 255).astype(np.uint8)), torch.from_numpy(labels)


def _load(name: str, split: str, **_: object):
    x, y = images(split, 400 if split == "train" else 500)
    known = load("cifar10-sample", split)
    return dataclasses.replace(known.first(len(y)), images=x, labels=y, classes=("a", "b", "c", "d"), digest=split * 8)


class Toy(NamedTuple):
    """The suite's file, the baseline of five seeds, and a folder with the trained cells of one seed."""

    suite: Path
    baseline: Path
    done: Path

    def check(self, *arguments: object, out: Path | None = None) -> int:
        """The exit code of ``robusteval check`` on the suite."""
        common = ["check", "--suite", self.suite, "--baseline", self.baseline, "--threads", 1]
        return main([str(one) for one in (*common, "--out", out or self.done, *arguments)])


@contextmanager
def toys() -> Iterator[None]:
    """The toy's images and network in the place of the sample's and ResNet-8."""
    tiny = dataclasses.replace(models.MODELS["resnet8"], make=Tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "MODELS", MappingProxyType({**models.MODELS, "resnet8": tiny}))
        patch.setattr(planning, "load", _load)
        # The loop of so small a network takes milliseconds, which the other processes of a busy machine disturb.
        patch.setattr(calibration, "AGREE", 1e9)
        yield


@pytest.fixture
def world() -> Iterator[None]:
    """See `toys`; for one test, since other tests of this process want the real ones."""
    with toys():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Toy:
    """The toy suite, trained with five seeds."""
    root = tmp_path_factory.mktemp("toy")
    made = Toy(root / "toy.toml", root / "baseline.json", root / "out")
    made.suite.write_text(SUITE)
    with toys():
        assert made.check("--update", "--quiet") == 0
    return made


@pytest.fixture
def toy(trained, world) -> Toy:
    """The trained toy suite, in its world."""
    return trained


@pytest.fixture(autouse=True)
def same_runtime():
    """Undoes what commands set for the process."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


@pytest.fixture
def tiny() -> Callable[[int], nn.Module]:
    """Makes networks with weights of a seed, in eval mode."""

    def make(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return Tiny(classes=CLASSES).eval()

    return make


MADE = {
    "robusteval": "0.1.0",
    "commit": None,
    "python": "3.11",
    "packages": {},
    "cpu": "some",
    "device": "cpu",
    "threads": 1,
    "precision": "float32",
    "created": "2026-01-01T00:00:00+00:00",
}


def baseline(
    numbers: dict[tuple[str, str, str], np.ndarray],
    *,
    cost: dict[str, list[tuple[dict[str, int], int]]] | None = None,
    wall: float | None = None,
    weights: str = "",
    trust: str = "unchecked",
    parts: int = 1,
    quantity: dict[str, object] | None = None,
    cell: dict[str, object] | None = None,
    failed: dict[str, str] | None = None,
) -> Baseline:
    """A baseline of outcomes (seeds, n) by cell, branch and key; the weights of seed s are ``weights`` and s."""
    cells: dict[str, Cell] = {}
    quantities: dict[str, Quantity] = {}
    for (name, branch, key), scores in numbers.items():
        seeds = len(scores)
        kind = "corruption" if parts > 1 else "attack" if key.startswith("PGD") else "clean"
        described = {"kind": kind, "task": key, "metric": "accuracy", "where": {"epsilon": "8/255"}, "version": 1}
        described |= {"options": {"steps": 5}, "dataset": "toy", "images": "ab" * 32, "n": scores.shape[1]}
        quantities[key] = Quantity(**(described | {"parts": parts} | (quantity or {})))
        values, outcomes = tuple(scores.mean(axis=1).tolist()), tuple(pack(one, parts) for one in scores)
        number = Number(values=values, trust=trust, outcomes=outcomes)
        known = {"dataset": "toy", "architecture": "net", "label": name, "method": "standard", "options": {"k": 1}}
        known |= {"training": {"epochs": 2}, "train_images": ("cd" * 32, 100), "seeds": range(seeds)}
        known |= {"weights": [f"{weights}{seed}" if weights else None for seed in range(seeds)]}
        costs = [CellCost(forward=passes, backward=passes, flops=flops) for passes, flops in (cost or {}).get(name, [])]
        known |= {"cost": costs or [None] * seeds, "wall": [wall] * seeds, "failed": failed or {}}
        before = cells[name].numbers if name in cells else {}
        cells[name] = Cell(
            **(known | (cell or {})), numbers={**before, branch: {**before.get(branch, {}), key: number}}
        )
    return Baseline(suite="toy", made=Made(**MADE), quantities=quantities, cells=cells)


@pytest.fixture(name="baseline")
def _baseline():
    return baseline
