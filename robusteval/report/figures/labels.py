"""Names beside points, where they overlap neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Boxes = npt.NDArray[Any]
"""Float boxes (x0, y0, x1, y1), in pixels."""

RINGS = (2, 6, 13, 25, 40, 60, 85)
"""Distances of a name from its marker, points."""
ANGLES = (0, 180, 90, 270, 20, 160, 35, -35, 145, -145, 65, -65, 115, -115)
"""Directions of a name from its marker, degrees, the best to read first."""
LEADER = 2
"""From this ring on a line ties the name to its marker."""


class Mark(NamedTuple):
    """A point with a name.

    Attributes:
        x, y: in data units.
        radius: of the marker, points.
        text: the name; empty for a point that only takes up room.
        colour: of the name.
        bars: the interval bars through it, as (x0, y0, x1, y1) in data units.
    """

    x: float
    y: float
    radius: float
    text: str
    colour: str
    bars: tuple[tuple[float, float, float, float], ...] = ()


def place(axes: Axes, marks: Sequence[Mark], lines: Sequence[tuple[float, float, float, float]] = ()) -> None:
    """Writes the names. The limits, scales and position of the axes must be final.

    Args:
        axes: what they are written into.
        marks: the points; names that come earlier have the better places.
        lines: other lines to keep clear of, as (x0, y0, x1, y1) in data units.
    """
    figure = axes.figure
    assert isinstance(figure, Figure), "axes of a plain figure"
    pixel = figure.dpi / 72
    centres = axes.transData.transform([(mark.x, mark.y) for mark in marks])
    radii = pixel * np.array([[mark.radius] for mark in marks])
    markers = np.hstack([centres - radii, centres + radii])
    words = np.empty((0, 4))
    ends = np.array([bar for mark in marks for bar in mark.bars]).reshape(-1, 2)
    bars = axes.transData.transform(ends).reshape(-1, 4) + pixel * np.array([-1, -1, 1, 1])
    drawn = [axes.transData.transform(np.reshape(line, (2, 2))) for line in lines]
    # The foot of a name may stand on the axis: that of a point at 0 % has little other room.
    frame = np.array([axes.get_window_extent().extents]) - pixel * np.array([0, 2, 0, 0])
    for index, (mark, centre) in enumerate(zip(marks, centres, strict=True)):
        if not mark.text:
            continue
        note = axes.annotate(mark.text, (mark.x, mark.y), xytext=(0, 0), textcoords="offset points", color=mark.colour)
        extent = note.get_window_extent()
        boxes, rings = _spots(centre, (extent.width + 2 * pixel, extent.height), mark.radius * pixel, pixel)
        leaders = np.stack([np.broadcast_to(centre, (len(boxes), 2)), np.clip(centre, boxes[:, :2], boxes[:, 2:])], 1)
        # What lies beyond all places cannot matter.
        within = np.array([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)])
        around = _meets(markers, within)
        solid = np.vstack([markers[around], words[_meets(words, within)]])
        around[index] = False
        # Markers as if a little larger, so that no line seems to start at one that it only passes.
        others = np.vstack([markers[around] + 3 * pixel * np.array([-1, -1, 1, 1]), words])
        struck = np.zeros(len(boxes))
        struck[rings >= LEADER] = _runs_through(leaders[rings >= LEADER], others).sum(1)
        under = _runs_through(np.reshape(drawn, (-1, 2, 2)), boxes).sum(0)
        stray = np.zeros(len(boxes))
        stray[rings < LEADER] = _nearer(boxes[rings < LEADER], centre, centres[around])
        badness = _badness(boxes, solid, bars[_meets(bars, within)], frame) + 0.35 * rings
        badness += 5 * struck + 4 * under + 6 * stray
        best = int(badness.argmin())
        box = boxes[best]
        words = np.vstack([words, box])
        note.set_position((float((box[0] - centre[0]) / pixel + 1), float((box[1] - centre[1]) / pixel)))
        note.set_verticalalignment("bottom")
        if rings[best] >= LEADER:
            # From the point to the nearest part of the name, so that the line never runs under it.
            drawn.append(leaders[best])
            x, y = axes.transData.inverted().transform(leaders[best][1])
            axes.plot([mark.x, x], [mark.y, y], color=mark.colour, linewidth=0.6, alpha=0.5, zorder=1)


def _spots(centre: Boxes, size: tuple[float, float], radius: float, pixel: float) -> tuple[Boxes, Boxes]:
    """Boxes (k, 4) around a marker and their rings (k,), the best reading positions of a ring first; in pixels."""
    rings = np.repeat(np.arange(len(RINGS)), len(ANGLES))
    reach = radius + pixel * np.array(RINGS)[rings]
    turn = np.radians(np.tile(ANGLES, len(RINGS)))
    left = centre[0] + np.cos(turn) * reach + (np.cos(turn) - 1) / 2 * size[0]
    low = centre[1] + np.sin(turn) * reach + (np.sin(turn) - 1) / 2 * size[1]
    return np.stack([left, low, left + size[0], low + size[1]], axis=1), rings.astype(float)


def _badness(boxes: Boxes, solid: Boxes, bars: Boxes, frame: Boxes) -> Boxes:
    """How bad each place is (k,): leaving the axes or covering names and markers is worst, crossing bars is bad."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    inside = _overlaps(boxes, frame).sum(1) / area
    covered = _overlaps(boxes, solid).sum(1) / area
    crossed = (_overlaps(boxes, bars) > 0).sum(1)
    # Even a little cover is worse than a line through a name; much is worse still.
    return np.asarray(100 * (1 - inside) + 60 * covered + 40 * (covered > 0.01) + crossed)


