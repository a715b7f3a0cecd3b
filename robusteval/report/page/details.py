"""What the page tells about a single run beside its scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from robusteval.options import flattened, written
from robusteval.records import Measurement
from robusteval.report.board.columns import attack_name, direct, ranked
from robusteval.report.text import number, percent
from robusteval.store import StoredRun


class Curve(NamedTuple):
    """A line of a small chart: SVG points in a 300 x 100 box, and its last value."""

    name: str
    points: str
    last: float


class Chart(NamedTuple):
    """A small chart of one run's training; ``show`` writes a value of it."""

    title: str
    show: Callable[[float], str]
    curves: tuple[Curve, ...]
    low: float
    high: float
    epochs: int


def charts(stored: StoredRun) -> list[Chart]:
    """The losses and the accuracies that a run logged, as small charts."""
    keys = dict.fromkeys(key for epoch in stored.history for key in epoch.logs)
    losses = [key for key in keys if "loss" in key]
    accuracies = [key for key in keys if "accuracy" in key and key not in losses]
    parts = (("Loss", number, losses), ("Training accuracy, %", percent, accuracies))
    return [_chart(stored, *part) for part in parts if part[2]]


def _chart(stored: StoredRun, title: str, show: Callable[[float], str], keys: Sequence[str]) -> Chart:
    values = [epoch.logs[key] for epoch in stored.history for key in keys if key in epoch.logs]
    low, high = min(values), max(values)
    first, last = stored.history[0].epoch, stored.history[-1].epoch
    curves = []
    for key in keys:
        epochs = [epoch for epoch in stored.history if key in epoch.logs]
        xs = [300 * (epoch.epoch - first) / max(last - first, 1) for epoch in epochs]
        ys = [100 - 100 * (epoch.logs[key] - low) / ((high - low) or 1.0) for epoch in epochs]
        points = " ".join(f"{x:.0f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        curves.append(Curve(key, points, epochs[-1].logs[key]))
    return Chart(title, show, tuple(curves), low, high, last)


class Transfer(NamedTuple):
    """An attack made through another branch than the one that is judged."""

    attack: str
    made_on: str
    judged: str
    score: Measurement


def transfers(stored: StoredRun) -> list[Transfer]:
    """The attacks that went through another branch than the one that was judged."""
    found = []
    for task in stored.tasks:
        for m in task.measurements:
            if not direct(m) and ranked(m):
                where = m.where
                found.append(Transfer(attack_name(m.task, where), str(where["attack_branch"]), str(where["branch"]), m))
    return sorted(found, key=lambda one: one[:3])


def link(url: object) -> str | None:
    """The address if it may become a link: http or https and nothing that ends an attribute."""
    text = str(url)
    return text if re.fullmatch(r"https?://[^\s\"'<>\\]+", text) and text.isprintable() else None


def flat(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Options as (name, text), tables in tables with dotted names.

    >>> flat({"a": 8 / 255, "b": {"c": None, "d": [1, 2]}})
    [('a', '8/255'), ('b.c', 'none'), ('b.d', '1, 2')]
    """
    return [(key, shown(value)) for key, value in flattened(table).items()]


def shown(value: object) -> str:
    """An option, or an entry of a measurement's ``where``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.6g}"
        return text if float(text) == value else written(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    return str(value)
