"""What training would have been worth had it stopped earlier: scores of weights kept on the way, with their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from robusteval.records import Cost, Snapshot
from robusteval.report.board.columns import Column, Identity, columns, names
from robusteval.report.board.costs import trained
from robusteval.report.board.rows import Group
from robusteval.report.board.scores import Score, mean_score, run_scores
from robusteval.store import StoredRun


class Stop(NamedTuple):
    """Weights that training could have ended with.

    Attributes:
        epoch: after how many epochs.
        final: whether training ended with them.
        flops, wall_s: what training had cost by then; seconds are None if unknown.
        scores: by branch and column key.
    """

    epoch: int
    final: bool
    flops: float
    wall_s: float | None
    scores: Mapping[str, Mapping[str, Score]]

    def score(self, branch: str, key: str) -> Score | None:
        """A score; None where it was not measured."""
        return self.scores.get(branch, {}).get(key)


class Course(NamedTuple):
    """The stops of a group in order, means over its seeds if it has several; the final weights come last."""

    group: Group
    stops: tuple[Stop, ...]

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that were judged at any stop, the deployed one first."""
        found = {branch for stop in self.stops for branch in stop.scores}
        deployed = self.group.head.stored.run.deployed
        return tuple(sorted(found, key=lambda name: (name != deployed, name)))


def courses(groups: Sequence[Group]) -> tuple[tuple[Column, ...], list[Course]]:
    """The measured scores, and the courses of those groups that were judged on the way; often there are none."""
    members = {
        id(group): [row.stored for row in group.rows if row.kind == "run" and row.deployed and row.stored.on_the_way]
        for group in groups
    }
    named = names(
        m
        for runs in members.values()
        for stored in runs
        for task in (*stored.tasks, *stored.on_the_way)
        for m in task.measurements
    )
    shown = tuple(column for column in columns(named) if column.source is None)
    found = []
    for group in groups:
        stops = _mean_stops([_stops(stored, named, shown) for stored in members[id(group)]])
        if any(not stop.final for stop in stops):
            found.append(Course(group, stops))
    return shown, found


def _stops(stored: StoredRun, named: Mapping[Identity, str], shown: Sequence[Column]) -> list[Stop]:
    """The stops of one run at which anything was measured."""
    run = stored.run
    found = [
        _stop(stored, named, shown, snapshot.cost, snapshot.epoch, snapshot)
        for snapshot in run.snapshots
        if snapshot.weights_sha256 != run.weights_sha256
    ]
    if trained(run) and run.cost is not None:
        last = stored.history[-1].epoch if stored.history else int(run.training.get("epochs", 0))
        found.append(_stop(stored, named, shown, run.cost, last, None))
    return sorted((stop for stop in found if stop.scores), key=lambda stop: (stop.final, stop.epoch))


def _stop(
    stored: StoredRun,
    named: Mapping[Identity, str],
    shown: Sequence[Column],
    cost: Cost,
    epoch: int,
    at: Snapshot | None,
) -> Stop:
    scores = run_scores(stored, named, shown, at=at)
    return Stop(epoch, at is None, cost.flops, cost.wall_s.get("train"), scores)


def _mean_stops(runs: Sequence[Sequence[Stop]]) -> tuple[Stop, ...]:
    """The means over runs, at the epochs that all have: a line must not bend because a seed is missing."""
    runs = [stops for stops in runs if stops]
    if len(runs) < 2:
        return tuple(runs[0]) if runs else ()
    tables = [{(stop.final, stop.epoch): stop for stop in stops} for stops in runs]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    return tuple(_mean_stop([table[key] for table in tables]) for key in common)


def _mean_stop(stops: Sequence[Stop]) -> Stop:
    scores: dict[str, dict[str, Score]] = {}
    for branch, key in dict.fromkeys((b, k) for stop in stops for b, table in stop.scores.items() for k in table):
        each = [stop.score(branch, key) for stop in stops]
        known = [score for score in each if score is not None and score.value is not None]
        if len(known) == len(stops):
            scores.setdefault(branch, {})[key] = mean_score(known)
    seconds = [stop.wall_s for stop in stops if stop.wall_s is not None]
    wall = fmean(seconds) if len(seconds) == len(stops) else None
    return Stop(stops[0].epoch, stops[0].final, fmean(stop.flops for stop in stops), wall, scores)
