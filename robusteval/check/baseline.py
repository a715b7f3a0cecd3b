"""What the gate compares: the numbers of a suite with what every single image gave them, small enough to commit.

The numbers measured now have the same form as those of the file, so that the file is a view of runs like any other:
`robusteval.check.collect` makes both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from robusteval.check.packing import unpack
from robusteval.errors import UserError
from robusteval.manifest import replace
from robusteval.options import Count, NonNegative, Positive, Probability, Whole
from robusteval.records import Finite, Provenance, Record, Scalar, Trust

SCHEMA = 1
"""Raised when the meaning of a baseline file changes; a reader refuses a newer one."""

KINDS = ("clean", "corruption", "attack")
POINT = 0.01
"""The tolerated drop where nothing else is said: a percentage point."""

FALSE_ALARMS = 0.01
"""How often, at most, the gate may turn red over code that trains as well as before."""

GARBLED = "restore it, or delete it and write it anew with `--update`"
"""What to do about a file that is no baseline: merged by hand, most often, or another file."""

WIDE = 120
"""Characters of a line of the file; what has lines of its own inside is broken up, whatever its length."""


class Quantity(Record):
    """What a number measures. Two numbers are compared only if nothing of this differs.

    Attributes:
        images, n: the digest of the test set, and how many of its images, from the first.
        parts: how often each image is judged: 1, or its corrupted versions.
    """

    kind: Literal["clean", "corruption", "attack"]
    task: str
    metric: str
    where: dict[str, Scalar]
    version: int
    options: dict[str, Any]
    dataset: str
    images: str
    n: Count
    parts: Count = 1


class Number(Record):
    """A quantity of one network, or of its trainings with several seeds.

    Attributes:
        values: by seed.
        trust: the worst verdict of all seeds.
        outcomes: by seed, `robusteval.check.packing`; the mean over images is the value.
    """

    values: Annotated[tuple[Probability, ...], Field(min_length=1)]
    trust: Trust
    outcomes: tuple[str, ...]

    def scores(self, quantity: Quantity) -> npt.NDArray[Any]:
        """What every image gave: (seeds, n) booleans or, for images of several parts, float64."""
        return np.stack([unpack(one, quantity.n, quantity.parts) for one in self.outcomes])


class CellCost(Record):
    """What one training counted: samples through each branch, and floating-point operations."""

    forward: dict[str, int]
    backward: dict[str, int]
    flops: int


class Cell(Record):
    """A configuration of a suite: its trainings with all seeds.

    Attributes:
        train_images: the digest of the training set and its number of images.
        weights: digests of the trained weights by seed, to tell the very same network.
        cost: by seed; None unless it was counted.
        wall: seconds of training over those of the calibration loop, by seed, the processor's on a CPU; None where
            that did not run, or the machine was not equally fast before and after.
        numbers: by branch and quantity.
        failed: by seed: why there are no numbers. Never in a file.
    """

    dataset: str
    architecture: str
    label: str
    method: str
    options: dict[str, Any]
    training: dict[str, Any]
    train_images: tuple[str, int]
    seeds: tuple[Whole, ...]
    weights: tuple[str | None, ...]
    cost: tuple[CellCost | None, ...]
    wall: tuple[Finite | None, ...]
    numbers: dict[str, dict[str, Number]]
    failed: dict[str, str] = Field(default_factory=dict)


class Made(Record):
    """What produced a baseline; no name of a folder or a user."""

    robusteval: str
    commit: str | None
    python: str
    packages: dict[str, str]
    cpu: str
    device: str
    threads: int
    precision: str
    created: str

    @classmethod
    def of(cls, provenance: Provenance) -> Made:
        """The part of a run's provenance that may be published."""
        return cls(**provenance.model_dump(include=set(cls.model_fields)))


