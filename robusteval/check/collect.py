"""Run folders to the numbers that the gate compares: what the leaderboard ranks, of every branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from robusteval.check.baseline import KINDS, Baseline, Cell, CellCost, Made, Number, Quantity
from robusteval.check.calibration import relative
from robusteval.check.packing import pack
from robusteval.errors import UserError
from robusteval.records import Cost, TaskRecord
from robusteval.report.board.columns import Column
from robusteval.report.board.pairs import Samples
from robusteval.report.board.rows import Group, Row, board, failures
from robusteval.report.board.scores import worst
from robusteval.store import StoredRun

SHOWN = 16
"""Digits of a digest of weights: enough to tell networks apart by accident; nobody forges them here."""


def collect(runs: Sequence[StoredRun], *, suite: str) -> Baseline:
    """The numbers of the runs; cells are told apart by data set, architecture and label.

    Diagnostics and what is computed from other numbers (H-score, corruption error) are left out: they would make every
    interval wider, and say little that the numbers behind them do not.

    Args:
        runs: all seeds of all cells.
        suite: what they are called together.

    Raises:
        UserError: no runs, or several that are the same cell and seed or one cell with different options.
        Damaged: a file of outcomes is not what was written.
    """
    if not runs:
        raise UserError("check: no runs to look at")
    collector = _Collector(several=len({stored.run.dataset for stored in runs}) > 1)
    shown = board(runs)
    columns = [column for column in shown.columns if column.kind in KINDS]
    for group in shown.groups:
        collector.add(group, columns)
    newest = max((stored.run.provenance for stored in runs), key=lambda provenance: provenance.created)
    made = Made.of(newest).model_copy(update={"created": datetime.now(UTC).isoformat(timespec="seconds")})
    cells = dict(sorted(collector.cells.items()))
    return Baseline(suite=suite, made=made, quantities=collector.quantities, cells=cells)


class _Collector:
    """Gathers cells and the quantities that their numbers name."""

    def __init__(self, *, several: bool) -> None:
        self.several = several
        self.quantities: dict[str, Quantity] = {}
        self.cells: dict[str, Cell] = {}
        self._samples = Samples()

    def add(self, group: Group, columns: Sequence[Column]) -> None:
        """Adds all seeds of a configuration as a cell."""
        run = group.head.stored.run
        name = f"{run.dataset}/{run.architecture}/{run.label}"
        if name in self.cells:
            raise UserError(
                f"check: {name}: several runs of one seed, or configurations, are called so; allowed: one of each cell "
                "and seed (are runs of several suites or devices in the folder?)"
            )
        own = {row.stored.run.seed: row.stored for row in group.rows if row.kind == "run"}
        done = {seed: stored for seed, stored in sorted(own.items()) if stored.run.status == "done"}
        rows = [row for row in group.rows if row.kind == "run" and row.stored.run.status == "done"]
        rows.sort(key=lambda row: row.stored.run.seed)
        branches = list(dict.fromkeys(row.branch for row in group.rows))
        numbers = {
            branch: self._numbers([row for row in rows if row.branch == branch], columns, len(done))
            for branch in branches
        }
        self.cells[name] = Cell(
            dataset=run.dataset,
            architecture=run.architecture,
            label=run.label,
            method=run.method,
            options=run.options,
            training=run.training,
            train_images=(run.train_data.digest, run.train_data.n),
            seeds=tuple(done),
            weights=tuple((stored.run.weights_sha256 or "")[:SHOWN] or None for stored in done.values()),
            cost=tuple(_cost(stored.run.cost) for stored in done.values()),
            wall=tuple(relative(stored) for stored in done.values()),
            numbers={branch: found for branch, found in numbers.items() if found},
            failed={str(stored.run.seed): reason for stored, reason in failures(own.values())},
        )

    def _numbers(self, rows: Sequence[Row], columns: Iterable[Column], seeds: int) -> dict[str, Number]:
        """The numbers of a branch by quantity; those without outcomes of every seed are left out."""
        found = {}
        for column in columns if rows and len(rows) == seeds else ():
            sample = self._samples.of(rows, column)
            if self._samples.unread:  # a gate must not pass because a number went missing
                raise self._samples.unread[0].error
            if sample is None or len(sample.scores) < len(rows):
                continue
            key, quantity = self._quantity(rows[0], column)
            found[key] = Number(
                values=tuple(float(value) for value in sample.scores.mean(axis=1)),
                trust=worst(row.scores[column.key].trust for row in rows),
                outcomes=tuple(pack(one, quantity.parts) for one in sample.scores),
            )
        return found

    def _quantity(self, row: Row, column: Column) -> tuple[str, Quantity]:
        """What a column measures in a row, and what it is called."""
        score = row.scores[column.key]
        task = next(one for one in row.stored.tasks if one.key == score.task_key)
        name, metric, where = column.measured
        quantity = Quantity(
            kind=column.kind,
            task=name,
            metric=metric,
            where=dict(where),
            version=task.version,
            options=task.options,
            dataset=row.stored.run.dataset,
            images=task.test_data.digest,
            n=score.n,
            parts=_parts(task, row) if column.kind == "corruption" else 1,
        )
        key = f"{column.key} on {quantity.dataset}" if self.several else column.key
        number = 1
        while self.quantities.setdefault(key if number == 1 else f"{key} #{number}", quantity) != quantity:
            number += 1
        return key if number == 1 else f"{key} #{number}", quantity


def _parts(task: TaskRecord, row: Row) -> int:
    """The corrupted versions of an image that a mean of one branch is over."""
    branches = [m.where.get("branch", row.stored.run.deployed) for m in task.measurements if m.metric == "accuracy"]
    return branches.count(row.branch)


def _cost(cost: Cost | None) -> CellCost | None:
    if cost is None:
        return None
    return CellCost(forward=_sorted(cost.forward), backward=_sorted(cost.backward), flops=cost.flops)


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
