"""The scores of one run: which record speaks for a cell, and what is derived from it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from robusteval.records import Measurement, Reason, Snapshot, Trust
from robusteval.report.board.columns import Column, Identity, cell, direct, identity
from robusteval.stats import harmonic
from robusteval.store import StoredRun


def worst(verdicts: Iterable[Trust]) -> Trust:
    """The verdict on several numbers together."""
    return max(verdicts, key=("plain", "ok", "unchecked", "flagged").index)


@dataclass(frozen=True)
class Score:
    """One cell; fractions in [0, 1].

    Attributes:
        value: None when it could not be measured; ``note`` says why.
        n: test images behind it.
        low, high: 95 % interval of a single run.
        task_key, outcomes: where its per-sample outcomes are (see `StoredRun.outcomes`); empty if derived.
        sd: standard deviation over ``seeds`` runs, for a mean over more than one.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    trust: Trust = "unchecked"
    reasons: tuple[Reason, ...] = ()
    note: str = ""
    task_key: str = ""
    outcomes: str = ""
    sd: float | None = None
    seeds: int = 1


def run_scores(
    stored: StoredRun, named: Mapping[Identity, str], shown: Sequence[Column], *, at: Snapshot | None = None
) -> dict[str, dict[str, Score]]:
    """Scores by branch and column key, of the final weights or of those that were kept on the way.

    Of several records of one quantity the newest version of the task speaks, then the one on more images; records of
    other weights do not count.
    """
    best: dict[tuple[str, str], tuple[tuple[int, int, str], Measurement]] = {}
    weights = at.weights_sha256 if at else stored.run.weights_sha256
    for task in stored.on_the_way if at else stored.tasks:
        for m in task.measurements if task.weights_sha256 == weights else ():
            key = None if cell(m) else named.get(identity(m))
            if key is not None and direct(m):
                place = (str(m.where.get("branch", stored.run.deployed)), key)
                claim = (task.version, m.n, task.key)
                if place not in best or claim > best[place][0]:
                    best[place] = (claim, m)
    found: dict[str, dict[str, Score]] = defaultdict(dict)
    for (branch, key), ((_, _, task_key), m) in sorted(best.items()):
        found[branch][key] = Score(m.value, m.n, m.low, m.high, m.trust, m.reasons, m.note, task_key, m.outcomes or "")
    for scores in found.values():
        for column in shown:
            if column.source in scores:
                derived = _derived(column, scores[column.source], scores)
                if derived is not None:
                    scores[column.key] = derived
    return dict(found)


def _derived(column: Column, source: Score, scores: Mapping[str, Score]) -> Score | None:
    """The corruption error, or the H-score with an interval that covers whatever the correlation of its parts."""
    if column.kind == "error":
        ends = [None if end is None else 1 - end for end in (source.value, source.high, source.low)]
        return Score(ends[0], source.n, ends[1], ends[2], source.trust, source.reasons, source.note)
    clean = scores.get("clean_accuracy")
    if clean is None:
        return None
    pairs = [(clean.value, source.value), (clean.low, source.low), (clean.high, source.high)]
    value, low, high = (None if a is None or b is None else harmonic(a, b) for a, b in pairs)
    trust = worst((clean.trust, source.trust))
    reasons = tuple(dict.fromkeys(clean.reasons + source.reasons))
    return Score(value, min(clean.n, source.n), low, high, trust, reasons, source.note or clean.note)


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean over runs of different seeds of scores that have a value, with its standard deviation."""
    values = [score.value for score in scores if score.value is not None]
    return Score(
        value=statistics.fmean(values),
        n=min(score.n for score in scores),
        trust=worst(score.trust for score in scores),
        reasons=tuple(dict.fromkeys(reason for score in scores for reason in score.reasons)),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        seeds=len(values),
    )
