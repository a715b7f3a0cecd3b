"""The figures: what robustness is traded for, what it costs, where it fails, how training went.

Every function returns figures whose axes hold the data in percent; nothing is drawn for what is missing,
and the caption names what was left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from robusteval.report.columns import Column
from robusteval.report.labels import Mark, place
from robusteval.report.rows import Group, Row
from robusteval.report.scores import Score
from robusteval.report.style import DASHES, INK, MARKERS, MUTED, PALETTE, PAPER, SIZE, new_figure, title
from robusteval.report.text import TIMES, clean, factor

NAMED = 40
"""So many names are written beside points; more would hide the data."""
LABEL = 24
"""So many characters of a label are shown."""
CROWD = 12
"""From so many rows on figures grow higher and markers smaller."""

BARS = "Bars are 95 % intervals (standard deviations over seeds, for means)."


class Plot(NamedTuple):
    """A figure with its file name (without ending), title and caption.

    Attributes:
        description: its numbers in words, for who cannot see it; empty where a table beside it has them.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    description: str = ""


class Look(NamedTuple):
    """How a group is told apart in every figure and table."""

    name: str
    colour: str
    marker: str
    dash: Any


def looks(groups: Sequence[Group]) -> list[Look]:
    """One look per group, each with a name of its own: the label, and what distinguishes equal labels."""
    architectures = {group.head.stored.run.architecture for group in groups}
    found: list[Look] = []
    taken: set[str] = set()
    for index, group in enumerate(groups):
        run = group.head.stored.run
        name = clean(run.label, LABEL) + (f" {clean(run.architecture, 14)}" if len(architectures) > 1 else "")
        tries = (name, f"{name} s{run.seed}", *(f"{name} #{number}" for number in range(2, len(groups) + 2)))
        name = next(one for one in tries if one not in taken)
        taken.add(name)
        # 7 colours and 8 markers have no common factor: 56 pairs before one returns.
        look = Look(name, PALETTE[index % 7], MARKERS[index % 8], DASHES[index // 7 % len(DASHES)])
        found.append(look)
    return found


class Point(NamedTuple):
    """A row in a scatter plot: fractions, and the marker's area."""

    look: Look
    row: Row
    x: float
    y: Score
    x_score: Score | None
    area: float


def area(relative: float | None, unit: float = 36) -> float:
    """A marker's area in square points: proportional to the cost, ``unit`` at cost 1 and where it is unknown.

    >>> area(4.0) / area(1.0), area(None) == area(1.0)
    (4.0, True)
    """
    return unit * min(max(relative or 1.0, 0.1), 20)


def canvas(count: int, height: float, *, bottom: float, right: float = 0.98) -> tuple[Figure, Axes]:
    """An empty figure and its axes, higher where ``count`` rows need the room; height and bottom margin in inches."""
    height += min(0.075 * max(count - CROWD, 0), 3.0)
    figure = new_figure(height=height)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.08, right=right, top=1 - 0.575 / height, bottom=bottom / height)
    return figure, axes


def without_teachers(groups: Sequence[Group]) -> str:
    """The sentence for captions that says whose cost leaves out a teacher's; empty if nobody's does."""
    taught = [group.head for group in groups if group.head.cost is not None and group.head.cost.teacher is not None]
    names = dict.fromkeys(clean(row.stored.run.label, LABEL) for row in taught)
    return f" Without the training of their teachers: {', '.join(names)}." if names else ""


def tradeoff(groups: Sequence[Group], column: Column) -> Plot | None:
    """Clean error against corruption error, the marker's area showing the cost; None without a point."""
    points = []
    unit = 36 if len(groups) < CROWD else 20
    for look, group in zip(looks(groups), groups, strict=True):
        relative = group.head.cost.flops_relative if group.head.cost else None
        for row in group.speakers:
            x, y = _error(row.scores.get("clean_accuracy")), row.scores.get(column.key)
            if x and y and x.value is not None and y.value is not None:
                points.append(Point(look, row, x.value, y, x, area(relative, unit) if row.deployed else 16))
    if not points:
        return None
    figure, axes = canvas(len(groups), SIZE[1], bottom=0.78)
    heading = "Clean error against corruption error"
    title(axes, heading, x="Clean error, % (lower is better)", y=f"{clean(column.label, 40)}, % (lower is better)")
    _scatter(axes, points)
    _area_key(figure, [point for point in points if point.row.deployed], unit)
    caption = f"The better, the further down and left. {BARS} Hollow: branches that are not deployed."
    caption += without_teachers(groups)
    return Plot(f"clean-vs-{column.key}", heading, caption, figure)


def cost_plot(groups: Sequence[Group], column: Column) -> Plot | None:
    """A score against training FLOPs relative to standard; None without a point."""
    points, omitted = [], []
    for look, group in zip(looks(groups), groups, strict=True):
        relative = group.head.cost.flops_relative if group.head.cost else None
        score = group.head.scores.get(column.key)
        if relative is not None and score is not None and score.value is not None:
            points.append(Point(look, group.head, relative / 100, score, None, 42))
        elif score is not None and score.value is not None:
            omitted.append(look.name)
    if not points:
        return None
    figure, axes = canvas(len(groups), 3.6, bottom=0.47)
    name = column.label if column.kind != "attack" else f"Accuracy under {column.label}"
    heading = f"{name} against cost"
    x = "Training FLOPs relative to standard (logarithmic)"
    title(axes, clean(heading, 60), x=x, y=f"{clean(name, 40)}, % (higher is better)")
    _relative_axis(axes, [100 * point.x for point in points])
    _scatter(axes, points)
    left_out = f" Without a standard run to compare with: {', '.join(omitted)}." if omitted else ""
    left_out += without_teachers(groups)
    return Plot(f"cost-vs-{column.key}", heading, f"The better, the further up and left. {BARS}{left_out}", figure)


def _error(score: Score | None) -> Score | None:
    """Accuracy as error."""
    if score is None or score.value is None:
        return None
    low, high = (None if end is None else 1 - end for end in (score.high, score.low))
    return Score(1 - score.value, score.n, low, high, sd=score.sd)


def reach(score: Score | None) -> tuple[float, float]:
    """The lengths of the bar below and above a value, in percentage points."""
    if score is None or score.value is None:
        return 0.0, 0.0
    if score.sd is not None:
        return 100 * score.sd, 100 * score.sd
    low, high = (score.value if end is None else end for end in (score.low, score.high))
    return 100 * max(score.value - low, 0.0), 100 * max(high - score.value, 0.0)


def _scatter(axes: Axes, points: Sequence[Point]) -> None:
    """Draws points with bars and names; a thin line ties the other branches to the deployed one.

    In a crowd the other branches have no names; the lines, colours and markers say whose they are.
    """
    marks, ties = [], []
    deployed = {point.look.name: point for point in points if point.row.deployed}
    strokes: list[tuple[list[tuple[float, float]], tuple[float, ...]]] = []
    crowd = len(deployed) > CROWD
    for point in sorted(points, key=lambda point: -point.area):
        own, colour = point.row.deployed, point.look.colour
        name, branch = point.look.name, clean(point.row.branch, 12)
        x, y = 100 * point.x, 100 * (point.y.value or 0.0)
        across, up = reach(point.x_score), reach(point.y)
        bars = ((x - across[0], y, x + across[1], y), (x, y - up[0], x, y + up[1]))
        faint = (0.5 if own else 0.3) * (0.6 if crowd else 1.0)
        strokes += [([bar[:2], bar[2:]], to_rgba(colour, faint)) for bar in bars]
        axes.scatter(
            [x], [y], s=point.area, marker=point.look.marker, color=colour if own else PAPER, edgecolors=colour,
            linewidths=1.1, zorder=3, clip_on=False, label=name if own else f"{name}, {branch}",
        )  # fmt: skip
        owner = deployed.get(name)
        if owner is not None and owner is not point:
            ends = ([x, 100 * owner.x], [y, 100 * (owner.y.value or 0.0)])
            axes.plot(*ends, color=colour, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            ties.append((ends[0][0], ends[1][0], ends[0][1], ends[1][1]))
        text = name if own else "" if crowd else f"{clean(name, LABEL)} {branch}"
        marks.append(Mark(x, y, math.sqrt(point.area) / 2, text, INK if own else MUTED, bars))
    lines, colours = zip(*strokes, strict=True)
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.9, zorder=2))
    axes.margins(0.09)
    axes.autoscale_view()
    # No room is shown where no percentage can be; a marker on the edge is drawn whole.
    axes.set_ylim(max(axes.get_ylim()[0], 0.0), min(axes.get_ylim()[1], 100.0))
    if axes.get_xscale() == "linear":
        axes.set_xlim(max(axes.get_xlim()[0], 0.0), min(axes.get_xlim()[1], 100.0))
    place(axes, [mark if index < NAMED else mark._replace(text="") for index, mark in enumerate(marks)], ties)


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
        middle = 0.185 / figure.get_figheight()
        shown = sorted({known[0], known[-1]})
        sizes = [math.sqrt(area(cost, unit)) for cost in shown]
        handles = [
            Line2D([], [], marker="o", linestyle="", color=MUTED, markersize=size, label=factor(cost))
            for size, cost in zip(sizes, shown, strict=True)
        ]
        figure.text(0.08, middle, "Area: training FLOPs relative to standard", color=MUTED, va="center", fontsize=8)
        figure.legend(
            handles=handles, loc="center right", ncols=len(handles), bbox_to_anchor=(0.99, middle), borderpad=0,
            handletextpad=0.6, columnspacing=1.5, labelcolor=MUTED,
        )  # fmt: skip
