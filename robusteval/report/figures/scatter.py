"""Rows as points with bars, names and the front that they form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import IdentityTransform

from robusteval.report.board.rows import Row
from robusteval.report.board.scores import Score
from robusteval.report.figures.front import Sense, front, steps
from robusteval.report.figures.labels import Mark, place
from robusteval.report.figures.plots import BARS, CROWD, LABEL, Look, reach
from robusteval.report.figures.strokes import Strokes
from robusteval.report.figures.style import INK, MUTED, PAPER, medium
from robusteval.report.text import clean

FLAG = "\N{BLACK FLAG}"
"""Follows the name of a row one of whose numbers is doubtful."""
LISTED = 12
"""So many names of the front are in a caption."""

MARKED = 4000
"""So many times a name is kept clear of a point: the more points, the fewer names."""


class Point(NamedTuple):
    """A row in a scatter plot: two scores that have a value, and the marker's area in square points."""

    look: Look
    row: Row
    x: Score
    y: Score
    area: float

    @property
    def place(self) -> tuple[float, float]:
        """In percent."""
        return 100 * (self.x.value or 0.0), 100 * (self.y.value or 0.0)

    @property
    def flagged(self) -> bool:
        """Whether one of its numbers is doubtful."""
        return "flagged" in (self.x.trust, self.y.trust)


def scatter(axes: Axes, points: Sequence[Point], better: tuple[Sense, Sense]) -> str:
    """The sentences for the caption, after drawing points with bars, the front and names.

    A dotted line ties the other branches to the deployed one. In a crowd the other branches have no names; the lines,
    colours and markers say whose they are.

    Args:
        axes: what they are drawn into; where its x limits are set already they stay.
        points: in the order of the leaderboard.
        better: 1 where more is better, -1 where less is, along x and y.
    """
    on = medium()
    crowd = sum(point.row.deployed for point in points) > CROWD
    sound = [point for point in points if point.row.deployed and not point.flagged]
    best = [sound[index] for index in front([point.place for point in sound], better)]
    _draw_bars(axes, points, faint=0.3 if crowd else 0.5)
    ties = _draw_ties(axes, points)
    drawn = sorted(points, key=lambda point: -point.area)  # the small ones lie on top
    styles = {point.look.marker: MarkerStyle(point.look.marker) for point in drawn}
    shapes = {name: style.get_path().transformed(style.get_transform()) for name, style in styles.items()}
    markers = PathCollection(
        [shapes[point.look.marker] for point in drawn],
        [point.area for point in drawn],
        offsets=[point.place for point in drawn],
        offset_transform=axes.transData,
        facecolors=[point.look.colour if point.row.deployed else PAPER for point in drawn],
        edgecolors=[point.look.colour for point in drawn],
        linewidths=1.1,
        zorder=3,
        clip_on=False,
    )
    markers.set_transform(IdentityTransform())  # sizes are in points, whatever the data
    axes.add_collection(markers)
    _limit(axes)
    line = steps([point.place for point in best], better, _worst(axes, better)) if best else []
    if line:
        # Under the points, so that the line may run along an axis.
        axes.plot(*zip(*line, strict=True), color=MUTED, linewidth=2.2 * on.scale, alpha=0.4, zorder=1.5, label="front")
    # Those on the front have the best places, then the leaderboard's first.
    chosen = {id(point) for point in best}
    ordered = sorted(points, key=lambda point: (id(point) not in chosen, not point.row.deployed))
    most = min(on.named, max(8, MARKED // len(points)))
    named = 0
    marks = []
    for point in ordered:
        text = _name(point, crowd=crowd) if named < most else ""
        named += bool(text)
        radius = math.sqrt(point.area) / 2
        marks.append(Mark(*point.place, radius, text, INK if point.row.deployed else MUTED, _bars(point)))
    place(axes, marks, [*ties, *((*a, *b) for a, b in pairwise(line))])
    return _words(best, points)


def _name(point: Point, *, crowd: bool) -> str:
    flag = f" {FLAG}" if point.flagged else ""
    if point.row.deployed:
        return point.look.name + flag
    return "" if crowd else f"{clean(point.look.name, LABEL)} {clean(point.row.branch, 12)}{flag}"


def _words(best: Sequence[Point], points: Sequence[Point]) -> str:
    """What the caption says of bars and front."""
    words = f" {BARS}"
    if best:
        names = list(dict.fromkeys(point.look.name for point in best))
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        words += (
            " The wide line is the front: what no other deployed row beats in one number without losing in the other,"
            f" judged by the numbers alone, whose intervals may overlap. On it: {', '.join(names[:LISTED])}{more}."
        )
    if any(point.flagged for point in points):
        words += f" {FLAG}: a doubtful number, which is never on the front."
    return words


def _bars(point: Point) -> tuple[tuple[float, float, float, float], ...]:
    """The interval bars, as (x0, y0, x1, y1); none where there is no interval."""
    (x, y), across, up = point.place, reach(point.x), reach(point.y)
    bars = ((x - across[0], y, x + across[1], y), (x, y - up[0], x, y + up[1]))
    return tuple(bar for bar, ends in zip(bars, (across, up), strict=True) if any(ends))


def _draw_bars(axes: Axes, points: Sequence[Point], *, faint: float) -> None:
    kinds: dict[tuple[str, float], list[tuple[tuple[float, float], tuple[float, float]]]] = {}
    for point in points:
        kind = point.look.colour, faint if point.row.deployed else 0.6 * faint
        kinds.setdefault(kind, []).extend((bar[:2], bar[2:]) for bar in _bars(point))
    for (colour, alpha), bars in kinds.items():
        axes.add_collection(Strokes(bars, colors=colour, alpha=alpha, linewidths=0.9, zorder=2))


def _draw_ties(axes: Axes, points: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    """The lines from other branches to the deployed ones, as (x0, y0, x1, y1)."""
    owners = {point.look.name: point for point in points if point.row.deployed}
    tied = [point for point in points if not point.row.deployed and point.look.name in owners]
    tied.sort(key=lambda point: point.look.colour)
    ties = [(point.place, owners[point.look.name].place) for point in tied]
    if ties:
        colours = [point.look.colour for point in tied]
        axes.add_collection(LineCollection(ties, colors=colours, linewidths=0.8, linestyles=[(0, (1, 2))], zorder=1))
    return [(*a, *b) for a, b in ties]


def _limit(axes: Axes) -> None:
    """No room is shown where no percentage can be; a marker on the edge is drawn whole."""
    axes.margins(0.09)
    axes.autoscale_view()
    axes.set_ylim(max(axes.get_ylim()[0], 0.0), min(axes.get_ylim()[1], 100.0))
    if axes.get_xscale() == "linear":
        axes.set_xlim(max(axes.get_xlim()[0], 0.0), min(axes.get_xlim()[1], 100.0))


def _worst(axes: Axes, better: tuple[Sense, Sense]) -> tuple[float, float]:
    """The corner of the axes where both quantities are worst."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return left if better[0] == 1 else right, low if better[1] == 1 else high
