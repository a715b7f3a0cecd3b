"""The scores of two sides, line by line: B less A where the two are numbers of the same thing, with the paired test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.comparison.cautions import Caution, differences, doubts
from robusteval.comparison.readings import Cell, Outcomes, Reading, cells, corruptions, read
from robusteval.records import Measurement
from robusteval.report.board.columns import Column, Kind
from robusteval.report.board.rows import Row
from robusteval.report.text import clean
from robusteval.stats import compare_scores, compare_seeds, holm, paired

Verdict = Literal["better", "worse", "not distinguishable", "not comparable", "not tested", "missing"]
"""Of B against A. ``not tested``: comparable, but the outcomes of single images were not kept for both."""

Test = Literal["McNemar, exact", "paired t", "t over seeds and images"]
"""For right and wrong answers; for means over an image's versions; where a side has several seeds."""


@dataclass(frozen=True)
class ScoreLine:
    """One score of both sides. Fractions in [0, 1]; None is unknown.

    Attributes:
        key: the column's, see `robusteval.report.board.columns`; lines of single corruptions add theirs.
        label: for readers; both sides' where they differ.
        kind: what it is.
        first, second: A's and B's values; of what was compared where something was.
        n: images compared.
        difference: ``second`` less ``first``; None where the two are not comparable.
        low, high: paired interval of the difference at the comparison's level.
        p: of equal values, of this line alone.
        p_holm: corrected for all lines of the comparison (Holm, 1979).
        test: which one ``p`` is from.
        first_only, second_only: images that only A or only B gets right; None for means and for several seeds.
        verdict: of B against A, by ``p_holm``.
        reason: why there is no difference or no test, or what was compared; may be empty.
        corruption: the one that it is of; None for a column's own line.
    """

    key: str
    label: str
    kind: Kind
    first: float | None
    second: float | None
    n: int | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    test: Test | None = None
    first_only: int | None = None
    second_only: int | None = None
    verdict: Verdict = "missing"
    reason: str = ""
    corruption: str | None = None


class Lines(NamedTuple):
    """The lines of a pair, and the cautions that came up."""

    scores: tuple[ScoreLine, ...]
    cautions: tuple[Caution, ...]


def score_lines(
    first: Sequence[Row],
    second: Sequence[Row],
    shown: Sequence[Column],
    outcomes: Outcomes,
    *,
    each_corruption: bool,
    level: float,
    apart: str = "",
) -> Lines:
    """The lines of two sides in the order of the columns, before `corrected`.

    Args:
        first: A's rows, one a run, all of one branch.
        second: B's.
        shown: the columns that they share.
        outcomes: where outcomes of images are read.
        each_corruption: whether the corruptions behind a mean have lines of their own.
        level: the coverage of intervals, in (0, 1).
        apart: the name of the branch, if cautions are to tell its scores from those of another.
    """
    scores: list[ScoreLine] = []
    cautions: list[Caution] = []
    for ours, theirs in _facing(first, second, shown):
        one, two = read(first, ours), read(second, theirs)
        label = ours.label if ours.label == theirs.label else f"{ours.label} / {theirs.label}"
        line = ScoreLine(ours.key, label, ours.kind, one.value, two.value)
        told = f"{label} ({clean(apart, 60)})" if apart else label
        line, found = _judged(line, one, two, outcomes, level, told=told)
        scores.append(line)
        cautions += found
        if each_corruption and ours.kind == "corruption":
            scores += _of_corruptions(line, one, two, outcomes, level)
    return Lines(tuple(scores), tuple(cautions))


def _facing(first: Sequence[Row], second: Sequence[Row], shown: Sequence[Column]) -> list[tuple[Column, Column]]:
    """The columns that face each other: the same; and of those that only one side has, the nearest of a task."""
    ours, theirs = ({key for row in rows for key in row.scores} for rows in (first, second))
    left = [column for column in shown if column.key in theirs - ours]
    found = []
    for column in shown:
        if column.key in ours & theirs:
            found.append((column, column))
        elif column.key in ours:
            kin = [other for other in left if (other.kind, other.measured[:2]) == (column.kind, column.measured[:2])]
            nearest = min(kin, key=lambda other: len({*other.measured[2]} ^ {*column.measured[2]}), default=column)
            found.append((column, nearest))
            left = [other for other in left if other is not nearest]
    places = {column.key: place for place, column in enumerate(shown)}
    return sorted([*found, *((column, column) for column in left)], key=lambda pair: places[pair[0].key])


def _judged(
    line: ScoreLine, one: Reading, two: Reading, outcomes: Outcomes, level: float, *, told: str
) -> tuple[ScoreLine, list[Caution]]:
    """The line with its verdict or test, and the cautions about the score, which they call ``told``."""
    if one.value is None or two.value is None:
        lacking = [(name, side.note) for name, side in (("A", one), ("B", two)) if side.value is None]
        reason = "; ".join(f"not measured in {name}" + (f" ({note})" if note else "") for name, note in lacking)
        return replace(line, reason=reason), [caution._replace(scores=(told,)) for caution in doubts(one, two)]
    why = differences(one, two)
    if why:
        topics = ", ".join(dict.fromkeys(caution.topic.lower() for caution in why))
        about = [caution._replace(scores=(told,)) for caution in why]
        return replace(line, verdict="not comparable", reason=topics), about
    cautions = [
        Caution("Missing seeds", f"{name}: {len(side.rows)} of {side.asked} runs have {clean(told, 120)}.")
        for name, side in (("A", one), ("B", two))
        if len(side.rows) < side.asked
    ]
    samples = outcomes.of(one), outcomes.of(two)
    scores = [None if sample is None else sample.scores for sample in samples]
    return _tested(line, scores[0], scores[1], level, together=_together(one, two)), cautions


