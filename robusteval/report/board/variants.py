"""Tasks that vary an attack: which of a run's records speaks for each variant, and means over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from robusteval.options import fraction
from robusteval.records import Measurement, Scalar, TaskRecord
from robusteval.report.board.rows import Group, Row
from robusteval.report.board.scores import Score, mean_score
from robusteval.store import StoredRun

Where = tuple[tuple[str, Scalar], ...]


class Variant(NamedTuple):
    """What is the same for all numbers of a figure or table.

    Attributes:
        where: the sorted items that all measurements share, without branches.
        options: the task's options that change the numbers, as JSON.
    """

    where: Where
    options: str


class Measured(NamedTuple):
    """What one record says of one variant."""

    record: TaskRecord
    measurements: tuple[Measurement, ...]


def variants(stored: StoredRun, task: str, metric: str, varied: Collection[str]) -> dict[Variant, Measured]:
    """What a task found of the run's final weights, by variant.

    Of several records of one variant the newest version of the task speaks, then the one on more images.

    Args:
        stored: the run.
        task: its name.
        metric: that of its numbers.
        varied: the keys of ``where`` that tell the numbers of a variant apart; an option of such a name, or of its
            plural, does not make another variant, nor does the number of images.
    """
    found: dict[Variant, tuple[tuple[int, int, str], Measured]] = {}
    for record in stored.tasks:
        if record.task != task or record.weights_sha256 != stored.run.weights_sha256:
            continue
        ignored = {"limit", *varied, *(f"{key}s" for key in varied)}
        given = {key: value for key, value in record.options.items() if key not in ignored}
        options = json.dumps(given, sort_keys=True, default=str)
        parts: dict[Where, list[Measurement]] = {}
        for m in record.measurements:
            if m.metric == metric:
                hidden = {"branch", "attack_branch", *varied}
                parts.setdefault(tuple(sorted((k, v) for k, v in m.where.items() if k not in hidden)), []).append(m)
        for where, members in parts.items():
            claim = record.version, max(m.n for m in members), record.key
            place = Variant(where, options)
            if place not in found or claim > found[place][0]:
                found[place] = claim, Measured(record, tuple(members))
    return {variant: measured for variant, (_, measured) in found.items()}


def by_group(
    group: Group, task: str, metric: str, key: str, varied: Collection[str] = ()
) -> dict[Variant, dict[float, Score]]:
    """The scores of the branch that a group deploys, by variant and by a number in ``where``, which grows.

    Means over its seeds if the group has several. A number that could not be measured has no score.

    Args:
        group: the rows of one configuration.
        task: its name.
        metric: that of its numbers.
        key: of ``where``, whose entry is a number, or a fraction in words.
        varied: further keys that differ within a variant.
    """
    scores: dict[Variant, dict[float, list[Score]]] = {}
    for row in _members(group):
        for variant, measured in variants(row.stored, task, metric, {key, *varied}).items():
            for m in measured.measurements:
                at = position(m.where.get(key))
                if m.where.get("branch") == row.branch and m.value is not None and at is not None:
                    score = Score(m.value, m.n, m.low, m.high, m.trust, m.reasons, m.note)
                    scores.setdefault(variant, {}).setdefault(at, []).append(score)
    mean = group.head.kind == "mean"
    return {
        variant: {at: mean_score(found) if mean else found[0] for at, found in sorted(places.items())}
        for variant, places in scores.items()
    }


def position(value: Scalar | None) -> float | None:
    """A number, or a fraction in words, as the place on an axis; None for anything else.

    >>> position("51/255"), position("nan"), position("far"), position(None)
    (0.2, None, None, None)
    """
    number = fraction(value)
    return float(number) if isinstance(number, int | float) and math.isfinite(number) else None


def _members(group: Group) -> Sequence[Row]:
    """The single runs behind a group's head."""
    return [row for row in group.rows if row.kind == "run" and row.deployed]
