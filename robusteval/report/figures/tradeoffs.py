"""Figures of what robustness is traded for, and of what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from robusteval.report.board.columns import Column
from robusteval.report.board.rows import Group
from robusteval.report.board.scores import Score
from robusteval.report.figures.plots import CROWD, Plot, canvas, looks, redrawable, without_teachers
from robusteval.report.figures.scatter import Point, scatter
from robusteval.report.figures.style import MUTED, medium, title
from robusteval.report.text import TIMES, clean, factor


def area(relative: float | None, unit: float = 36) -> float:
    """A marker's area in square points: proportional to the cost, ``unit`` at cost 1 and where it is unknown.

    >>> area(4.0) / area(1.0), area(None) == area(1.0)
    (4.0, True)
    """
    return unit * min(max(relative or 1.0, 0.1), 20)


@redrawable
def tradeoff(groups: Sequence[Group], column: Column) -> Plot | None:
    """Clean error against corruption error, the marker's area showing the cost; None without a point."""
    points = []
    unit = (36 if len(groups) < CROWD else 20) * medium().scale ** 2
    for look, group in zip(looks(groups), groups, strict=True):
        relative = group.head.cost.flops_relative if group.head.cost else None
        for row in group.speakers:
            x, y = _error(row.scores.get("clean_accuracy")), row.scores.get(column.key)
            if x and y and x.value is not None and y.value is not None:
                points.append(Point(look, row, x, y, area(relative, unit) if row.deployed else 16))
    if not points:
        return None
    figure, axes = canvas(len(groups), 4.1, bottom=0.78)
    heading = "Clean error against corruption error"
    title(axes, heading, x="Clean error, %", y=f"{clean(column.label, 40)}, %", better=("lower", "lower"))
    words = scatter(axes, points, (-1, -1))
    _area_key(figure, [point for point in points if point.row.deployed], unit)
    caption = f"The better, the further down and left.{words} Hollow: branches that are not deployed."
    return Plot(f"clean-vs-{column.key}", heading, caption + without_teachers(groups), figure)


@redrawable
def accuracies(groups: Sequence[Group], across: Column, column: Column, omitted: str = "") -> Plot | None:
    """Accuracy under an attack against clean or corruption accuracy; None without a point.

    Args:
        groups: the rows.
        across: the column of the x axis.
        column: that of the attack.
        omitted: what the caption says of attacks that are not drawn.
    """
    points = []
    for look, group in zip(looks(groups), groups, strict=True):
        for row in group.speakers:
            x, y = row.scores.get(across.key), row.scores.get(column.key)
            if x and y and x.value is not None and y.value is not None:
                points.append(Point(look, row, x, y, (42 if len(groups) < CROWD else 30) if row.deployed else 16))
    if not points:
        return None
    figure, axes = canvas(len(groups), 3.9)
    heading = "Robust against clean accuracy" if across.kind == "clean" else "Robust against corruption accuracy"
    names = [f"{clean(accuracy_name(one), 40)}, %" for one in (across, column)]
    title(axes, heading, x=names[0], y=names[1], better=("higher", "higher"))
    words = scatter(axes, points, (1, 1))
    caption = f"The better, the further up and right.{words} Hollow: branches that are not deployed.{omitted}"
    return Plot(f"{column.key}-vs-{across.key}", heading, caption, figure)


@redrawable
def cost_plot(groups: Sequence[Group], column: Column) -> Plot | None:
    """A score against training FLOPs relative to standard; None without a point."""
    points, omitted = [], []
    for look, group in zip(looks(groups), groups, strict=True):
        relative = group.head.cost.flops_relative if group.head.cost else None
        score = group.head.scores.get(column.key)
        if relative is not None and score is not None and score.value is not None:
            cost = Score(relative / 100, score.n)  # of the axes' unit, which is percent elsewhere
            points.append(Point(look, group.head, cost, score, 42 if len(groups) < CROWD else 30))
        elif score is not None and score.value is not None:
            omitted.append(look.name)
    if not points:
        return None
    figure, axes = canvas(len(groups), 3.6)
    name = accuracy_name(column)
    heading = f"{name} against cost"
    x = "Training FLOPs relative to standard" + (" (logarithmic)" if medium().titled else "")
    title(axes, clean(heading, 60), x=x, y=f"{clean(name, 40)}, %", better=("", "higher"))
    _relative_axis(axes, [point.place[0] for point in points])
    words = scatter(axes, points, (-1, 1))
    left_out = f" Without a standard run to compare with: {', '.join(omitted)}." if omitted else ""
    caption = f"The better, the further up and left.{words}{left_out}{without_teachers(groups)}"
    return Plot(f"cost-vs-{column.key}", heading, caption, figure)


def accuracy_name(column: Column) -> str:
    """What a figure calls an accuracy.

    >>> attack = Column("PGD-20", "PGD-20", "PGD-20", "attack", "", ("pgd", "robust_accuracy", ()))
    >>> accuracy_name(attack)
    'Accuracy under PGD-20'
    """
    return f"Accuracy under {column.label}" if column.kind == "attack" else column.label


def _error(score: Score | None) -> Score | None:
    """Accuracy as error."""
    if score is None or score.value is None:
        return None
    low, high = (None if end is None else 1 - end for end in (score.high, score.low))
    return Score(1 - score.value, score.n, low, high, score.trust, sd=score.sd)


def _relative_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of ratios with plain numbers at powers of two."""
    axes.set_xscale("log", base=2)
    low, high = min(values) / 1.25, max(values) * 1.6
    axes.set_xlim(low, high)
    ticks = [2.0**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{TIMES}"))


def _area_key(figure: Figure, points: Sequence[Point], unit: float) -> None:
    """Says which area is which cost, with the smallest and the largest in the figure."""
    costs = [point.row.cost.flops_relative for point in points if point.row.cost]
    known = sorted({round(cost, 2) for cost in costs if cost is not None})
    if known:
        on = medium()
        middle = 0.185 * on.scale / figure.get_figheight()
        shown = sorted({known[0], known[-1]})
        sizes = [math.sqrt(area(cost, unit)) for cost in shown]
        handles = [
            Line2D([], [], marker="o", linestyle="", color=MUTED, markersize=size, label=factor(cost))
            for size, cost in zip(sizes, shown, strict=True)
        ]
        text = "Area: training FLOPs relative to standard" if on.titled else "Area: training FLOPs"
        left = 0.416 * on.scale / on.width
        figure.text(left, middle, text, color=MUTED, va="center", fontsize=on.small)
        figure.legend(
            handles=handles, loc="center right", ncols=len(handles), bbox_to_anchor=(0.99, middle), borderpad=0,
            handletextpad=0.6, columnspacing=1.5, labelcolor=MUTED,
        )  # fmt: skip
