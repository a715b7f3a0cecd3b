"""What every single image gave a score, so that rows can be compared image by image, and the ranks that this bears."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.errors import UserError
from robusteval.records import TaskRecord
from robusteval.report.board.columns import Column
from robusteval.report.board.rows import Group, Row
from robusteval.stats import Pairwise, compare_outcomes, compare_scores, compare_seeds, linear_h_scores, ranks
from robusteval.store import StoredRun

CLEAN = "clean_accuracy"
"""The column that H-scores have in common with corruption accuracies."""

Images = tuple[str, int]
"""The digest of a test set, and how many of its images, from the first."""

Scores = npt.NDArray[Any]
"""Of single images, the last axis: bool where an image is right or wrong, else float64."""


class Sample(NamedTuple):
    """The scores of single images behind one number of the leaderboard.

    Attributes:
        scores: (seeds, n); their mean is the number (for H-scores on unequal numbers of images: nearly the H-score of
            those that both parts have).
        images: which they are, in their order; equal for samples that may be paired.
    """

    scores: Scores
    images: Images


class Unread(NamedTuple):
    """A file of outcomes that is not what was written.

    Attributes:
        stored: the run that it is of.
        task: whose outcomes they are.
        error: what is wrong with it.
    """

    stored: StoredRun
    task: str
    error: UserError


class Samples:
    """Reads samples of runs, every file once.

    Attributes:
        unread: the damaged files met so far; for whoever shows what is made of the samples to tell.
    """

    def __init__(self) -> None:
        self.unread: list[Unread] = []
        self._files: dict[tuple[str, str], Mapping[str, Scores]] = {}

    def of(self, rows: Sequence[Row], column: Column) -> Sample | None:
        """The sample of a column over the runs of several seeds, or of one; None where outcomes are missing.

        Args:
            rows: of one branch; ``run`` rows, no means. Those without a number in the column have no part in it.
            column: the score.
        """
        found = [self._one(row, column) for row in rows if row.value(column.key) is not None]
        known = [one for one in found if one is not None]
        if not known or len(known) < len(found) or len({one.images for one in known}) > 1:
            return None
        return Sample(np.concatenate([one.scores for one in known]), known[0].images)

    def _one(self, row: Row, column: Column) -> Sample | None:
        if column.kind == "h_score":
            return self._h_score(row, column)
        score = row.scores[column.source or column.key]
        of_cells = column.kind in ("corruption", "error")
        scores = self._read(row.stored, score.task_key).get(f"branch {row.branch}" if of_cells else score.outcomes)
        if scores is None or scores.shape != (score.n,):
            return None
        scores = 1 - scores if column.kind == "error" else scores
        return Sample(scores[None], (_digest(row.stored, score.task_key), score.n))

    def _h_score(self, row: Row, column: Column) -> Sample | None:
        parts = self.parts(row, column)
        if parts is None:
            return None
        clean, shifted, (digest, n) = parts
        return Sample(linear_h_scores(clean[:n], shifted[:n])[None], (digest, n))

    def parts(self, row: Row, column: Column) -> tuple[Scores, Scores, Images] | None:
        """What an H-score is made of: clean and shifted scores, each (images,), and the images that both have.

        None where outcomes are missing, or are not of one test set.
        """
        clean, shifted = row.scores[CLEAN], row.scores[column.source or ""]
        of_clean = self._read(row.stored, clean.task_key).get(clean.outcomes)
        of_shifted = self._read(row.stored, shifted.task_key).get(f"branch {row.branch}")
        digests = {_digest(row.stored, score.task_key) for score in (clean, shifted)}
        if of_clean is None or of_shifted is None or len(digests) > 1:
            return None
        return of_clean, of_shifted, (digests.pop(), min(len(of_clean), len(of_shifted)))

    def _read(self, stored: StoredRun, task_key: str) -> Mapping[str, Scores]:
        """The outcomes of a task by their keys; of a mean over cells instead the mean of each image, by branch."""
        place = (str(stored.folder), task_key)
        if place not in self._files:
            task = _task(stored, task_key)
            self._files[place] = {} if task is None else self._kept(stored, task)
        return self._files[place]

    def _kept(self, stored: StoredRun, task: TaskRecord) -> Mapping[str, Scores]:
        if not any(m.outcomes for m in task.measurements):
            return {}
        try:
            arrays = stored.all_outcomes(task.key)
        except UserError as error:
            self.unread.append(Unread(stored, task.task, error))
            return {}
        if not any(m.metric == "mean_accuracy" for m in task.measurements):
            return arrays
        cells: dict[str, list[Scores | None]] = defaultdict(list)
        for m in task.measurements:
            if m.metric == "accuracy":
                branch = str(m.where.get("branch", stored.run.deployed))
                cells[f"branch {branch}"].append(arrays.get(m.outcomes or ""))
        return {branch: mean for branch, of in cells.items() if (mean := _mean(of)) is not None}


def _mean(cells: Sequence[Scores | None]) -> Scores | None:
    """The share of an image's corrupted versions that are right; None where a cell's outcomes are missing."""
    kept = [one for one in cells if one is not None]
    if len(kept) < len(cells) or len({one.shape for one in kept}) > 1:
        return None
    return np.asarray(np.sum(np.stack(kept), axis=0, dtype=np.float64) / len(kept))


def _task(stored: StoredRun, task_key: str) -> TaskRecord | None:
    return next((task for task in stored.tasks if task.key == task_key), None)


def _digest(stored: StoredRun, task_key: str) -> str:
    task = _task(stored, task_key)
    return "" if task is None else task.test_data.digest


def singles(group: Group, branch: str | None = None) -> tuple[Row, ...]:
    """The rows of the group's single runs, of its deployed branch or another."""
    wanted = branch or group.head.branch
    return tuple(row for row in group.rows if row.kind == "run" and row.branch == wanted)