def _together(one: Reading, two: Reading) -> bool:
    """Whether both are of the very same trainings, as two branches of one network are."""
    ours, theirs = ([row.stored.folder.resolve() for row in side.rows] for side in (one, two))
    return ours == theirs


def _tested(
    line: ScoreLine,
    first: npt.NDArray[Any] | None,
    second: npt.NDArray[Any] | None,
    level: float,
    *,
    together: bool,
) -> ScoreLine:
    """The line with the difference and its test; ``verdict`` is left to `corrected` where there is one.

    Args:
        line: so far.
        first: A's scores (seeds, n); None if they were not kept.
        second: B's.
        level: the coverage of the interval, in (0, 1).
        together: whether each seed of A is the same training as that of B, so that seeds are paired as images are.
    """
    assert line.first is not None
    assert line.second is not None
    shown = line.first, line.second
    if first is None or second is None or first.shape[1] < 2:
        lacking = " and ".join(name for name, scores in (("A", first), ("B", second)) if scores is None)
        reason = f"the outcomes of single images are not there for {lacking}" if lacking else "a single image"
        return replace(line, difference=shown[1] - shown[0], verdict="not tested", reason=reason)
    assert first.shape[1] == second.shape[1], "the same images"
    seeds, n = max(len(first), len(second)), first.shape[1]
    if seeds == 1 and first.dtype == second.dtype == np.bool_:
        found = paired(second[0], first[0], level=level)
        line = replace(line, low=found.interval.low, high=found.interval.high, p=found.p, test="McNemar, exact")
        line = replace(line, first_only=found.second_only, second_only=found.first_only)
    else:
        scores = (second.astype(np.float64) - first, np.zeros((1, n))) if together and seeds > 1 else (second, first)
        pairs = compare_seeds(scores, level=level) if seeds > 1 else compare_scores(np.concatenate(scores), level=level)
        low, high = float(pairs.low[0, 1]), float(pairs.high[0, 1])
        ends = (None, None) if np.isnan(low) else (max(low, -1.0), min(high, 1.0))
        test: Test = "t over seeds and images" if seeds > 1 else "paired t"
        line = replace(line, low=ends[0], high=ends[1], p=float(pairs.p[0, 1]), test=test)
    values = float(first.mean()), float(second.mean())
    fewer = "" if line.kind != "h_score" else _of_fewer(shown, values, n)
    return replace(
        line, first=values[0], second=values[1], n=n, difference=values[1] - values[0], reason=line.reason or fewer
    )


def _of_fewer(shown: Iterable[float], compared: Iterable[float], n: int) -> str:
    """What to know of H-scores whose parts are of unequal numbers of images."""
    alike = all(abs(one - other) < 1e-9 for one, other in zip(shown, compared, strict=True))
    return "" if alike else f"of the {n} images of both parts"


def _of_corruptions(
    mean: ScoreLine, one: Reading, two: Reading, outcomes: Outcomes, level: float
) -> Iterable[ScoreLine]:
    """A line for each corruption behind a mean, over its severities."""
    for name in dict.fromkeys([*corruptions(one), *corruptions(two)]):
        ours, theirs = cells(one, name), cells(two, name)
        first, second = _mean(ours), _mean(theirs)
        line = ScoreLine(f"{mean.key}: {name}", name, "corruption", first, second, corruption=name)
        if first is None or second is None:
            lacking = " or ".join(side for side, value in (("A", first), ("B", second)) if value is None)
            yield replace(line, reason=f"not measured in {lacking}")
        elif mean.verdict == "not comparable":
            yield replace(line, verdict="not comparable", reason=mean.reason)
        else:
            samples = outcomes.of_corruption(one, name), outcomes.of_corruption(two, name)
            yield _tested(line, *samples, level, together=_together(one, two))


def _mean(runs: Sequence[Mapping[Cell, Measurement]]) -> float | None:
    """The mean over runs and severities; None where one is missing."""
    found = [m.value for run in runs for m in run.values()]
    values = [value for value in found if value is not None]
    return float(np.mean(values)) if values and all(runs) and len(values) == len(found) else None


def corrected(lines: Sequence[ScoreLine], *, level: float) -> list[ScoreLine]:
    """The lines with their verdicts, the p-values corrected for all of them together; of every score more is better.

    Args:
        lines: from `score_lines`: a family, all that answers one question.
        level: 1 less the probability of a single wrong verdict among all.
    """
    tested = {place: line.p for place, line in enumerate(lines) if line.p is not None}
    found = list(lines)
    for place, p in zip(tested, holm(list(tested.values())), strict=True):
        gain = lines[place].difference or 0.0
        verdict: Verdict = "not distinguishable" if p > 1 - level else "better" if gain > 0 else "worse"
        found[place] = replace(lines[place], p_holm=float(p), verdict=verdict)
    return found
