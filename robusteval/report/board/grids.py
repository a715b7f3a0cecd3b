"""Accuracy by corruption type, for heat maps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from robusteval.records import Measurement
from robusteval.report.board.columns import Column
from robusteval.report.board.rows import Group, Row

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The 15 corruptions of CIFAR-C in their canonical order (Hendrycks and Dietterich, 2019, arXiv:1903.12261)."""


class Grid(NamedTuple):
    """A heat map.

    Attributes:
        rows: the leaderboard rows.
        corruptions: the column names.
        values: by row and corruption, the mean over severities; None where it is missing.
        means: by row, the leaderboard's mean over all corruptions.
    """

    rows: tuple[Row, ...]
    corruptions: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    means: tuple[float | None, ...]


def grid(groups: Sequence[Group], column: Column) -> Grid | None:
    """The heat map of a corruption column over the rows that speak for their groups; None without a measurement."""
    tables = [(row, _row_means(row, group, column)) for group in groups for row in group.speakers]
    kept = [(row, table) for row, table in tables if table]
    if not kept:
        return None
    named = {name for _, table in kept for name in table}
    known = [name for family in FAMILIES.values() for name in family if name in named]
    names = (*known, *sorted(named - set(known)))
    return Grid(
        tuple(row for row, _ in kept),
        names,
        tuple(tuple(table.get(name) for name in names) for _, table in kept),
        tuple(row.value(column.key) for row, _ in kept),
    )


def bounds(shown: Grid) -> tuple[float, float]:
    """The range of the colours: the values' range, widened to whole tenths."""
    values = [value for line in shown.values for value in line if value is not None]
    low, high = math.floor(10 * min(values, default=0.0)) / 10, math.ceil(10 * max(values, default=1.0)) / 10
    return low, max(high, low + 0.1)


def _row_means(row: Row, group: Group, column: Column) -> dict[str, float | None]:
    """Corruption -> mean accuracy over severities, and over the seeds of a mean row."""
    members = [row] if row.kind == "run" else [r for r in group.rows if r.kind == "run" and r.branch == row.branch]
    tables = [_run_means(member, column) for member in members]
    tables = [table for table in tables if table]
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: _mean([table.get(name) for table in tables]) for name in names}


def _run_means(row: Row, column: Column) -> dict[str, float | None]:
    found: dict[str, list[float | None]] = defaultdict(list)
    for m in cells(row, column):
        found[str(m.where["corruption"])].append(m.value)
    return {name: _mean(values) for name, values in found.items()}


def cells(row: Row, column: Column) -> list[Measurement]:
    """The accuracies by corruption and severity behind a corruption score of a run's branch."""
    score = row.scores.get(column.key)
    source, deployed = dict(column.measured[2]).get("source"), row.stored.run.deployed
    return [
        m
        for task in row.stored.tasks
        if score is not None and task.key == score.task_key
        for m in task.measurements
        if m.metric == "accuracy"
        and (where := m.where).get("branch", deployed) == row.branch
        and where.get("source") == source
        and "corruption" in where
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if any part is missing: a mean over the easy severities would flatter."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
