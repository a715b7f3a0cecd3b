"""Measurements that make no column of the leaderboard, as tables and histograms of one run's details.

Nothing here knows a task: a measurement is placed by the keys of its ``where`` alone, so that none is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robusteval.records import Measurement, Scalar, TaskRecord
from robusteval.report.board.columns import cell, ranked
from robusteval.report.page.attacks import in_tables
from robusteval.report.page.details import flat, shown
from robusteval.report.text import Unit, number
from robusteval.store import StoredRun

EDGES = (("low", "high"), ("times_low", "times_high"))
"""The keys of ``where`` that make a share a bar of a histogram."""
GROUP = "images"
"""The key of ``where`` that says which images; one metric of several groups has them side by side."""
OF_IMAGES = frozenset({"severity", "source", "generator", "table", "seed"})
"""Keys that corrupted images have and clean ones lack; one value of these is told once."""


class Quantity(NamedTuple):
    """What the cells below a heading hold; ``group`` where the headings are groups of images."""

    metric: str
    unit: Unit
    group: str

    @property
    def name(self) -> str:
        """The heading."""
        return (self.group or self.metric.replace("_", " ")) + (", %" if self.unit == "fraction" else "")


class Line(NamedTuple):
    """The entries of ``where`` (and the epoch) that tell it apart, and its measurements by column, mostly one each."""

    place: tuple[str, ...]
    cells: tuple[tuple[Measurement, ...], ...]


class Table(NamedTuple):
    """Measurements that are told apart by the same keys of ``where``.

    Attributes:
        keys: what tells the lines apart.
        same: what all lines share and the options do not say, by key.
        n: the number of samples, if it is the same everywhere.
    """

    keys: tuple[str, ...]
    same: Mapping[str, str]
    columns: tuple[Quantity, ...]
    lines: tuple[Line, ...]
    n: int | None

    @property
    def title(self) -> str:
        """What is measured."""
        return ", ".join(dict.fromkeys(column.metric.replace("_", " ") for column in self.columns))

    @property
    def counts(self) -> tuple[int | None, ...]:
        """The number of samples behind each column, where it is the same all the way down."""
        found = [{m.n for line in self.lines for m in line.cells[place]} for place in range(len(self.columns))]
        return tuple(one.pop() if len(one) == 1 else None for one in found)

    @property
    def drawn(self) -> bool:
        """Whether histograms show the same."""
        return any({*edges} <= {*self.keys} for edges in EDGES)


class Bar(NamedTuple):
    """A share: what it is of, and its height in [0, 100] of the highest bar of the same metric."""

    name: str
    value: float
    height: float


class Histogram(NamedTuple):
    """The shares of one group of images, in the order of their bins."""

    name: str
    bars: tuple[Bar, ...]
    first: str
    last: str


class Histograms(NamedTuple):
    """The histograms of one metric, drawn to the same scale.

    Attributes:
        times: whether the bins are counts of how often, else values.
        top: the highest share.
    """

    metric: str
    times: bool
    top: float
    groups: tuple[Histogram, ...]


class Diagnostic(NamedTuple):
    """What one task with one set of options found of the final weights, and of those kept on the way."""

    task: str
    options: Mapping[str, Any]
    tables: tuple[Table, ...]
    on_the_way: tuple[Table, ...]
    histograms: tuple[Histograms, ...]


class _Found(NamedTuple):
    """A measurement, and after how many epochs; None for the final weights."""

    m: Measurement
    epoch: int | None


def diagnostics(stored: StoredRun) -> list[Diagnostic]:
    """Everything measured of the run's weights, kept on the way or final, that no other part of the page shows."""
    sound = {None: stored.run.weights_sha256} | {one.epoch: one.weights_sha256 for one in stored.run.snapshots}
    tasks: dict[tuple[str, int, str], list[TaskRecord]] = {}
    for task in (*stored.on_the_way, *stored.tasks):
        if sound.get(task.epoch) == task.weights_sha256:
            key = (task.task, task.version, json.dumps(task.options, sort_keys=True, default=str))
            tasks.setdefault(key, []).append(task)
    found = []
    tables_of_attacks = in_tables(stored)
    for (name, _, _), records in sorted(tasks.items()):
        every = [_Found(m, task.epoch) for task in records for m in task.measurements if not _elsewhere(m)]
        measured = [one for one in every if one.epoch is not None or id(one.m) not in tables_of_attacks]
        final, on_the_way = ([one for one in measured if (one.epoch is None) == last] for last in (True, False))
        if measured:
            given = records[0].options
            tables = (_tables(final, given), _tables(on_the_way, given))
            found.append(Diagnostic(name, given, *tables, _histograms([one.m for one in final])))
    return found


def _elsewhere(m: Measurement) -> bool:
    """Whether the leaderboard shows it, or the table of corruptions."""
    return cell(m) or ranked(m)


