"""Intervals that need the outcomes of single images: those of H-scores, and of means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from robusteval.report.board.columns import Column
from robusteval.report.board.pairs import Samples, singles
from robusteval.report.board.rows import Board, Group, Row
from robusteval.stats import Interval, h_interval, seeds_and_images

DIGITS = 10
"""Decimals of an interval's ends: those after them depend on the machine's arithmetic, and files are to be equal."""


def with_intervals(board: Board, samples: Samples) -> Board:
    """The leaderboard with the intervals that its outcomes bear; where they are missing, the scores stay as they are.

    - The H-score of a run: `robusteval.stats.h_interval`, which knows that both accuracies are of the same images.
    - Means over seeds: for other seeds and other test images (`robusteval.stats.seeds_and_images`).

    Args:
        board: from `robusteval.report.board.rows.board`.
        samples: where outcomes are read.
    """
    return replace(board, groups=tuple(_group(group, board.columns, samples) for group in board.groups))


def _group(group: Group, columns: Sequence[Column], samples: Samples) -> Group:
    rows = []
    for row in group.rows:
        scores = dict(row.scores)
        for column in columns:
            if (found := _interval(group, row, column, samples)) is not None:
                low, high = (round(end, DIGITS) for end in found)
                scores[column.key] = replace(scores[column.key], low=low, high=high)
        rows.append(replace(row, scores=scores))
    return Group(tuple(rows))


def _interval(group: Group, row: Row, column: Column, samples: Samples) -> Interval | None:
    """The interval of a score that is an H-score or a mean; None without one, and where outcomes are missing."""
    if row.value(column.key) is None:
        return None
    if row.kind == "mean":
        return _of_seeds(group, row, column, samples)
    parts = samples.parts(row, column) if column.kind == "h_score" else None
    if parts is None or not len(parts[0]) >= len(parts[1]) > 1:
        return None
    return h_interval(parts[0], parts[1])


def _of_seeds(group: Group, row: Row, column: Column, samples: Samples) -> Interval | None:
    sample = samples.of(singles(group, row.branch), column)
    if sample is None or min(sample.scores.shape) < 2:
        return None
    found = seeds_and_images(sample.scores, high=2.0)  # a single image's share in an H-score may pass 1
    # H-scores of more clean than corrupted images are not those of the images that both have.
    if found.interval is None or not math.isclose(found.value, row.value(column.key) or 0.0, abs_tol=1e-9):
        return None
    return Interval(found.interval.low, min(found.interval.high, 1.0))
