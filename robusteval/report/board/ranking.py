"""Which rows of a leaderboard are best, and which ranks the tests of their differences leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from robusteval.report.board.columns import Column
from robusteval.report.board.pairs import Place, Samples, places
from robusteval.report.board.rows import Group, Row, judged_on

Mark = Literal["best", "tied"]

Cell = tuple[int, str]
"""The identity of a group's head row, and a column's key."""


@dataclass(frozen=True)
class Ranking:
    """The ranks of the groups of one data set in every column.

    Attributes:
        column: the key of the column that the leaderboard ranks by: the H-score where one was measured, else clean
            accuracy; None where neither was.
        places: the ranks that a group may have; a group without outcomes, or with a doubtful number, has none.
        marks: ``best``: the highest score (the lowest error) of those on the same images; ``tied``: lower, but no
            other is significantly better.
    """

    column: str | None
    places: Mapping[Cell, Place]
    marks: Mapping[Cell, Mark]

    def place(self, row: Row) -> Place | None:
        """The ranks that a group, given by its head row, may have on the leaderboard."""
        return None if self.column is None else self.places.get((id(row), self.column))


def ranking(groups: Sequence[Group], columns: Sequence[Column], samples: Samples) -> Ranking:
    """The ranks and marks of groups that were trained for the same data set.

    Args:
        groups: of one data set.
        columns: the scores to rank by, each for itself.
        samples: where outcomes are read.
    """
    found = {(head, column.key): place for column in columns for head, place in places(groups, column, samples).items()}
    marks = {cell: mark for column in columns for cell, mark in _marks(groups, column, found).items()}
    return Ranking(_ranked_by(groups, columns), found, marks)


def _ranked_by(groups: Sequence[Group], columns: Sequence[Column]) -> str | None:
    """The first H-score that any group has, else clean accuracy: the order of the rows."""
    measured = [one for one in columns if any(group.head.value(one.key) is not None for group in groups)]
    keys = [one.key for kind in ("h_score", "clean") for one in measured if one.kind == kind]
    return keys[0] if keys else None


def _marks(groups: Sequence[Group], column: Column, found: Mapping[Cell, Place]) -> dict[Cell, Mark]:
    marks: dict[Cell, Mark] = {}
    scored = [(group.head, group.head.scores.get(column.key)) for group in groups]
    values = {id(row): s.value for row, s in scored if s is not None and s.value is not None and s.trust != "flagged"}
    heads = [row for row, _ in scored if id(row) in values]
    for images in {_images(row, column) for row in heads}:
        same = [id(row) for row in heads if _images(row, column) == images]
        if len(same) < 2:
            continue
        top = max(column.better * values[one] for one in same)
        best = {one for one in same if column.better * values[one] == top}
        marks |= {(one, column.key): "best" for one in best}
        first = {one for one in same if (place := found.get((one, column.key))) is not None and place.best == 1}
        # Without outcomes of the best row nothing was tested against it.
        if first & best:
            marks |= {(one, column.key): "tied" for one in first - best}
    return marks


def _images(row: Row, column: Column) -> tuple[tuple[str, ...], int]:
    """Which test images are behind a score, and how many of them."""
    return tuple(sorted({test.digest for test in judged_on(row.stored)})), row.scores[column.key].n
