"""Figures of robustness as the attack's radius grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba

from robusteval.records import Scalar
from robusteval.report.board.columns import attack_name
from robusteval.report.board.rows import Group
from robusteval.report.board.scores import Score
from robusteval.report.board.variants import Variant, by_group
from robusteval.report.figures.ends import KEY, NAMED_LINES, End, key_ends, line_canvas
from robusteval.report.figures.plots import CROWD, Look, Plot, looks, reach, redrawable
from robusteval.report.figures.scatter import FLAG
from robusteval.report.figures.strokes import Strokes
from robusteval.report.figures.style import MUTED, title
from robusteval.report.text import clean, number

PIXEL = 255
"""Radii in the maximum norm are counted in steps of an 8-bit pixel value."""


class Line(NamedTuple):
    """A group's scores by a number that grows: the radius, or the quantile."""

    look: Look
    scores: Mapping[float, Score]

    def value(self, at: float, missing: float) -> float:
        """The value of a score, or what stands for one that is missing."""
        score = self.scores.get(at)
        return missing if score is None or score.value is None else score.value


class Series(NamedTuple):
    """A line as it is drawn, x in the axis's unit and y in percent; the interval (x0, y0, x1, y1) of each point."""

    look: Look
    points: list[tuple[float, float]]
    intervals: list[tuple[float, float, float, float]]


def radius_plots(groups: Sequence[Group]) -> list[Plot]:
    """Robust accuracy by radius, and the distance of adversarial examples: a figure per attack, a line per group."""
    found: list[Plot | None] = []
    curves = _lines(groups, "epsilon_curve", "robust_accuracy", "epsilon", ("step",))
    found += [_epsilon_curve(variant, lines) for variant, lines in curves.items()]
    distances = _lines(groups, "minimum_norm", "distance_quantile", "quantile")
    found += [_distance_curve(variant, lines) for variant, lines in distances.items()]
    return [plot for plot in found if plot is not None]


def _lines(
    groups: Sequence[Group], task: str, metric: str, key: str, varied: Sequence[str] = ()
) -> dict[Variant, list[Line]]:
    found: dict[Variant, list[Line]] = {}
    for look, group in zip(looks(groups), groups, strict=True):
        for variant, scores in by_group(group, task, metric, key, varied).items():
            found.setdefault(variant, []).append(Line(look, scores))
    return found


@redrawable
def _epsilon_curve(variant: Variant, lines: Sequence[Line]) -> Plot | None:
    unit, axis = axis_unit(dict(variant.where).get("norm"))
    attack = attack_name("pgd", dict(variant.where))
    heading = f"Accuracy under {attack} as its radius grows"
    figure, axes = line_canvas(len(lines), right=KEY)
    title(axes, clean(heading, 60), x=f"Radius {axis}", y=f"Accuracy under {clean(attack, 30)}, %")
    series = []
    for line in lines:
        points = [(unit * at, 100 * (score.value or 0.0)) for at, score in line.scores.items()]
        ends = [reach(score) for score in line.scores.values()]
        bands = [(x, y - below, x, y + above) for (x, y), (below, above) in zip(points, ends, strict=True)]
        series.append(Series(line.look, points, bands))
    banded = len(lines) <= NAMED_LINES
    for look, _, bands in series if banded else []:
        x, low, _, high = zip(*bands, strict=True)
        faint = 0.16 if len(lines) < CROWD else 0.06
        axes.fill_between(x, low, high, color=look.colour, alpha=faint, linewidth=0, zorder=1)
    right = max(x for one in series for x, _ in one.points)
    top = max(y for one in series for *_, y in one.intervals)
    axes.set(xlim=(0, 1.02 * right or 1), ylim=(0, min(1.05 * top, 100) or 1))
    _draw(axes, lines, series, [fmean(y for _, y in one.points) for one in series])
    caption = (
        "The same images at every radius; at radius 0 they are not attacked."
        + (" Bands are 95 % intervals (standard deviations over seeds, for means)." if banded else "")
        + _rest(lines)
    )
    words = f"In percent at each radius {axis}. {_words(series)}"
    return Plot(f"epsilon-curve-{attack}", heading, caption, figure, words)