def _meets(boxes: Boxes, other: Boxes) -> npt.NDArray[np.bool_]:
    """Whether each box (m, 4) and another (4,) have a common part, as (m,)."""
    return np.asarray(np.all((boxes[:, :2] < other[2:]) & (boxes[:, 2:] > other[:2]), axis=1))


def _nearer(boxes: Boxes, own: Boxes, others: Boxes) -> Boxes:
    """Whether each box (k, 4) is nearer to one of the points ``others`` (m, 2) than to its own (2,), as (k,).

    >>> _nearer(np.array([[2.0, 0, 4, 1], [1, 0, 3, 1]]), np.array([0.0, 0.5]), np.array([[3.0, 2.5], [9, 9]]))
    array([ True, False])
    """
    points = np.vstack([own, others])
    gaps = points[None] - np.clip(points[None], boxes[:, None, :2], boxes[:, None, 2:])
    distances = np.linalg.norm(gaps, axis=-1)
    return np.asarray((distances[:, 1:] < distances[:, :1]).any(1))


def _runs_through(lines: Boxes, boxes: Boxes) -> Boxes:
    """Whether each line (k, 2 ends, 2) runs through the inside of each box (m, 4), as (k, m).

    >>> _runs_through(np.array([[[0.0, 0], [4, 4]], [[0, 3], [4, 3]]]), np.array([[1.0, 1, 2, 2], [5, 5, 6, 6]]))
    array([[ True, False],
           [False, False]])
    """
    start, way = lines[:, None, 0], lines[:, None, 1] - lines[:, None, 0]
    # The share of its way at which a line enters and leaves a box's extent along x and along y. A line across that
    # way is infinitely far before or behind, or, on the edge, nowhere: NaN, which is not inside.
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (boxes[None, :, :2] - start) / way, (boxes[None, :, 2:] - start) / way
    enters, leaves = np.minimum(one, other), np.maximum(one, other)
    first, last = np.maximum(enters[..., 0], enters[..., 1]), np.minimum(leaves[..., 0], leaves[..., 1])
    return np.asarray(np.maximum(first, 0.0) < np.minimum(last, 1.0))


def _overlaps(a: Boxes, b: Boxes) -> Boxes:
    """The common area of each box of ``a`` (k, 4) with each of ``b`` (m, 4), as (k, m)."""
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    return np.asarray(width.clip(min=0) * height.clip(min=0))
