"""What is written about a run: typed, versioned, without a number that is not finite.

Accuracies and errors are fractions in [0, 1]; percent appears in renderers only.
A value that could not be had is None with a note, never 0.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = 1
"""Raised when a record's meaning changes; a reader refuses a newer one."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Scalar = str | int | Finite | bool
Trust = Literal["ok", "flagged", "unchecked", "plain"]
"""The verdict on a number: `Measurement`."""


class Record(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRef(Record):
    """Which images: name, split, number, content digest (`robusteval.data`), and whether the digest is a known one."""

    name: str
    split: Literal["train", "test"]
    n: int
    digest: str
    verified: bool


class Reason(Record):
    """Something to know before a number is trusted.

    Attributes:
        name: which check found it; the heading in the documentation that explains it.
        evidence: what was seen, with its numbers.
        text: one sentence: why that matters.
        level: a ``doubt`` flags the number; a ``remark`` does not.
    """

    name: str
    evidence: str
    text: str
    level: Literal["doubt", "remark"] = "doubt"

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}"


class Measurement(Record):
    """One number with its uncertainty, its place and its trust verdict.

    Attributes:
        task, metric: e.g. ``pgd``, ``robust_accuracy``.
        value: a fraction in [0, 1] for accuracies; None when it could not be measured (``note`` says why).
        unit: ``fraction``: renderers show percent; ``number``: distances, cosines, counts, shown as they are.
        n: independent samples behind the value (images, not image-corruption pairs).
        low, high: 95 % interval (method: `robusteval.stats`).
        where: what distinguishes it, e.g. branch, attack_branch, corruption, severity, norm, epsilon, steps.
        trust: ``ok``: the checks of `robusteval.attacks.doubts` found no doubt; ``flagged``: they did; ``unchecked``:
            they did not run, and the number awaits them, because an attack made it; ``plain``: a count or a mean that
            no attack made, or no number, so that there is nothing to check.
        reasons: what they found.
        outcomes: key of its per-sample outcomes in the task's ``.npz``, if they were stored.
        passes: forward and backward passes of an attack, per image, if it is one's number.
    """

    task: str
    metric: str
    value: Finite | None
    n: int
    unit: Literal["fraction", "number"] = "fraction"
    low: Finite | None = None
    high: Finite | None = None
    where: dict[str, Scalar] = {}
    trust: Trust = "unchecked"
    reasons: tuple[Reason, ...] = ()
    note: str = ""
    outcomes: str | None = None
    passes: Finite | None = None

    # After: what looks at the fields before keeps records from being made of JSON directly, a third of reading them.
    @model_validator(mode="after")
    def _plain(self) -> Measurement:
        """Older records call plain numbers unchecked, and tasks need not say which theirs are."""
        if self.trust == "unchecked" and (self.n == 0 or not _attacked(self)):
            self.__dict__["trust"] = "plain"  # frozen, but nobody has it yet
        return self


def _attacked(number: Measurement) -> bool:
    """Whether it is a number that an attack made: one that a better attack would lower."""
    return "robust" in number.metric or "attack_branch" in number.where or "made_on" in number.where


class Provenance(Record):
    """What produced the record."""

    robusteval: str
    commit: str | None
    python: str
    packages: dict[str, str]
    platform: str
    cpu: str
    device: str
    threads: int
    precision: str
    created: str
    command: tuple[str, ...]


class Cost(Record):
    """What training cost (totals over the run, resumed parts included).

    Attributes:
        wall_s: seconds by phase: ``train`` (all of the loop), of which ``attack`` and ``data``; ``eval``.
        images: training images seen (epochs x images per epoch).
        forward, backward: samples passed forward/backward through each branch.
        flops: floating-point operations of convolutions and matrix products, 2 per multiply-add, counted.
        peak_memory_bytes: device memory allocated (GPU) or resident set (CPU), the highest seen; None if unknown.
    """

    wall_s: dict[str, Finite]
    images: int
    forward: dict[str, int]
    backward: dict[str, int]
    flops: int
    peak_memory_bytes: int | None
    device: str
    threads: int
    precision: str


class Epoch(Record):
    """The means of one epoch's logged scalars, and the learning rate at its end."""

    epoch: int
    logs: dict[str, Finite]
    lr: Finite


class Snapshot(Record):
    """Weights kept on the way: after how many epochs, and what training had cost by then."""

    epoch: int
    weights_sha256: str
    cost: Cost


class Run(Record):
    """One cell: a method trained on a data set with an architecture and a seed.

    Attributes:
        teacher: id of the run whose network this one learnt from; what that cost is not in ``cost``.
        snapshots: weights kept on the way, in order of epochs; the last epoch's are the run's own.
    """

    schema_version: int = SCHEMA
    id: str
    label: str
    method: str
    options: dict[str, Any]
    training: dict[str, Any]
    dataset: str
    architecture: str
    seed: int
    status: Literal["running", "done", "failed"]
    branches: tuple[str, ...]
    deployed: str
    parameters: int
    train_data: DataRef
    teacher: str | None = None
    cost: Cost | None = None
    weights_sha256: str | None = None
    snapshots: tuple[Snapshot, ...] = ()
    provenance: Provenance
    error: str | None = None


class TaskRecord(Record):
    """The measurements of one task on one run's weights: the final ones, or those after ``epoch`` epochs.

    Attributes:
        awaits: methods whose runs beside this one the task looked for in vain; it is measured anew when there is one.
    """

    schema_version: int = SCHEMA
    task: str
    version: int
    key: str
    options: dict[str, Any]
    test_data: DataRef
    weights_sha256: str
    epoch: int | None = None
    measurements: tuple[Measurement, ...]
    awaits: tuple[str, ...] = ()
    wall_s: Finite
    provenance: Provenance

    @model_validator(mode="after")
    def _awaiting(self) -> TaskRecord:
        """Older records say so in the notes of their measurements only."""
        if "awaits" not in self.model_fields_set:
            notes = [m.note for m in self.measurements if m.note]
            self.__dict__["awaits"] = tuple(sorted({found[1] for note in notes if (found := _ABSENT.match(note))}))
        return self


_ABSENT = re.compile(r"there is no run of method (\S+) with ")
