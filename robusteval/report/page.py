"""What the page shows, decided: sections, best values, figures, details of runs. The template only lays it out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from robusteval.report.columns import Column
from robusteval.report.curves import heat_map, training_curves
from robusteval.report.grids import Grid, bounds, grid
from robusteval.report.notes import Note, notes
from robusteval.report.plots import Look, Plot, cost_plot, looks, tradeoff
from robusteval.report.published import Cards, Comparison, comparisons
from robusteval.report.rows import Board, Group, Row, failures, judged_on
from robusteval.report.scores import Score
from robusteval.report.stopping import Course, courses
from robusteval.report.stopping_plot import late_stopping
from robusteval.store import StoredRun


class Heat(NamedTuple):
    """A heat map as a table, with the range of its colours."""

    column: Column
    grid: Grid
    low: float
    high: float


class Section(NamedTuple):
    """One data set.

    Attributes:
        marks: (row id, column key) -> ``best`` or ``near``.
        looks: identity of a group's head run -> how it is told apart.
        counts: column key -> the number of test images.
        plots: the figures of the leaderboard, and ``on_the_way`` those of late stopping; ``files`` has all.
        measured, courses: what was measured on the way, and of which rows.
        published: published numbers with their measured counterparts.
    """

    dataset: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    marks: Mapping[tuple[int, str], str]
    looks: Mapping[int, Look]
    counts: Mapping[str, str]
    plots: tuple[Plot, ...]
    on_the_way: tuple[Plot, ...]
    measured: tuple[Column, ...]
    courses: tuple[Course, ...]
    published: tuple[Comparison, ...]
    files: tuple[Plot, ...]
    heats: tuple[Heat, ...]
    test: str
    notes: list[Note]
    failures: list[tuple[StoredRun, str]]


def sections(board: Board, cards: Cards) -> list[Section]:
    """The data sets of the leaderboard, each with its figures."""
    slugs: list[str] = []
    files: list[str] = []
    for dataset in board.datasets:
        slugs.append(slug(dataset, slugs))
    pairs = zip(board.datasets, slugs, strict=True)
    return [_section(board, name, f"-{one}" if len(slugs) > 1 else "", files, cards) for name, one in pairs]


def slug(name: str, taken: Sequence[str]) -> str:
    """A short file name made of a hostile name, other than those taken.

    >>> slug("a/b c", []), slug("../..", []), slug("a", ["a"])
    ('a-b-c', 'unnamed', 'a-2')
    """
    base = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:100].lower() or "unnamed"
    tries = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 2))]
    return next(one for one in tries if one not in taken)


def _section(board: Board, dataset: str, ending: str, taken: list[str], cards: Cards) -> Section:
    groups = tuple(group for group in board.groups if group.head.stored.run.dataset == dataset)
    shown = tuple(c for c in board.columns if any(c.key in row.scores for group in groups for row in group.rows))
    runs = [row.stored for group in groups for row in group.rows if row.kind == "run" and row.deployed]
    files: list[Plot] = []
    measured, found_courses = courses(groups)
    late = [late_stopping(groups, found_courses, column) for column in measured]
    for plot in (*_figures(groups, shown), *(plot for plot in late if plot is not None)):
        # Lower case, since some file systems take A and a for the same.
        taken.append(slug(f"{plot.name}{ending}", taken))
        files.append(plot._replace(name=taken[-1]))
    grids = [(column, grid(groups, column)) for column in shown if column.kind == "corruption"]
    tests = dict.fromkeys((test.name, test.n) for stored in runs for test in judged_on(stored))
    return Section(
        dataset=dataset,
        columns=shown,
        groups=groups,
        marks=_marks(groups, shown),
        looks={id(group.head.stored): look for look, group in zip(looks(groups), groups, strict=True)},
        counts={column.key: _count(groups, column) for column in shown},
        plots=tuple(plot for plot in files if not plot.name.startswith(("heat-", "late-stopping-"))),
        on_the_way=tuple(plot for plot in files if plot.name.startswith("late-stopping-")),
        measured=measured,
        courses=tuple(found_courses),
        published=tuple(comparisons(groups, shown, cards)),
        files=tuple(files),
        heats=tuple(Heat(column, found, *bounds(found)) for column, found in grids if found is not None),
        test=", ".join(f"{n:,} test images of {name}" for name, n in tests) or "no test images",
        notes=notes(runs),
        failures=failures(runs),
    )


def _figures(groups: Sequence[Group], shown: Sequence[Column]) -> list[Plot]:
    found = [tradeoff(groups, column) for column in shown if column.kind == "error"]
    found += [cost_plot(groups, column) for column in shown if column.kind in ("corruption", "attack")]
    found += [training_curves(groups, key) for key in ("loss", "accuracy")]
    found += [heat_map(groups, column) for column in shown if column.kind == "corruption"]
    return [plot for plot in found if plot is not None]


def _marks(groups: Sequence[Group], shown: Sequence[Column]) -> dict[tuple[int, str], str]:
    """The best score of each column and those whose intervals reach it, among rows judged on the same images."""
    found: dict[tuple[int, str], str] = {}
    heads = [group.head for group in groups]
    for column in shown:
        for images in {_images(row, column) for row in heads}:
            same = [row for row in heads if column.key in row.scores and _images(row, column) == images]
            scores = [(row, row.scores[column.key]) for row in same]
            sound = [(row, score) for row, score in scores if score.value is not None and score.trust != "flagged"]
            if len(sound) > 1:
                top = max((score for _, score in sound), key=lambda score: column.better * (score.value or 0.0))
                for row, score in sound:
                    if score.value == top.value:
                        found[id(row), column.key] = "best"
                    elif _overlap(score, top):
                        found[id(row), column.key] = "near"
    return found


def _images(row: Row, column: Column) -> tuple[tuple[str, ...], int]:
    """Which test images are behind a score, and how many of them."""
    score = row.scores.get(column.key)
    return tuple(sorted({test.digest for test in judged_on(row.stored)})), score.n if score else 0


def _count(groups: Sequence[Group], column: Column) -> str:
    """The number of test images behind a column's scores."""
    found = {row.scores[column.key].n for group in groups for row in group.rows if row.value(column.key) is not None}
    return "n varies" if len(found) > 1 else "".join(f"n = {n:,}" for n in found)


def _overlap(a: Score, b: Score) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def shade(value: float | None, heat: Heat) -> int:
    """The strength of a heat map cell's colour, in [0, 100]."""
    return 0 if value is None else round(100 * (value - heat.low) / (heat.high - heat.low))
