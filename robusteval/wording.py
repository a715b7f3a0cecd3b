"""Measurements as text: a row for people, a line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from robusteval.records import Measurement


def as_json(measurement: Measurement) -> str:
    """A measurement as one line of JSON; a missing value is null."""
    kept = {"task", "metric", "value", "n", "unit", "low", "high", "where", "trust", "reasons", "note"}
    return json.dumps(measurement.model_dump(include=kept), allow_nan=False)


def as_row(measurement: Measurement) -> tuple[str, ...]:
    """Task, metric, value, low, high, n, where: fractions as percent, other numbers with four significant digits."""
    percent = measurement.unit == "fraction"
    numbers = (measurement.value, measurement.low, measurement.high)
    shown = ["missing" if x is None else f"{100 * x:.2f} %" if percent else f"{x:.4g}" for x in numbers]
    if measurement.value is not None and measurement.low is None and measurement.high is None:
        shown[1:] = ["", ""]  # not missing: it has no interval
    where = " ".join(f"{key}={value}" for key, value in measurement.where.items())
    return (measurement.task, measurement.metric, *shown, str(measurement.n), where)


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows in columns as wide as their widest cell, a row a line; the last column is as long as it likes.

    >>> print(aligned([("a", "b"), ("long", "c")]))
    a     b
    long  c
    """
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
