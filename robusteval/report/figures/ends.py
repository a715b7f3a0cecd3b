"""Names of lines beside the axes, where they do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robusteval.report.figures.plots import Look, canvas
from robusteval.report.figures.style import INK, medium
from robusteval.report.text import clean

NAMED_LINES = 32
"""So many lines get a name; further ones are drawn thin and grey."""

KEY = 1.5
"""The room of a key beside the axes, inches."""

GAP = 11.2
"""Between the names of neighbours, points."""


class End(NamedTuple):
    """Where a line ends."""

    look: Look
    x: float
    y: float
    stopped: bool


def line_canvas(count: int, *, right: float = 1.2) -> tuple[Figure, Axes]:
    """A figure with axes as high as the names of ``count`` lines, and room for these, in inches, right of the axes."""
    return canvas(0, max(3.6, GAP / 72 * min(count, NAMED_LINES) + 1.2), right=right)


def name_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Writes the names of lines beside the axes, each tied to the end of its line. Limits and scales must be final."""
    for end, (x, y), height in _beside(axes, ends):
        line = Line2D([x, 1, 1.035], [y, height, height], color=end.look.colour, linewidth=0.8, alpha=0.7)
        line.set(linestyle=":" if end.stopped else "-", transform=axes.transAxes, clip_on=False)
        axes.add_artist(line)
        axes.text(1.045, height, clean(end.look.name, 16), va="center", color=INK, transform=axes.transAxes)


def key_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Writes a key beside the axes, in the order in which the lines end: for lines that end anywhere."""
    for end, _, height in _beside(axes, ends):
        look = end.look
        sample = Line2D([1.025, 1.065, 1.105], [height] * 3, color=look.colour, linestyle=look.dash, linewidth=1.3)
        sample.set(marker=look.marker, markevery=[1], markersize=4.5, markeredgewidth=0)
        sample.set(transform=axes.transAxes, clip_on=False)
        axes.add_artist(sample)
        axes.text(1.12, height, clean(look.name, 15), va="center", color=INK, transform=axes.transAxes)


def _beside(axes: Axes, ends: Sequence[End]) -> list[tuple[End, tuple[float, float], float]]:
    """The ends with their places in units of the axes, and the heights at which their names do not overlap."""
    axes.set_xlim(*axes.get_xlim())
    axes.set_ylim(*axes.get_ylim())
    inside = axes.transAxes.inverted()
    places = [inside.transform(axes.transData.transform((end.x, end.y))) for end in ends]
    figure = axes.figure
    assert isinstance(figure, Figure), "axes of a plain figure"
    gap = medium().scale * GAP / 72 / (axes.get_position().height * figure.get_figheight())
    heights = spread([float(y) for _, y in places], gap, low=0.0, high=1.0)
    return [(end, (float(x), float(y)), height) for end, (x, y), height in zip(ends, places, heights, strict=True)]


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