class Compared(NamedTuple):
    """The groups whose scores in one column are of the same images, and each against each.

    Attributes:
        groups: without those that have no outcomes or a doubtful number.
        images: which they are.
        pairs: its matrices are in the order of the groups; differences are of what the column shows.
    """

    groups: tuple[Group, ...]
    images: Images
    pairs: Pairwise


def compared(
    groups: Sequence[Group], column: Column, samples: Samples, *, level: float | None = 0.95
) -> list[Compared]:
    """The comparisons that a column bears: one for all groups that were judged on the same images.

    Args:
        groups: of one data set.
        column: the score.
        samples: where outcomes are read.
        level: the coverage of the intervals; None: the tests alone, and whatever intervals cost no time.
    """
    alike: dict[Images, list[tuple[Group, Scores]]] = defaultdict(list)
    for group in groups:
        head = group.head.scores.get(column.key)
        if head is not None and head.trust != "flagged":
            sample = samples.of(singles(group), column)
            if sample is not None:
                alike[sample.images].append((group, sample.scores))
    return [
        Compared(tuple(group for group, _ in members), images, _pairs([scores for _, scores in members], level))
        for images, members in alike.items()
        if len(members) > 1 and images[1] > 1
    ]


def _pairs(scores: Sequence[Scores], level: float | None) -> Pairwise:
    """The test that the scores of each pair call for: exact for right or wrong, by seeds where there are several."""
    rows = np.concatenate([one[:1] for one in scores])
    alone = np.array([len(one) == 1 for one in scores])
    if alone.all():
        return _single_pairs(rows, level)
    found = compare_seeds(scores, level=level or 0.95)
    if alone.sum() > 1:
        block = np.ix_(alone, alone)
        for matrix, part in zip(found, _single_pairs(rows[alone], level), strict=True):
            matrix[block] = part
    return found


def _single_pairs(rows: Scores, level: float | None) -> Pairwise:
    return compare_outcomes(rows, level=level) if rows.dtype == np.bool_ else compare_scores(rows, level=level or 0.95)


class Place(NamedTuple):
    """The ranks that a group may have among ``of`` in one column; see `robusteval.stats.ranks`."""

    best: int
    worst: int
    of: int


def places(groups: Sequence[Group], column: Column, samples: Samples) -> dict[int, Place]:
    """The place of each group by the identity of its head row; groups that cannot be compared have none."""
    found: dict[int, Place] = {}
    for one in compared(groups, column, samples, level=None):
        pairs = one.pairs
        if column.better < 0:
            pairs = pairs._replace(difference=-pairs.difference)
        ranked = ranks(pairs)
        for group, best, worst in zip(one.groups, ranked.best, ranked.worst, strict=True):
            found[id(group.head)] = Place(int(best), int(worst), len(one.groups))
    return found
