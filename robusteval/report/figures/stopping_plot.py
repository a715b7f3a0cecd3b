"""Figures of what training would have been worth had it stopped earlier."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.ticker import FuncFormatter, NullLocator

from robusteval.report.board.columns import Column
from robusteval.report.board.rows import Group
from robusteval.report.board.scores import Score
from robusteval.report.board.stopping import Course, Stop
from robusteval.report.figures.ends import KEY, NAMED_LINES, End, key_ends, line_canvas
from robusteval.report.figures.plots import BARS, CROWD, Plot, looks, reach, redrawable, without_teachers
from robusteval.report.figures.style import MUTED, medium, title
from robusteval.report.text import clean, scaled


@redrawable
def late_stopping(groups: Sequence[Group], found: Sequence[Course], column: Column) -> Plot | None:
    """A score against the cost of training so far, one line per course; None where nobody was judged on the way."""
    names = {id(group): look for look, group in zip(looks(groups), groups, strict=True)}
    lines = [(names[id(course.group)], _points(course, column.key)) for course in found]
    lines = [(look, points) for look, points in lines if any(not stop.final for stop, _ in points)]
    if not lines:
        return None
    figure, axes = line_canvas(len(lines), right=KEY)
    faint = 0.4 if len(lines) < CROWD else 0.2
    name = column.label if column.kind != "attack" else f"Accuracy under {column.label}"
    heading = f"{name} by cost of training so far"
    x = "Training FLOPs so far" + (" (logarithmic)" if medium().titled else "")
    title(axes, clean(heading, 60), x=x, y=f"{clean(name, 40)}, %")
    ends, texts = [], []
    for index, (look, points) in enumerate(lines):
        xs, ys = [stop.flops for stop, _ in points], [100 * (score.value or 0.0) for _, score in points]
        named = index < NAMED_LINES
        colour = look.colour if named else MUTED
        bars = [[(x, y - below), (x, y + above)] for x, y, (below, above) in _bars(xs, ys, points)]
        axes.add_collection(LineCollection(bars, colors=to_rgba(colour, faint), linewidths=0.9, zorder=1))
        axes.plot(xs, ys, color=colour, linestyle=look.dash, linewidth=1.3 if named else 0.5, label=look.name)
        # The final weights' marker is the largest: where the run itself ended.
        sizes = [42 if stop.final else 16 for stop, _ in points]
        axes.scatter(xs, ys, s=sizes, marker=look.marker, color=colour, linewidths=0, zorder=3, clip_on=False)
        if named:
            ends.append(End(look, xs[-1], ys[-1], stopped=not points[-1][0].final))
        first, last = f"{ys[0]:.1f} at {scaled(xs[0], 'FLOP')}", f"{ys[-1]:.1f} at {scaled(xs[-1], 'FLOP')}"
        texts.append(f"{look.name} from {first} to {last}")
    _flops_axis(axes, [stop.flops for _, points in lines for stop, _ in points])
    axes.set_ylim(max(axes.get_ylim()[0], 0.0), min(axes.get_ylim()[1], 100.0))
    key_ends(axes, ends)
    caption = f"Large markers: the final weights. {BARS}{without_teachers([course.group for course in found])}"
    return Plot(f"late-stopping-{column.key}", heading, caption, figure, f"In percent: {'; '.join(texts)}.")


def _points(course: Course, key: str) -> list[tuple[Stop, Score]]:
    """The deployed branch's scores that have a value, with their stops."""
    deployed = course.group.head.stored.run.deployed
    pairs = [(stop, stop.score(deployed, key)) for stop in course.stops]
    return [(stop, score) for stop, score in pairs if score is not None and score.value is not None and stop.flops > 0]


def _bars(
    xs: Sequence[float], ys: Sequence[float], points: Sequence[tuple[Stop, Score]]
) -> list[tuple[float, float, tuple[float, float]]]:
    return [(x, y, reach(score)) for x, y, (_, score) in zip(xs, ys, points, strict=True)]


def _flops_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with a few round numbers of FLOPs."""
    axes.set_xscale("log")
    low, high = min(values) / 1.15, max(values) * 1.15
    axes.set_xlim(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # The finest steps that give no more labels than fit.
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) <= 6:
            break
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled(value, "")))
