"""The leaderboard as typed rows: runs, their other branches, and means over seeds, in order.

A row group holds all seeds of one configuration. Its first row speaks for it: the run's deployed branch,
or the mean over seeds. Everything that renders reads these rows; nothing here formats.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robusteval.records import DataRef, Run, Trust
from robusteval.report.board.columns import Column, columns, names
from robusteval.report.board.costs import CostLine, Peers, mean_cost, trained
from robusteval.report.board.scores import Score, mean_score, run_scores
from robusteval.store import StoredRun


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard.

    Attributes:
        kind: ``run``, or ``mean`` over the seeds of a group.
        stored: the run; for a mean the first of the group that finished.
        branch: the BatchNorm branch that is judged.
        scores: by column key; a quantity that was never measured has no entry.
        cost: of the training as a whole; on the deployed branch's row only.
        seeds: the seeds behind it.
    """

    kind: Literal["run", "mean"]
    stored: StoredRun
    branch: str
    scores: Mapping[str, Score]
    cost: CostLine | None
    seeds: tuple[int, ...]

    @property
    def deployed(self) -> bool:
        """Whether this is the branch that the method ships."""
        return self.branch == self.stored.run.deployed

    @property
    def trust(self) -> Trust:
        """Flagged if any score is, ok if every attack score is and there is one, else unchecked."""
        if any(score.trust == "flagged" for score in self.scores.values()):
            return "flagged"
        attacks = [score.trust for key, score in self.scores.items() if not _plain(key)]
        return "ok" if attacks and all(trust == "ok" for trust in attacks) else "unchecked"

    def value(self, key: str) -> float | None:
        """The value of a score; None when it is missing for whatever reason."""
        score = self.scores.get(key)
        return None if score is None else score.value


@dataclass(frozen=True)
class Group:
    """All seeds of one configuration; ``rows[0]`` speaks for them."""

    rows: tuple[Row, ...]

    @property
    def head(self) -> Row:
        """The row that speaks for the group."""
        return self.rows[0]

    @property
    def speakers(self) -> tuple[Row, ...]:
        """The head and the same for the other branches: all rows but those of the single seeds under a mean."""
        return tuple(row for row in self.rows if row.kind == self.head.kind)

    @property
    def lines(self) -> tuple[Row, ...]:
        """The rows of the page's table: those that speak, and the deployed branches of the single seeds."""
        return tuple(row for row in self.rows if row.deployed or row.kind == self.head.kind)


@dataclass(frozen=True)
class Board:
    """The leaderboard: score columns and groups, ordered by data set, architecture and rank."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows in order."""
        return tuple(row for group in self.groups for row in group.rows)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets in order."""
        return tuple(dict.fromkeys(group.head.stored.run.dataset for group in self.groups))


def _plain(key: str) -> bool:
    return key.startswith(("clean_accuracy", "corruption_accuracy", "corruption_error", "h_score"))


def board(runs: Sequence[StoredRun]) -> Board:
    """The leaderboard of the runs."""
    named = names(m for stored in runs for task in stored.tasks for m in task.measurements)
    shown = columns(named)
    groups: dict[str, list[StoredRun]] = defaultdict(list)
    for stored in sorted(runs, key=lambda stored: (stored.run.seed, *age(stored))):
        groups[_configuration(stored)].append(stored)
    peers = Peers([stored.run for stored in sorted(runs, key=age)])

    def rows(stored: StoredRun) -> list[Row]:
        run = stored.run
        scores = run_scores(stored, named, shown)
        branches = sorted({run.deployed, *scores}, key=lambda name: (name != run.deployed, name))
        line = peers.line(run)
        return [
            Row("run", stored, name, scores.get(name, {}), line if name == run.deployed else None, (run.seed,))
            for name in branches
        ]

    made = [one for members in groups.values() for one in _grouped([rows(stored) for stored in members])]
    return Board(shown, tuple(sorted(made, key=lambda group: _rank(group, shown))))


def _configuration(stored: StoredRun) -> str:
    """What all seeds of a group share: everything but the seed and the time of day."""
    run = stored.run
    parts = [
        run.dataset,
        run.train_data.model_dump(),
        run.architecture,
        run.method,
        run.label,
        run.options,
        run.training,
    ]
    parts += [run.provenance.device, run.provenance.precision]
    return json.dumps(parts, sort_keys=True, default=str)


def _rank(group: Group, shown: Sequence[Column]) -> tuple[Any, ...]:
    """Data set, architecture, finished first, then by H-score, then by clean accuracy, then by name."""
    row, run = group.head, group.head.stored.run
    scores = [row.value(column.key) for kind in ("h_score", "clean") for column in shown if column.kind == kind]
    worst_last = [(value is None, -(value or 0.0)) for value in scores]
    return run.dataset, run.architecture, run.status != "done", worst_last, run.label, run.seed, *age(row.stored)


def _grouped(runs: Sequence[Sequence[Row]]) -> list[Group]:
    """The rows of a configuration, with means over its seeds in front if there are several."""
    seeds = [rows[0].stored.run.seed for rows in runs]
    # Runs that repeat a seed are no independent draws: no mean is taken over them, each stands for itself.
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        return [Group(tuple(rows)) for rows in runs]
    every = [row for rows in runs for row in rows]
    means = [_mean([row for row in every if row.branch == name]) for name in dict.fromkeys(row.branch for row in every)]
    return [Group((*means, *every))]


def _mean(rows: Sequence[Row]) -> Row:
    """The mean row of one branch over runs of different seeds."""
    scores: dict[str, Score] = {}
    for key in dict.fromkeys(key for row in rows for key in row.scores):
        known = [row.scores[key] for row in rows if row.value(key) is not None]
        if known:
            scores[key] = mean_score(known)
    cost = mean_cost([row.cost for row in rows if row.cost is not None and trained(row.stored.run)])
    stored = next((row.stored for row in rows if row.stored.run.status == "done"), rows[0].stored)
    return Row("mean", stored, rows[0].branch, scores, cost, tuple(row.stored.run.seed for row in rows))


def age(stored: StoredRun) -> tuple[str, str]:
    """A sorting key that tells runs of one id from different folders apart."""
    return stored.run.id, stored.run.provenance.created


def judged_on(stored: StoredRun) -> tuple[DataRef, ...]:
    """The test images that a run was judged on, each once."""
    return tuple(dict.fromkeys(task.test_data for task in stored.tasks))


def failures(runs: Iterable[StoredRun]) -> list[tuple[StoredRun, str]]:
    """The runs that did not finish, each with its reason."""
    return [(stored, _reason(stored.run)) for stored in runs if stored.run.status != "done"]


def _reason(run: Run) -> str:
    if run.status == "running":
        return "not finished: still running, or interrupted"
    return run.error or "no reason was recorded"
