"""What each side has in a score: the number, what it is a number of, and what every image gave it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.comparison.sides import Side
from robusteval.errors import UserError
from robusteval.records import Measurement, TaskRecord
from robusteval.report.board.columns import Column, Identity, columns, identity, names
from robusteval.report.board.costs import cost_line
from robusteval.report.board.pairs import CLEAN, Sample, Samples
from robusteval.report.board.rows import Row
from robusteval.report.board.scores import Score, run_scores, worst
from robusteval.store import StoredRun

INDIFFERENT = ("limit", "checked")
"""Options of tasks that do not decide an image's outcome: how many images there are is told by n."""

Cell = tuple[tuple[str, Any], ...]
"""What distinguishes a corruption at a severity: the sorted items of ``where`` without the branch."""


class Basis(NamedTuple):
    """What a number is a number of.

    Attributes:
        task: its name.
        digest: of the test images.
        n: of them, from the first.
        version: of the task.
        options: of the task, names and values as JSON, without those that decide no outcome.
        cells: what a mean over corruptions is over; empty for other numbers.
    """

    task: str
    digest: str
    n: int
    version: int
    options: tuple[tuple[str, str], ...]
    cells: frozenset[Cell]


@dataclass(frozen=True)
class Reading:
    """A side's number in a column.

    Attributes:
        rows: the runs that have a value.
        asked: how many runs the side has.
        parts: the scores that were measured, of all rows: the column's own, or those that it is computed from.
        value: the mean over the rows; None without one.
        note: why there is none.
    """

    column: Column
    rows: tuple[Row, ...]
    asked: int
    parts: tuple[tuple[Row, Score], ...]
    value: float | None
    note: str

    @property
    def bases(self) -> frozenset[Basis]:
        """What the number is a number of; one for each part if all runs were judged alike."""
        return frozenset(_basis(row, score) for row, score in self.parts)

    @property
    def flagged(self) -> tuple[str, ...]:
        """The doubts about the number, if there are any."""
        if worst([score.trust for _, score in self.parts] or ["unchecked"]) != "flagged":
            return ()
        doubts = [str(reason) for _, score in self.parts for reason in score.reasons if reason.level == "doubt"]
        return tuple(dict.fromkeys(doubts)) or ("no reason was recorded",)


def shared_columns(first: Side, second: Side) -> tuple[dict[Identity, str], tuple[Column, ...]]:
    """The names and columns over the measurements of both sides: what is the same quantity has one column."""
    named = names(m for stored in (*first.runs, *second.runs) for task in stored.tasks for m in task.measurements)
    return named, tuple(column for column in columns(named) if column.kind != "error")


def rows_of(
    side: Side, named: Mapping[Identity, str], shown: Sequence[Column], known: Sequence[StoredRun]
) -> dict[str, tuple[Row, ...]]:
    """By branch, a row for each run that finished, or for each where none did; the side's own branch comes first.

    Args:
        side: the runs.
        named: see `shared_columns`.
        shown: the columns.
        known: runs among which teachers are looked up.
    """
    done = [stored for stored in side.runs if stored.run.status == "done"] or list(side.runs)
    plain = [stored.run for stored in known]
    scores = [run_scores(stored, named, shown) for stored in done]
    costs = [cost_line(stored.run, plain) for stored in done]
    branches = [side.branch, *(name for stored in done for name in (stored.run.deployed, *stored.run.branches))]
    return {
        branch: tuple(
            Row("run", stored, branch, own.get(branch, {}), cost, (stored.run.seed,))
            for stored, own, cost in zip(done, scores, costs, strict=True)
        )
        for branch in dict.fromkeys([*branches, *(name for own in scores for name in own)])
    }


def read(rows: Sequence[Row], column: Column) -> Reading:
    """What the rows of a side have in a column."""
    having = tuple(row for row in rows if row.value(column.key) is not None)
    keys = (CLEAN, column.source or "") if column.kind == "h_score" else (column.key,)
    parts = tuple((row, row.scores[key]) for row in having for key in keys if key in row.scores)
    values = [value for row in having if (value := row.value(column.key)) is not None]
    notes = dict.fromkeys(row.scores[column.key].note for row in rows if column.key in row.scores)
    note = "" if having else "; ".join(filter(None, notes))
    return Reading(column, having, len(rows), parts, fmean(values) if values else None, note)


def _basis(row: Row, score: Score) -> Basis:
    task = record(row, score)
    kept = {key: json.dumps(_ordered(value)) for key, value in task.options.items() if key not in INDIFFERENT}
    over = [identity(m)[2] for m in _cells(row, score) if "corruption" in m.where]
    digest, options = task.test_data.digest, tuple(sorted(kept.items()))
    return Basis(task.task, digest, score.n, task.version, options, frozenset(over))


def _ordered(value: Any) -> Any:
    """A list of options in one order: no outcome depends on the order in which corruptions are listed."""
    return sorted(value, key=str) if isinstance(value, list | tuple) else value


def record(row: Row, score: Score) -> TaskRecord:
    """The record that a measured score is from."""
    return next(task for task in row.stored.tasks if task.key == score.task_key)


def _cells(row: Row, score: Score) -> list[Measurement]:
    """The accuracies of the row's branch in the record that a score is from."""
    own = record(row, score).measurements
    return [m for m in own if m.metric == "accuracy" and m.where.get("branch", row.stored.run.deployed) == row.branch]


def cells(reading: Reading, name: str) -> list[dict[Cell, Measurement]]:
    """The accuracies of each run under one corruption, by severity and source."""
    runs = [_cells(row, score) for row, score in reading.parts]
    return [{identity(m)[2]: m for m in found if m.where.get("corruption") == name} for found in runs]


def corruptions(reading: Reading) -> list[str]:
    """The corruptions that a mean is over, in the order of the records."""
    every = [m.where.get("corruption") for row, score in reading.parts for m in _cells(row, score)]
    return [str(name) for name in dict.fromkeys(every) if name is not None]


class Outcomes:
    """Reads what single images gave a number; a file that cannot be read is remembered, not raised."""

    def __init__(self) -> None:
        self._samples = Samples()
        self._files: dict[tuple[str, str], Mapping[str, npt.NDArray[Any]]] = {}
        self._refused: list[UserError] = []

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Why files could not be read, each once."""
        return tuple(dict.fromkeys(map(str, [*(one.error for one in self._samples.unread), *self._refused])))

    def of(self, reading: Reading) -> Sample | None:
        """The sample behind a reading; None where outcomes are missing."""
        return self._samples.of(reading.rows, reading.column)

    def of_corruption(self, reading: Reading, name: str) -> npt.NDArray[Any] | None:
        """The scores (seeds, n) of the images under one corruption: bool at one severity, else shares of severities."""
        found = []
        for (row, score), own in zip(reading.parts, cells(reading, name), strict=True):
            arrays = self._read(row.stored, score.task_key)
            kept = [arrays[m.outcomes] for m in own.values() if m.outcomes is not None and m.outcomes in arrays]
            if not kept or len(kept) < len(own):
                return None
            found.append(kept[0] if len(kept) == 1 else np.mean(kept, axis=0, dtype=np.float64))
        return np.stack(found) if found else None

    def _read(self, stored: StoredRun, task_key: str) -> Mapping[str, npt.NDArray[Any]]:
        place = (str(stored.folder), task_key)
        if place not in self._files:
            there = any(m.outcomes for task in stored.tasks if task.key == task_key for m in task.measurements)
            try:
                self._files[place] = stored.all_outcomes(task_key) if there else {}
            except UserError as error:
                self._refused.append(error)
                self._files[place] = {}
        return self._files[place]
