"""What the page shows, decided: sections, best values, figures, details of runs. The template only lays it out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robusteval.report.board.columns import Column
from robusteval.report.board.grids import Grid, bounds, grid
from robusteval.report.board.leaderboard import Leaderboard, Part
from robusteval.report.board.pairs import Samples
from robusteval.report.board.published import Cards, Comparison, comparisons
from robusteval.report.board.rows import Group
from robusteval.report.board.stopping import Course, courses
from robusteval.report.figures.plots import Look, Plot, looks
from robusteval.report.figures.selection import figures
from robusteval.report.figures.stopping_plot import late_stopping
from robusteval.report.page.against import comparable


class Heat(NamedTuple):
    """A heat map as a table, with the range of its colours."""

    column: Column
    grid: Grid
    low: float
    high: float


class Section(NamedTuple):
    """One data set.

    Attributes:
        part: its rows and their ranks.
        pairs: what the script needs to compare two of them; see `comparable`.
        looks: identity of a group's head run -> how it is told apart.
        plots: the figures of the leaderboard, and ``on_the_way`` those of late stopping; ``files`` has all.
        measured, courses: what was measured on the way, and of which rows.
        published: published numbers with their measured counterparts.
    """

    part: Part
    pairs: Mapping[str, Any]
    looks: Mapping[int, Look]
    plots: tuple[Plot, ...]
    on_the_way: tuple[Plot, ...]
    measured: tuple[Column, ...]
    courses: tuple[Course, ...]
    published: tuple[Comparison, ...]
    files: tuple[Plot, ...]
    heats: tuple[Heat, ...]

    @property
    def dataset(self) -> str:
        """Its name."""
        return self.part.dataset

    @property
    def groups(self) -> tuple[Group, ...]:
        """Its rows."""
        return self.part.groups


def sections(found: Leaderboard, cards: Cards) -> list[Section]:
    """The data sets of the leaderboard, each with its figures.

    Args:
        found: the rows, with their ranks.
        cards: what is known about the methods.
    """
    slugs: list[str] = []
    files: list[str] = []
    for part in found.parts:
        slugs.append(slug(part.dataset, slugs))
    pairs = zip(found.parts, slugs, strict=True)
    return [_section(part, f"-{one}" if len(slugs) > 1 else "", files, cards, found.samples) for part, one in pairs]


def slug(name: str, taken: Sequence[str]) -> str:
    """A short file name made of a hostile name, other than those taken.

    >>> slug("a/b c", []), slug("../..", []), slug("a", ["a"])
    ('a-b-c', 'unnamed', 'a-2')
    """
    base = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:100].lower() or "unnamed"
    tries = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 2))]
    return next(one for one in tries if one not in taken)


def _section(part: Part, ending: str, taken: list[str], cards: Cards, samples: Samples) -> Section:
    groups, shown = part.groups, part.columns
    files: list[Plot] = []
    measured, found_courses = courses(groups)
    late = [late_stopping(groups, found_courses, column) for column in measured]
    for plot in (*figures(groups, shown), *(plot for plot in late if plot is not None)):
        # Lower case, since some file systems take A and a for the same.
        taken.append(slug(f"{plot.name}{ending}", taken))
        files.append(plot._replace(name=taken[-1]))
    grids = [(column, grid(groups, column)) for column in shown if column.kind == "corruption"]
    return Section(
        part=part,
        pairs=comparable(groups, shown, samples),
        looks={id(group.head.stored): look for look, group in zip(looks(groups), groups, strict=True)},
        plots=tuple(plot for plot in files if not plot.name.startswith(("heat-", "late-stopping-"))),
        on_the_way=tuple(plot for plot in files if plot.name.startswith("late-stopping-")),
        measured=measured,
        courses=tuple(found_courses),
        published=tuple(comparisons(groups, shown, cards)),
        files=tuple(files),
        heats=tuple(Heat(column, found, *bounds(found)) for column, found in grids if found is not None),
    )


class Rank(NamedTuple):
    """What the leaderboard says about a row's rank.

    Attributes:
        best, worst: the ranks that are open to it.
        shared: whether another row has the same best rank.
        of: among how many, where other rows are ranked on other images; else 0.
    """

    best: int
    worst: int
    shared: bool
    of: int

    @property
    def text(self) -> str:
        """The best rank, after an equals sign where it is shared.

        >>> Rank(1, 3, True, 0).text, Rank(4, 4, False, 0).text
        ('=1', '4')
        """
        return f"{'=' if self.shared else ''}{self.best}"


def ranks(section: Section) -> dict[int, Rank]:
    """The ranks of a data set's rows by the identity of a head row; those that could not be compared have none."""
    places = {id(group.head): section.part.ranking.place(group.head) for group in section.groups}
    known = {row: place for row, place in places.items() if place is not None}
    best = Counter((place.best, place.of) for place in known.values())
    return {
        row: Rank(place.best, place.worst, best[place.best, place.of] > 1, 0 if place.of == len(known) else place.of)
        for row, place in known.items()
    }
