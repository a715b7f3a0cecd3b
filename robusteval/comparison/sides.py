"""Which runs face which: the same cell in two results, or two configurations whatever their names."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from robusteval.errors import UserError
from robusteval.report.board.rows import age
from robusteval.store import StoredRun

By = Literal["cell", "side"]
"""How runs are matched; see `match`."""

Place = tuple[str, str]
"""Data set and architecture."""


@dataclass(frozen=True)
class Side:
    """The trainings of one configuration with different seeds, or a single one.

    Attributes:
        runs: by seed; at least one.
        chosen: the BatchNorm branch that is looked at; None: the one that they deploy, and the others beside it.
    """

    runs: tuple[StoredRun, ...]
    chosen: str | None = None

    @property
    def head(self) -> StoredRun:
        """The run that speaks for what all have in common: the first that finished."""
        return next((stored for stored in self.runs if stored.run.status == "done"), self.runs[0])

    @property
    def label(self) -> str:
        """What the configuration is called."""
        return self.head.run.label

    @property
    def branch(self) -> str:
        """The BatchNorm branch that is looked at."""
        return self.chosen or self.head.run.deployed

    @property
    def place(self) -> Place:
        """Data set and architecture."""
        return self.head.run.dataset, self.head.run.architecture

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in order."""
        return tuple(stored.run.seed for stored in self.runs)

    @property
    def weights(self) -> tuple[str | None, ...]:
        """The digests of the weights, by seed."""
        return tuple(stored.run.weights_sha256 for stored in self.runs)


class Matching(NamedTuple):
    """Who faces whom, and who faces nobody."""

    pairs: tuple[tuple[Side, Side], ...]
    only_first: tuple[StoredRun, ...]
    only_second: tuple[StoredRun, ...]


def match(first: Sequence[StoredRun], second: Sequence[StoredRun], *, by: By = "cell") -> Matching:
    """The runs of two results that face each other.

    Args:
        first: A's runs.
        second: B's runs.
        by: ``cell``: the same data set, architecture, label and seed, as in the results of one suite before and after
            a change; matched cells that differ in nothing but the seed make one pair. ``side``: all of A against all
            of B, whatever their labels, each a configuration with one seed or several; if a side has several data sets
            or architectures, by those.

    Raises:
        UserError: ``side``, and a side has several configurations at one place, or a seed twice.
    """
    return _by_cell(first, second) if by == "cell" else _by_side(first, second)


def _by_cell(first: Sequence[StoredRun], second: Sequence[StoredRun]) -> Matching:
    ours, theirs = _cells(first), _cells(second)
    matched = [pair for cell in sorted(ours) for pair in _alike(ours[cell], theirs.get(cell, []))]
    taken = {id(stored) for pair in matched for stored in pair}
    groups: dict[tuple[str, str], list[tuple[StoredRun, StoredRun]]] = defaultdict(list)
    for one, other in matched:
        groups[_configuration(one), _configuration(other)].append((one, other))
    pairs = [pair for members in groups.values() for pair in _grouped(members)]
    return Matching(tuple(pairs), _rest(first, taken), _rest(second, taken))


def _cells(runs: Iterable[StoredRun]) -> Mapping[tuple[str, str, str, int], list[StoredRun]]:
    found: dict[tuple[str, str, str, int], list[StoredRun]] = defaultdict(list)
    for stored in sorted(runs, key=age):
        run = stored.run
        found[run.dataset, run.architecture, run.label, run.seed].append(stored)
    return found


def _alike(ours: Sequence[StoredRun], theirs: Sequence[StoredRun]) -> list[tuple[StoredRun, StoredRun]]:
    """The runs of one cell that face each other: those of one id, and what is left if it is one on each side."""
    found = []
    for one in ours:
        same = [other for other in theirs if other.run.id == one.run.id]
        if len(same) == 1 and sum(other.run.id == one.run.id for other in ours) == 1:
            found.append((one, same[0]))
    taken = {id(stored) for pair in found for stored in pair}
    left, right = ([stored for stored in side if id(stored) not in taken] for side in (ours, theirs))
    return [*found, (left[0], right[0])] if len(left) == len(right) == 1 else found


def _grouped(members: Sequence[tuple[StoredRun, StoredRun]]) -> list[tuple[Side, Side]]:
    """One pair over the seeds; runs that repeat a seed are no independent draws, so each stands for itself."""
    if len({one.run.seed for one, _ in members}) < len(members):
        return [(Side((one,)), Side((other,))) for one, other in members]
    return [(Side(tuple(one for one, _ in members)), Side(tuple(other for _, other in members)))]


def _rest(runs: Iterable[StoredRun], taken: set[int]) -> tuple[StoredRun, ...]:
    return tuple(stored for stored in sorted(runs, key=age) if id(stored) not in taken)


def _by_side(first: Sequence[StoredRun], second: Sequence[StoredRun]) -> Matching:
    ours, theirs = _places(first, "A"), _places(second, "B")
    if len(ours) == len(theirs) == 1:
        return Matching(((next(iter(ours.values())), next(iter(theirs.values()))),), (), ())
    both = [place for place in ours if place in theirs]
    return Matching(
        tuple((ours[place], theirs[place]) for place in both),
        tuple(stored for place, side in ours.items() if place not in both for stored in side.runs),
        tuple(stored for place, side in theirs.items() if place not in both for stored in side.runs),
    )


def _places(runs: Sequence[StoredRun], name: str) -> dict[Place, Side]:
    """The side's runs by data set and architecture.

    Raises:
        UserError: those at one place are no seeds of one configuration.
    """
    found: dict[Place, list[StoredRun]] = defaultdict(list)
    for stored in sorted(runs, key=lambda stored: (stored.run.dataset, stored.run.architecture, stored.run.seed)):
        found[stored.run.dataset, stored.run.architecture].append(stored)
    for members in found.values():
        seeds = [stored.run.seed for stored in members]
        if len({_configuration(stored) for stored in members}) > 1 or len(set(seeds)) < len(seeds):
            ids = ", ".join(stored.run.id for stored in members)
            raise UserError(f"{name}: runs that are not seeds of one configuration: {ids}; allowed: the id of one")
    return {place: Side(tuple(members)) for place, members in found.items()}


def _configuration(stored: StoredRun) -> str:
    """What the seeds of a side share; the machine is no part of it."""
    run = stored.run
    parts = [run.dataset, run.train_data.model_dump(), run.architecture, run.method, run.label, run.options]
    return json.dumps([*parts, run.training], sort_keys=True, default=str)
