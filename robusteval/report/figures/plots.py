"""What all figures share: how rows are told apart, the empty axes, the lengths of bars.

Every function that draws returns a `Plot` whose axes hold the data in percent; nothing is drawn for what is missing,
and the caption names what was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from itertools import chain
from typing import Any, NamedTuple, ParamSpec

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robusteval.report.board.rows import Group
from robusteval.report.board.scores import Score
from robusteval.report.figures.style import COLUMN, DASHES, MARKERS, PALETTE, drawing, medium, new_figure, pdf
from robusteval.report.text import clean

LABEL = 24
"""So many characters of a label are shown."""
CROWD = 12
"""From so many rows on figures grow higher and markers smaller."""

PRINTED = 100
"""A board of more rows fits no paper: of its figures SVG is enough."""

BARS = "Bars are 95 % intervals (standard deviations over seeds, for means)."

P = ParamSpec("P")


class Plot(NamedTuple):
    """A figure with its file name (without ending), title and caption.

    Attributes:
        description: its numbers in words, for who cannot see it; empty where a table beside it has them.
        again: draws the same for whatever medium figures are drawn for then; None stands for itself.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    description: str = ""
    again: Callable[[], Plot | None] | None = None


def redrawable(draw: Callable[P, Plot | None]) -> Callable[P, Plot | None]:
    """The function, whose plots know how to be drawn again."""

    @wraps(draw)
    def made(*args: P.args, **kwargs: P.kwargs) -> Plot | None:
        plot = draw(*args, **kwargs)
        return plot and plot._replace(again=partial(draw, *args, **kwargs))

    return made


def paper(plot: Plot) -> bytes:
    """The plot as a PDF for a paper: as wide as a column (a heat map as wide as the page), without a heading."""
    with drawing(COLUMN):
        drawn = plot.again() if plot.again else plot
    assert drawn is not None, "what was drawn once is drawn again"
    return pdf(drawn.figure)


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
        numbered = (f"{name} #{number}" for number in range(2, len(groups) + 2))
        name = next(one for one in chain((name, f"{name} s{run.seed}"), numbered) if one not in taken)
        taken.add(name)
        # 7 colours and 8 markers have no common factor: 56 pairs before one returns.
        look = Look(name, PALETTE[index % 7], MARKERS[index % 8], DASHES[index // 7 % len(DASHES)])
        found.append(look)
    return found


def canvas(count: int, height: float, *, bottom: float = 0.47, right: float = 0.1) -> tuple[Figure, Axes]:
    """An empty figure and its axes; lengths are in inches of a figure on the page, and less for other media.

    Args:
        count: of rows; many need height.
        height: of the figure, before that.
        bottom: the margin for the x axis and what is below it.
        right: the margin for what is beside the axes.
    """
    on = medium()
    height = on.scale * (height + min(0.075 * max(count - CROWD, 0), 3.0)) - (0.0 if on.titled else 0.2)
    top = 0.575 if on.titled else 0.32
    figure = new_figure(height=height)
    axes = figure.subplots()
    left, bottom, right, top = (on.scale * margin for margin in (0.416, bottom, right, top))
    figure.subplots_adjust(
        left=left / on.width, right=1 - right / on.width, top=1 - top / height, bottom=bottom / height
    )
    return figure, axes


def without_teachers(groups: Sequence[Group]) -> str:
    """The sentence for captions that says whose cost leaves out a teacher's; empty if nobody's does."""
    taught = [group.head for group in groups if group.head.cost is not None and group.head.cost.teacher is not None]
    names = dict.fromkeys(clean(row.stored.run.label, LABEL) for row in taught)
    return f" Without the training of their teachers: {', '.join(names)}." if names else ""


def reach(score: Score | None) -> tuple[float, float]:
    """The lengths of the bar below and above a value, in percentage points."""
    if score is None or score.value is None:
        return 0.0, 0.0
    if score.sd is not None:
        return 100 * score.sd, 100 * score.sd
    low, high = (score.value if end is None else end for end in (score.low, score.high))
    return 100 * max(score.value - low, 0.0), 100 * max(high - score.value, 0.0)
