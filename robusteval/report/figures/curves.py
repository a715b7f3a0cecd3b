"""Figures of training and of accuracy by corruption type."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from robusteval.report.board.columns import Column
from robusteval.report.board.costs import trained
from robusteval.report.board.grids import FAMILIES, bounds, grid
from robusteval.report.board.rows import Group
from robusteval.report.figures.ends import NAMED_LINES, End, line_canvas, name_ends
from robusteval.report.figures.plots import Plot, looks, redrawable
from robusteval.report.figures.strokes import Strokes
from robusteval.report.figures.style import COLUMN, INK, MUTED, medium, new_figure, title
from robusteval.report.text import clean, percent

HEAT_ROWS = 40
"""So many rows fit a figure; the page's table has all."""

RAMP = LinearSegmentedColormap.from_list("accuracy", ["#fbfcfd", "#cfe1ee", "#7fb4d6", "#2f7fb5", "#0b3c66"])


@redrawable
def training_curves(groups: Sequence[Group], key: str) -> Plot | None:
    """A logged scalar by epoch, one line per run; None when no run logged it."""
    scale = 100 if key == "accuracy" else 1
    figure, axes = line_canvas(len(groups))
    heading = {"loss": "Training loss", "accuracy": "Training accuracy"}.get(key, clean(key, 40))
    unit = "%, mean over the epoch" if key == "accuracy" else "mean over the epoch"
    title(axes, heading, x="Epoch", y=f"{heading}, {unit}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    ends: dict[str, End] = {}
    seen: set[int] = set()
    others: list[list[tuple[float, float]]] = []
    for look, group in zip(looks(groups), groups, strict=True):
        for row in group.rows:
            epochs = [epoch for epoch in row.stored.history if key in epoch.logs]
            if row.kind != "run" or not row.deployed or not epochs:
                continue
            named = look.name in ends or len(ends) < NAMED_LINES
            stopped = not trained(row.stored.run)
            xs, ys = [epoch.epoch for epoch in epochs], [scale * epoch.logs[key] for epoch in epochs]
            seen.update(xs)
            if not named:
                others.append(list(zip(xs, ys, strict=True)))
                continue
            axes.plot(
                xs, ys, color=look.colour, linestyle=look.dash, linewidth=1.5,
                marker="X" if stopped else look.marker if len(xs) == 1 else "", markevery=[-1], label=look.name,
            )  # fmt: skip
            ends[look.name] = End(look, xs[-1], ys[-1], stopped)
    if not ends:
        return None
    if others:
        axes.add_collection(Strokes(others, colors=MUTED, linewidths=0.5, zorder=1))
        axes.autoscale_view()
    if len(seen) == 1:
        axes.set_xlim(min(seen) - 1, max(seen) + 1)
    name_ends(axes, list(ends.values()))
    caption = "Each method's own training images (mixed, attacked, ...) and loss: compare shapes, not heights."
    if any(end.stopped for end in ends.values()):
        caption += " A cross: training did not finish."
    if others:
        caption += f" Grey: the rows after the first {NAMED_LINES}."
    return Plot(f"training-{key}", heading, caption, figure)


@redrawable
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
    on = medium()
    # A paper's has the width of both columns, 6.75 inches for the 15 corruptions; the words need their room anyhow.
    left, cell, top = (1.7, 0.46, 0.45) if on.titled else (1.37, 0.33, 0.1)
    bottom, width = on.scale * 1.05, left + 0.1 + cell * (count + 1)
    height = top + bottom + on.scale * 0.27 * len(rows)
    figure = new_figure(width, height)
    axes = figure.subplots()
    figure.subplots_adjust(left=left / width, right=1 - 0.1 / width, top=1 - top / height, bottom=bottom / height)
    values = [[*line, mean] for line, mean in zip(found.values, found.means, strict=True)][:HEAT_ROWS]
    low, high = bounds(found)
    size = max(on.small - 0.5, COLUMN.small)
    shades = np.array([[float("nan") if value is None else value for value in line] for line in values])
    axes.imshow(shades, cmap=RAMP, vmin=low, vmax=high, aspect="auto")
    colours = RAMP((shades - low) / (high - low))
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            dark = value is not None and _luminance(colours[y, x]) < 0.18
            axes.text(
                x,
                y,
                percent(value),
                ha="center",
                va="center",
                fontsize=size,
                color="#ffffff" if dark else INK,
            )
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
    if on.titled:
        axes.set_title("Accuracy by corruption, %, mean over severities", pad=10)
    left_out = f" The first {HEAT_ROWS} rows." if len(found.rows) > HEAT_ROWS else ""
    caption = f"Mean over severities.{left_out} Rows named with a branch are branches that are not deployed."
    return Plot(f"heat-{column.key}", "Accuracy by corruption", caption, figure)


def _luminance(colour: Sequence[float]) -> float:
    """The relative luminance of an RGB colour (WCAG 2); white text is easier to read than black below 0.18."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