@redrawable
def _distance_curve(variant: Variant, lines: Sequence[Line]) -> Plot | None:
    where = dict(variant.where)
    unit, axis = axis_unit(where.get("norm"))
    attack = clean(where.get("attack"), 12).upper()
    heading = f"How far the nearest adversarial example is ({attack})"
    figure, axes = line_canvas(len(lines), right=KEY)
    title(axes, heading, x=f"Distance {axis}", y="Images without an example as near, %")
    series = []
    for line in lines:
        # Where several quantiles share a distance, the last of them says how many images are further away.
        last = {score.value: share for share, score in line.scores.items()}
        kept = [(share, score) for share, score in line.scores.items() if last[score.value] == share]
        points = [(unit * (score.value or 0.0), 100 * (1 - share)) for share, score in kept]
        ends = [tuple(unit * end / 100 for end in reach(score)) for _, score in kept]
        bars = [(x - below, y, x + above, y) for (x, y), (below, above) in zip(points, ends, strict=True)]
        series.append(Series(line.look, points, bars))
    faint = 0.5 if len(lines) < CROWD else 0.25
    strokes = [
        (((x0, y0), (x1, y1)), to_rgba(look.colour, faint))
        for look, _, bars in series[:NAMED_LINES]
        for x0, y0, x1, y1 in bars
        if x1 > x0
    ]
    if strokes:
        bounds, colours = zip(*strokes, strict=True)
        axes.add_collection(LineCollection(bounds, colors=colours, linewidths=0.9, zorder=1))
    most = unit * max(score.value or 0.0 for line in lines for score in line.scores.values())
    axes.set(xlim=(0, 1.5 * most or 1), ylim=(0, 100))
    shares = {share for line in lines for share in line.scores}
    means = [fmean(unit * line.value(share, most / unit) for share in shares) for line in lines]
    _draw(axes, lines, series, [100 * mean / (most or 1) for mean in means])
    caption = (
        "An upper bound of robust accuracy at that radius: an attack can only overestimate distances. Images that are"
        " wrong unchanged have distance 0. Measured at the markers, which are quantiles with their 95 % intervals,"
        " cut at the edge (standard deviations over seeds, for means); the lines between them guide the eye."
        + _rest(lines)
    )
    words = f"Percent of images further away than a distance {axis}. {_words(series)}"
    return Plot(f"distances-{where.get('norm')}-{attack}", heading, caption, figure, words)


def axis_unit(norm: Scalar | None) -> tuple[float, str]:
    """What radii are multiplied with to be shown, and the words for it.

    >>> axis_unit("Linf"), axis_unit("L2")
    ((255, 'in 1/255 (Linf)'), (1, '(L2)'))
    """
    return (PIXEL, f"in 1/{PIXEL} (Linf)") if norm == "Linf" else (1, f"({clean(norm, 8)})")


def _draw(axes: Axes, lines: Sequence[Line], series: Sequence[Series], heights: Sequence[float]) -> None:
    """Draws the lines, in a crowd with markers at every third of their points, and a key in the order of heights."""
    every = 1 if len(series) < CROWD else 3
    ends = []
    for index, (line, one) in enumerate(zip(lines[:NAMED_LINES], series, strict=False)):
        look = one.look
        axes.plot(
            *zip(*one.points, strict=True), color=look.colour, linestyle=look.dash, linewidth=1.3, marker=look.marker,
            markersize=4, markeredgewidth=0, markevery=(index % every, every), label=look.name, zorder=2,
        )  # fmt: skip
        flag = f" {FLAG}" if any(score.trust == "flagged" for score in line.scores.values()) else ""
        keyed = look._replace(name=clean(look.name, 15 - len(flag)) + flag)
        ends.append(End(keyed, 0.0, heights[index], stopped=False))
    others = [one.points for one in series[NAMED_LINES:]]
    if others:
        axes.add_collection(Strokes(others, colors=MUTED, linewidths=0.5, zorder=0.5))
    key_ends(axes, ends)


def _rest(lines: Sequence[Line]) -> str:
    """What the caption says of doubtful numbers and of lines without a name."""
    flagged = any(score.trust == "flagged" for line in lines for score in line.scores.values())
    words = f" {FLAG}: some of its numbers are doubtful." if flagged else ""
    return words + (f" Grey: the rows after the first {NAMED_LINES}." if len(lines) > NAMED_LINES else "")


def _words(series: Sequence[Series]) -> str:
    """The points of the named lines as text."""
    texts = [(look.name, ", ".join(f"{y:.1f} at {number(x)}" for x, y in points)) for look, points, _ in series]
    return "; ".join(f"{name}: {text}" for name, text in texts[:NAMED_LINES]) + "."