def _tables(measured: Sequence[_Found], given: Mapping[str, Any]) -> tuple[Table, ...]:
    """One table per set of keys; metrics that are told apart by the same keys share it."""
    keys: dict[str, dict[str, None]] = {}
    for m, _ in measured:
        keys.setdefault(m.metric, {}).update(dict.fromkeys(m.where))
    groups: dict[frozenset[str], list[_Found]] = {}
    for one in measured:
        groups.setdefault(frozenset(keys[one.m.metric]), []).append(one)
    told = dict(flat(given))
    return tuple(_table(group, tuple(keys[group[0].m.metric]), told) for group in groups.values())


def _table(measured: Sequence[_Found], keys: Sequence[str], told: Mapping[str, str]) -> Table:
    values = {key: dict.fromkeys(_entry(one.m, key) for one in measured) for key in keys}
    given = {key: [value for value in found if value] for key, found in values.items()}
    same = {
        key: found[0] for key, found in given.items() if len(found) == 1 and (key in OF_IMAGES or len(values[key]) == 1)
    }
    differ = [key for key in keys if key not in same]
    metrics = {(one.m.metric, one.m.unit) for one in measured}
    # A metric of several groups of images reads best with these side by side.
    across = GROUP if len(metrics) == 1 and GROUP in differ else ""
    down = [key for key in differ if key != across]
    on_the_way = measured[0].epoch is not None
    cells: dict[tuple[str, ...], dict[Quantity, list[_Found]]] = {}
    for one in measured:
        quantity = Quantity(one.m.metric, one.m.unit, _entry(one.m, across))
        place = tuple(_entry(one.m, key) for key in down)
        cells.setdefault(place, {}).setdefault(quantity, []).append(one)
    columns = tuple(dict.fromkeys(quantity for row in cells.values() for quantity in row))
    counts = {one.m.n for one in measured}
    return Table(
        keys=(*down, *(["epoch"] if on_the_way else [])),
        same={key: value for key, value in same.items() if told.get(key) != value},
        columns=columns,
        lines=tuple(line for place, row in cells.items() for line in _lines(place, columns, row, on_the_way)),
        n=counts.pop() if len(counts) == 1 else None,
    )


def _entry(m: Measurement, key: str) -> str:
    return shown(m.where[key]) if key in m.where else ""


def _lines(
    place: tuple[str, ...], columns: Sequence[Quantity], cells: Mapping[Quantity, list[_Found]], on_the_way: bool
) -> list[Line]:
    """The line of a place, or one per epoch of it."""
    epochs = sorted({one.epoch or 0 for found in cells.values() for one in found})
    return [
        Line(
            (*place, *([str(epoch)] if on_the_way else [])),
            tuple(tuple(one.m for one in cells.get(column, ()) if (one.epoch or 0) == epoch) for column in columns),
        )
        for epoch in epochs
    ]


def _histograms(measured: Sequence[Measurement]) -> tuple[Histograms, ...]:
    """The histograms of shares."""
    metrics: dict[tuple[str, str, str], list[Measurement]] = {}
    for m in measured:
        for low, high in EDGES:
            if m.metric.endswith("_share") and m.where.keys() >= {low, high} and m.value is not None:
                metrics.setdefault((m.metric, low, high), []).append(m)
    return tuple(_histogram(metric, low, high, found) for (metric, low, high), found in metrics.items())


def _histogram(metric: str, low: str, high: str, found: Sequence[Measurement]) -> Histograms:
    groups: dict[tuple[tuple[str, str], ...], list[Measurement]] = {}
    for m in found:
        groups.setdefault(tuple((key, shown(v)) for key, v in m.where.items() if key not in (low, high)), []).append(m)
    top = max(m.value or 0.0 for m in found)
    differ = {key for key, _ in set.union(*map(set, groups)) if len({dict(group).get(key) for group in groups}) > 1}
    made = []
    for group, members in groups.items():
        ordered = sorted(members, key=lambda m: _edge(m.where[low]))
        bars = tuple(
            Bar(_bin(m.where[low], m.where[high]), m.value or 0.0, 100 * (m.value or 0.0) / (top or 1.0))
            for m in ordered
        )
        name = ", ".join(value if key == GROUP else f"{key} {value}" for key, value in group if key in differ)
        name = name or dict(group).get(GROUP, metric.replace("_", " "))
        made.append(Histogram(name, bars, _end(ordered[0].where[low]), _end(ordered[-1].where[high])))
    return Histograms(metric, low == "times_low", top, tuple(made))


def _edge(value: Scalar) -> tuple[bool, float]:
    """A sorting key of a bin's edge; one that is no number comes last."""
    return (False, float(value)) if isinstance(value, int | float) else (True, 0.0)


def _bin(low: Scalar, high: Scalar) -> str:
    return _end(low) if low == high else f"{_end(low)} to {_end(high)}"


def _end(value: Scalar) -> str:
    return number(value, 3) if isinstance(value, float) else shown(value)
