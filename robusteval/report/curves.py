"""Figures of training and of accuracy by corruption type."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from robusteval.report.columns import Column
from robusteval.report.costs import trained
from robusteval.report.grids import FAMILIES, bounds, grid
from robusteval.report.plots import Look, Plot, looks
from robusteval.report.rows import Group
from robusteval.report.style import INK, MUTED, new_figure, title
from robusteval.report.text import clean, percent

NAMED_LINES = 14
"""So many lines get a name; further ones are drawn thin and grey."""
HEAT_ROWS = 40
"""So many rows fit a figure; the page's table has all."""

RAMP = LinearSegmentedColormap.from_list("accuracy", ["#fbfcfd", "#cfe1ee", "#7fb4d6", "#2f7fb5", "#0b3c66"])


def training_curves(groups: Sequence[Group], key: str) -> Plot | None:
    """A logged scalar by epoch, one line per run; None when no run logged it."""
    scale = 100 if key == "accuracy" else 1
    figure = new_figure(height=3.6)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.08, right=0.77, top=0.84, bottom=0.13)
    heading = {"loss": "Training loss", "accuracy": "Training accuracy"}.get(key, clean(key, 40))
    unit = "%, mean over the epoch" if key == "accuracy" else "mean over the epoch"
    title(axes, heading, x="Epoch", y=f"{heading}, {unit}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    ends: dict[str, _End] = {}
    seen: set[int] = set()
    for look, group in zip(looks(groups), groups, strict=True):
        for row in group.rows:
            epochs = [epoch for epoch in row.stored.history if key in epoch.logs]
            if row.kind != "run" or not row.deployed or not epochs:
                continue
            named = look.name in ends or len(ends) < NAMED_LINES
            stopped = not trained(row.stored.run)
            xs, ys = [epoch.epoch for epoch in epochs], [scale * epoch.logs[key] for epoch in epochs]
            seen.update(xs)
            axes.plot(
                xs, ys, color=look.colour if named else MUTED, linestyle=look.dash, linewidth=1.5 if named else 0.5,
                marker="X" if stopped else look.marker if len(xs) == 1 else "", markevery=[-1], label=look.name,
            )  # fmt: skip
            if named:
                ends[look.name] = _End(look, xs[-1], ys[-1], stopped)
    if not axes.lines:
        return None
    if len(seen) == 1:
        axes.set_xlim(min(seen) - 1, max(seen) + 1)
    _name_ends(axes, list(ends.values()))
    caption = "Each method's own training images (mixed, attacked, ...) and loss: compare shapes, not heights."
    if any(end.stopped for end in ends.values()):
        caption += " A cross: training did not finish."
    return Plot(f"training-{key}", heading, caption, figure)


class _End(NamedTuple):
    """Where a line ends."""

    look: Look
    x: float
    y: float
    stopped: bool


def _name_ends(axes: Axes, ends: Sequence[_End]) -> None:
    """Writes the names of lines beside the axes, each tied to the end of its line."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    step = 0.055 * (high - low)
    margin = right + 0.035 * (right - left)
    for end, height in zip(ends, spread([end.y for end in ends], step, low=low, high=high), strict=True):
        xs, ys = [end.x, right, margin], [end.y, height, height]
        line = Line2D(xs, ys, color=end.look.colour, linewidth=0.8, linestyle=":" if end.stopped else "-", alpha=0.7)
        line.set_clip_on(False)
        axes.add_line(line)
        axes.text(margin + 0.01 * (right - left), height, clean(end.look.name, 16), va="center", color=INK)


def spread(heights: Sequence[float], gap: float, *, low: float, high: float) -> list[float]:
    """The heights moved apart as little as needed for a gap between neighbours, within bounds, order kept.

    >>> spread([1.0, 1.0, 5.0], 2.0, low=-9, high=9), spread([1.0, 1.0, 5.0], 2.0, low=0.5, high=9)
    ([0.0, 2.0, 5.0], [0.5, 2.5, 5.0])
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    # Take the gaps off, make what remains rise (pool adjacent violators), bound it, put the gaps back.
    blocks: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        blocks.append((heights[i] - gap * rank, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    top = max(high - gap * (len(order) - 1), low)
    level = [min(max(value, low), top) for value, count in blocks for _ in range(count)]
    found = [0.0] * len(heights)
    for rank, i in enumerate(order):
        found[i] = level[rank] + gap * rank
    return found


def heat_map(groups: Sequence[Group], column: Column) -> Plot | None:
    """Accuracy by row and corruption type with the values printed; None without a measurement."""
    found = grid(groups, column)
    if found is None:
        return None
    names = {id(group.head.stored): look.name for look, group in zip(looks(groups), groups, strict=True)}
    rows = [
        clean(names[id(row.stored)] + ("" if row.deployed else f", {clean(row.branch, 12)}"), 24)
        for row in found.rows[:HEAT_ROWS]
    ]
    count = len(found.corruptions)
    figure = new_figure(2.3 + 0.46 * (count + 1), 1.55 + 0.27 * len(rows))
    axes = figure.subplots()
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left=1.7 / width, right=1 - 0.1 / width, top=1 - 0.45 / height, bottom=1.05 / height)
    values = [[*line, mean] for line, mean in zip(found.values, found.means, strict=True)][:HEAT_ROWS]
    low, high = bounds(found)
    shades = [[float("nan") if value is None else value for value in line] for line in values]
    axes.imshow(shades, cmap=RAMP, vmin=low, vmax=high, aspect="auto")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            dark = value is not None and _luminance(RAMP((value - low) / (high - low))) < 0.18
            axes.text(x, y, percent(value), ha="center", va="center", fontsize=7.5, color="#ffffff" if dark else INK)
    labels = [clean(name, 20).replace("_", " ") for name in found.corruptions]
    axes.set_xticks(range(count + 1), [*labels, "mean"], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for edge in (*accumulate(len(family) for family in FAMILIES.values()), count):
        if edge <= count:
            axes.axvline(edge - 0.5, color="#ffffff", linewidth=2.5)
    for tick, row in zip(axes.get_yticklabels(), found.rows[:HEAT_ROWS], strict=True):
        tick.set_color(INK if row.deployed else MUTED)
    axes.set_title("Accuracy by corruption, %, mean over severities", pad=10)
    left_out = f" The first {HEAT_ROWS} rows." if len(found.rows) > HEAT_ROWS else ""
    caption = f"Mean over severities.{left_out} Rows named with a branch are branches that are not deployed."
    return Plot(f"heat-{column.key}", "Accuracy by corruption", caption, figure)


def _luminance(colour: Sequence[float]) -> float:
    """The relative luminance of an RGB colour (WCAG 2); white text is easier to read than black below 0.18."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
