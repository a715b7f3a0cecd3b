"""The leaderboard with all that its outcomes bear: what the files and the terminal show of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from robusteval.report.board.columns import Column
from robusteval.report.board.intervals import with_intervals
from robusteval.report.board.notes import Note, notes
from robusteval.report.board.pairs import Place, Samples
from robusteval.report.board.ranking import Ranking, ranking
from robusteval.report.board.rows import Board, Group, board, failures, judged_on
from robusteval.report.board.scores import Score
from robusteval.report.text import MISSING, clean
from robusteval.store import StoredRun


class Part(NamedTuple):
    """One data set.

    Attributes:
        columns: the scores that any of its rows has.
        notes: what to know before comparing its rows.
        failures: the runs that did not finish, each with its reason.
    """

    dataset: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    ranking: Ranking
    notes: tuple[Note, ...]
    failures: tuple[tuple[StoredRun, str], ...]

    @property
    def ranked_by(self) -> Column | None:
        """The column that the ranks are of."""
        return next((column for column in self.columns if column.key == self.ranking.column), None)

    @property
    def tests(self) -> str:
        """The test images in words."""
        found = dict.fromkeys(
            (test.name, test.n)
            for group in self.groups
            for row in group.rows
            if row.kind == "run"
            for test in judged_on(row.stored)
        )
        return ", ".join(f"{n:,} test images of {clean(name, 60)}" for name, n in found) or "no test images"

    def images(self, column: Column) -> str:
        """The number of test images behind a column's scores; empty where it has none."""
        rows = [row for group in self.groups for row in group.rows]
        found = {row.scores[column.key].n for row in rows if row.value(column.key) is not None}
        return "n varies" if len(found) > 1 else "".join(f"n = {n:,}" for n in found)


class Leaderboard(NamedTuple):
    """All data sets.

    Attributes:
        board: the rows of all of them.
        samples: where the outcomes of single images were read.
    """

    board: Board
    parts: tuple[Part, ...]
    samples: Samples

    @property
    def runs(self) -> list[StoredRun]:
        """All runs, in the order of their rows."""
        return [row.stored for row in self.board.rows if row.kind == "run" and row.deployed]


def leaderboard(runs: Sequence[StoredRun] | Leaderboard) -> Leaderboard:
    """The leaderboard of any number of runs, or the one that was made of them already."""
    if isinstance(runs, Leaderboard):
        return runs
    samples = Samples()
    shown = with_intervals(board(runs), samples)
    return Leaderboard(shown, tuple(_part(shown, name, samples) for name in shown.datasets), samples)


def _part(shown: Board, dataset: str, samples: Samples) -> Part:
    groups = tuple(group for group in shown.groups if group.head.stored.run.dataset == dataset)
    rows = [row for group in groups for row in group.rows]
    columns = tuple(column for column in shown.columns if any(column.key in row.scores for row in rows))
    found = ranking(groups, columns, samples)
    runs = [row.stored for row in rows if row.kind == "run" and row.deployed]
    return Part(dataset, columns, groups, found, tuple(notes(runs, samples.unread)), tuple(failures(runs)))


def ranks(place: Place | None) -> str:
    """The ranks that a row may have.

    >>> ranks(Place(1, 3, 20)), ranks(Place(2, 2, 20)), ranks(None)
    ('1–3', '2', '–')
    """
    if place is None:
        return MISSING
    return str(place.best) if place.best == place.worst else f"{place.best}{MISSING}{place.worst}"


def doubt(score: Score, column: Column) -> str:
    """The mark beside a number: ``!`` doubtful, ``?`` an attack that was not checked, else nothing."""
    if score.value is None:
        return ""
    return {"flagged": "!", "unchecked": "?" if column.kind == "attack" else ""}.get(score.trust, "")