class Baseline(Record):
    """Everything the gate knows of a suite.

    Attributes:
        false_alarms: the probability, at most, of a red gate over code that trains as well as before.
        tolerance: drops that nobody minds, as fractions, by quantity or by its kind; see `tolerated`.
        wall_tolerance: by which share the calibrated time of training may rise without a warning.
    """

    schema_version: int = SCHEMA
    suite: str
    false_alarms: Annotated[Positive, Field(lt=0.5)] = FALSE_ALARMS
    tolerance: dict[str, Annotated[NonNegative, Field(lt=1)]] = Field(
        default_factory=lambda: dict.fromkeys(KINDS, POINT)
    )
    wall_tolerance: Positive = 0.5
    made: Made
    quantities: dict[str, Quantity]
    cells: dict[str, Cell]

    @model_validator(mode="after")
    def _consistent(self) -> Baseline:
        for name, branch, key, number in self.numbers():
            cell = self.cells[name]
            if key not in self.quantities:
                raise ValueError(f"cells.{name}.numbers.{branch}.{key}: not in quantities")
            if not len(number.values) == len(number.outcomes) == len(cell.seeds):
                raise ValueError(f"cells.{name}.numbers.{branch}.{key}: not one value and outcome a seed")
            quantity = self.quantities[key]
            try:
                means = number.scores(quantity).mean(axis=1)
            except ValueError as error:
                raise ValueError(f"cells.{name}.numbers.{branch}.{key}: {error}") from None
            if np.abs(means - number.values).max() > 1e-9:
                raise ValueError(f"cells.{name}.numbers.{branch}.{key}: a value is not the mean of its outcomes")
        for name, cell in self.cells.items():
            if not len(cell.seeds) == len(cell.weights) == len(cell.cost) == len(cell.wall):
                raise ValueError(f"cells.{name}: not one digest of weights, cost and wall a seed")
        return self

    def numbers(self) -> Iterator[tuple[str, str, str, Number]]:
        """Cell, branch, quantity and number, in order."""
        for name, cell in self.cells.items():
            for branch, numbers in cell.numbers.items():
                for key, number in numbers.items():
                    yield name, branch, key, number

    def tolerated(self, key: str) -> float:
        """The tolerated drop of a quantity: its own, else that of its kind, else a point."""
        return self.tolerance.get(key, self.tolerance.get(self.quantities[key].kind, POINT))


def write(path: Path, baseline: Baseline) -> None:
    """Writes the file, whole or not at all."""
    assert not any(cell.failed for cell in baseline.cells.values()), "a failed cell is no baseline"
    replace(path, text(baseline).encode())


def text(baseline: Baseline) -> str:
    """The file's text: JSON, a number a line."""
    return _written(baseline.model_dump(mode="json", exclude={"cells": {"__all__": {"failed"}}}), "") + "\n"


def _written(value: object, indent: str) -> str:
    """A JSON value; tables of tables on lines of their own."""
    line = json.dumps(value, allow_nan=False, ensure_ascii=False)
    if not isinstance(value, Mapping) or not value:
        return line
    if not any(isinstance(one, Mapping) for one in value.values()) and (len(line) <= WIDE or "outcomes" in value):
        return line
    inner = indent + " "
    lines = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_written(one, inner)}" for key, one in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def read(path: Path) -> Baseline:
    """The baseline of a file.

    Raises:
        UserError: it is not there, is no baseline, or was written by a newer robusteval.
    """
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        hint = "; `robusteval check --update` writes one" if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"--baseline {path}: cannot be read: {error.strerror}{hint}") from error
    except ValueError as error:
        raise UserError(f"--baseline {path}: not JSON: {error}; {GARBLED}") from None
    if not isinstance(raw, dict):
        raise UserError(f"--baseline {path}: not a baseline: no table; {GARBLED}")
    version = raw.get("schema_version")
    if isinstance(version, int) and version > SCHEMA:
        raise UserError(
            f"--baseline {path}: written by a newer robusteval (schema {version}); upgrade robusteval to read it; "
            f"this one reads schemas up to {SCHEMA}"
        )
    try:
        return Baseline.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        text = f"{place and place + ': '}{first['msg'].removeprefix('Value error, ')}"
        raise UserError(f"--baseline {path}: not a baseline: {text}; {GARBLED}") from None
