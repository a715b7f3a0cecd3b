"""Cells: what a suite comes to when its tables are resolved against the registries."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from robusteval.config import MethodTable, Suite, TaskTable
from robusteval.data import DATASETS
from robusteval.errors import unknown
from robusteval.method import Method
from robusteval.methods import METHODS
from robusteval.models import MODELS
from robusteval.options import build
from robusteval.records import DataRef
from robusteval.tasks import TASKS, Task
from robusteval.training import Training

PROTOCOL = 1
"""Raised when the same configuration would train or score otherwise: older runs are then not reused."""

_NO_INFLUENCE = ("checkpoint_seconds",)
"""Training options that do not change the weights."""


@dataclass(frozen=True)
class Cell:
    """A method trained on a data set with an architecture and a seed.

    Attributes:
        teacher: the cell whose network this one's method learns from.
    """

    label: str
    method: Method
    training: Training
    dataset: str
    architecture: str
    seed: int
    teacher: Cell | None = None

    def identity(self, data: DataRef) -> str:
        """The run's id: readable, and a digest of everything that decides the trained weights.

        Args:
            data: the training images.
        """
        training = {key: value for key, value in plain(self.training).items() if key not in _NO_INFLUENCE}
        decisive = {
            "protocol": PROTOCOL,
            "method": self.method.name,
            "options": plain(self.method),
            "training": training,
            "data": [data.digest, data.n],
            "architecture": self.architecture,
            "seed": self.seed,
        }
        if self.teacher is not None:
            decisive["teacher"] = self.teacher.identity(data)
        return f"{readable(self.dataset, self.architecture, self.method.name, self.seed)}-{digest(decisive)[:8]}"


def readable(dataset: str, architecture: str, method: str, seed: int) -> str:
    """What the ids of such runs begin with."""
    return re.sub("[^a-z0-9_-]", "_", f"{dataset}-{architecture}-{method}-s{seed}".lower())


def plain(options: Any) -> dict[str, Any]:
    """An options object as what JSON reads back (tuples become lists)."""
    table: dict[str, Any] = json.loads(json.dumps(asdict(options), allow_nan=False))
    return table


def digest(value: object) -> str:
    """The sha256 of a JSON value in one canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def task_key(task: Task, data: DataRef, weights_sha256: str) -> str:
    """The name of a task's record: the same task on the same images and weights is not done twice."""
    decisive = [PROTOCOL, task.name, task.version, plain(task), data.digest, data.n, weights_sha256]
    return f"{task.name}-{digest(decisive)[:12]}"


def expand(suite: Suite) -> tuple[Cell, ...]:
    """The cells of a suite, every option checked.

    Raises:
        UserError: an unknown name or key, a wrong type, a value out of range.
    """
    for dataset in suite.datasets:
        if dataset not in DATASETS:
            raise unknown(suite.source, "dataset", dataset, DATASETS)
    for architecture in suite.architectures:
        if architecture not in MODELS:
            raise unknown(suite.source, "architecture", architecture, MODELS)
    trained = [
        (label, _method(table, suite), _training(table, suite))
        for label, table in zip(_labels(suite.methods), suite.methods, strict=True)
    ]
    cells: list[Cell] = []
    for dataset, architecture in product(suite.datasets, suite.architectures):
        students = [
            Cell(*of_method, dataset=dataset, architecture=architecture, seed=seed)
            for of_method, seed in product(trained, suite.seeds)
        ]
        cells += _with_teachers(students, _training(None, suite))
    return tuple(cells)


def _with_teachers(students: list[Cell], training: Training) -> list[Cell]:
    """The cells of a data set and architecture with those they learn from, each before its first student.

    A teacher is trained as the suite says, without the overrides of its students, so that they can share it; where
    the suite lists the very same cell, that is the one.
    """
    ordered: list[Cell] = []
    early: list[Cell] = []  # listed teachers whose turn came with their first student

    def complete(cell: Cell) -> Cell:
        method = cell.method.teacher()
        if method is None:
            return cell
        own = replace(cell, label=f"{method.name} (teacher)", method=method, training=training)
        listed = [other for other in students if replace(other, label=own.label) == own]
        teacher = complete(listed[0] if listed else own)
        if teacher not in ordered:
            ordered.append(teacher)
            early.extend(listed[:1])
        return replace(cell, teacher=teacher)

    for student in students:
        cell = complete(student)
        if student in early:
            early.remove(student)
        else:
            ordered.append(cell)
    return ordered


def check(suite: Suite) -> None:
    """Refuses a suite with anything wrong in it. Call it before `narrowed`, which may leave out what makes it right.

    Raises:
        UserError: what `expand` and `tasks_of` refuse; a BatchNorm momentum for a branch that no method of the suite
            has, which is a slip of the pen.
    """
    cells = expand(suite)
    tasks_of(suite)
    known = {branch for cell in cells for branch in cell.method.branches}
    for cell in cells:
        momentum = cell.training.bn_momentum
        for name, _ in momentum if isinstance(momentum, tuple) else ():
            if name not in known:
                raise unknown(f"{suite.source}: training.bn_momentum", "branch", name, known)


def tasks_of(suite: Suite) -> tuple[Task, ...]:
    """The tasks of a suite, every option checked."""
    return tuple(make_task(table, suite.source) for table in suite.tasks)


def make_task(table: TaskTable, where: str) -> Task:
    """The task that a table describes; ``where`` names its source in errors."""
    if table.name not in TASKS:
        raise unknown(where, "task", table.name, TASKS)
    return build(TASKS[table.name], table.options, f"{where}: tasks.{table.name}")


def _method(table: MethodTable, suite: Suite) -> Method:
    """The method that a table describes."""
    if table.name not in METHODS:
        raise unknown(suite.source, "method", table.name, METHODS)
    return build(METHODS[table.name], table.options, f"{suite.source}: methods.{table.label or table.name}")


def _training(table: MethodTable | None, suite: Suite) -> Training:
    """The suite's training, with the overrides of a method if one is given."""
    if table is None:
        return build(Training, suite.training, f"{suite.source}: training")
    whose = f"methods.{table.label or table.name}.training" if table.training else "training"
    return build(Training, suite.training | table.training, f"{suite.source}: {whose}")


def _labels(tables: tuple[MethodTable, ...]) -> list[str]:
    """The labels: given ones, else the name, with the options where the name alone would not tell rows apart."""
    names = Counter(table.name for table in tables if not table.label)
    labels = []
    for table in tables:
        shown = table.options | table.training
        told = "".join(f" {key}={value}" for key, value in shown.items()) if names[table.name] > 1 else ""
        labels.append(table.label or table.name + told)
    return labels
