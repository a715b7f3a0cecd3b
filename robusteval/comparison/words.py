"""Parts of a comparison as short texts, for every renderer; percent and points appear from here on only."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from robusteval.comparison.branches import Facing
from robusteval.comparison.cautions import shared
from robusteval.comparison.compared import Comparison, Pair
from robusteval.comparison.expenses import Amount
from robusteval.comparison.lines import ScoreLine, Verdict
from robusteval.comparison.sides import Side
from robusteval.records import Run
from robusteval.report.page.details import shown
from robusteval.report.text import MISSING, clean, duration, factor, mebibytes, number, percent, points, scaled

LEGEND = (
    "Percent, and points of difference, B less A, with its paired {level} interval (of each score alone). p: after "
    "Holm's correction over the {tests}; it decides the verdict on B. only: images that only A or only B gets right."
)


def legend(comparison: Comparison) -> str:
    """What the columns of scores mean."""
    counts = (comparison.tests, comparison.tests_of_others)
    if not any(counts):
        return "Percent, and points of difference, B less A. Nothing could be tested."
    deployed, others = (f"{count} test{'' if count == 1 else 's'}" for count in counts)
    apart = f"{deployed} of deployed branches, and apart from them over the {others} of other branches"
    tests = apart if counts[1] else f"{deployed} of this comparison"
    return LEGEND.format(level=f"{number(100 * comparison.level)} %", tests=tests)


def values(line: ScoreLine) -> tuple[str, str]:
    """A's and B's values in percent."""
    return percent(line.first), percent(line.second)


def only(line: ScoreLine) -> tuple[str, str]:
    """How many images only A and only B gets right; empty where that is not a number of images."""
    counts = (line.first_only, line.second_only)
    return ("", "") if None in counts else (f"{counts[0]} only", f"{counts[1]} only")


def difference(line: ScoreLine) -> str:
    """The difference in points."""
    return MISSING if line.difference is None else points(line.difference)


def interval(line: ScoreLine) -> str:
    """The interval of the difference in points; empty without one."""
    return "" if line.low is None or line.high is None else f"{points(line.low)} to {points(line.high)}"


def probability(p: float | None) -> str:
    """A p-value.

    >>> probability(0.0312), probability(1.0), probability(2e-9), probability(None)
    ('0.031', '1', '<0.001', '–')
    """
    if p is None:
        return MISSING
    return "<0.001" if p < 0.0005 else f"{p:.3f}".rstrip("0").rstrip(".")


def verdict(line: ScoreLine) -> str:
    """The verdict, and why where it is none."""
    return line.verdict + (f": {clean(line.reason, 200)}" if line.reason and line.p is None else "")


def remark(line: ScoreLine) -> str:
    """What was compared, where that is not the number that the column promises; else empty."""
    return line.reason if line.p is not None else ""


def amount(value: float | None, unit: Amount) -> str:
    """A cost with its unit."""
    if unit == "seconds":
        return duration(value)
    if unit == "bytes":
        return mebibytes(value)
    return number(value) if unit == "passes" else scaled(value, "FLOP" if unit == "FLOPs" else "")


def ratio(value: float | None) -> str:
    """B's cost over A's."""
    return factor(value)


def changed(found: Sequence[Any]) -> str:
    """The values of an option on one side: digests by their beginning, numbers as suites write them.

    >>> changed(["4a0d74301d7d99b54359f79e60d40783b3305ba3+changes"]), changed([8 / 255, 0.2]), changed([])
    ('4a0d74301d7d+changes', '8/255 | 0.2', '–')
    """
    return " | ".join(map(_value, found)) or MISSING


def _value(one: Any) -> str:
    if one is None:
        return "none"
    if isinstance(one, float):
        return shown(one)
    text = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
    return clean(re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,52}\b", r"\1", text), 200)


def title(pair: Pair) -> tuple[str, str]:
    """The names of both sides: labels, and what else tells them apart."""
    sides = (pair.first, pair.second)
    places = len({side.place for side in sides}) > 1
    chosen = any(side.chosen for side in sides)
    ours, theirs = (_named(side, placed=places, branched=chosen) for side in sides)
    return ours, theirs


def _named(side: Side, *, placed: bool, branched: bool) -> str:
    where = f" ({' / '.join(clean(part, 40) for part in side.place)})" if placed else ""
    branch = f", branch {clean(side.branch, 60)}" if branched else ""
    return clean(side.label, 60) + where + branch


def runs(pair: Pair) -> dict[str, str]:
    """Which runs the sides are: their ids, their folders where those are the same; or the seeds."""
    if pair.same_runs:
        return {"A and B": _which(pair.first, folders=True)}
    sides = [[stored.run.id for stored in side.runs] for side in (pair.first, pair.second)]
    folders = sides[0] == sides[1]
    return {"A": _which(pair.first, folders=folders), "B": _which(pair.second, folders=folders)}


def sameness(pair: Pair) -> str:
    """What the networks of both sides have in common; empty if it is nothing."""
    if not pair.same_weights:
        return ""
    if pair.first.branch != pair.second.branch:
        return "two branches of the same network" + ("" if len(pair.first.runs) == 1 else "s")
    return f"the same weights{', the same numbers' if pair.same else ''}"


def deployed(pair: Pair) -> str:
    """Which branches the scores are of, where that is to be told; else empty."""
    ours, theirs = (clean(side.branch, 60) for side in (pair.first, pair.second))
    if pair.first.chosen or pair.second.chosen:
        return ""
    if ours != theirs:
        return f"Deployed: {ours} (A), {theirs} (B)"
    return f"Deployed: {ours}" if any(facing.both for facing in pair.others) else ""


def values_alone(facing: Facing) -> str:
    """The scores of a branch that only one side has."""
    values = ((line.label, line.second if facing.first is None else line.first) for line in facing.scores)
    return ", ".join(f"{clean(label, 60)} {percent(value)}" for label, value in values if value is not None)


def _which(side: Side, *, folders: bool) -> str:
    names = [clean(stored.folder if folders else stored.run.id, 200) for stored in side.runs]
    if len(names) == 1:
        return names[0]
    where = f" in {clean(side.head.folder.parent, 200)}" if folders else ""
    return f"{len(names)} seeds ({', '.join(map(str, side.seeds))}){where}"


def alone(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """The runs that face nobody, by side: ``A (2)`` and their names; places only where there are several."""
    sides = {"A": comparison.only_first, "B": comparison.only_second}
    places = {(stored.run.dataset, stored.run.architecture) for runs in sides.values() for stored in runs}
    several = len(places | {side.place for pair in comparison.pairs for side in (pair.first, pair.second)}) > 1
    for name, found in sides.items():
        if found:
            yield f"{name} ({len(found)})", [_cell(stored.run, placed=several) for stored in found]


def _cell(run: Run, *, placed: bool) -> str:
    where = f" on {clean(run.dataset, 40)} / {clean(run.architecture, 40)}" if placed else ""
    return f"{clean(run.label, 60)} s{run.seed}{where}"


def heading(pair: Pair) -> str:
    """The names of both sides, or the one that they share."""
    ours, theirs = title(pair)
    one, two = ((side.label, side.place) for side in (pair.first, pair.second))
    if one == two and pair.first.chosen != pair.second.chosen:
        branches = (clean(side.branch, 60) for side in (pair.first, pair.second))
        return "{}: {} (A), {} (B)".format(clean(pair.first.label, 60), *branches)
    return ours if one == two else f"{ours} (A) against {theirs} (B)"


def quiet(comparison: Comparison) -> list[Pair]:
    """The pairs, of several, of the same weights and numbers that have no caution but those that all have."""
    if len(comparison.pairs) < 2:
        return []
    everywhere = shared([pair.cautions for pair in comparison.pairs])
    return [pair for pair in comparison.pairs if pair.same and not {*pair.cautions} - {*everywhere}]


def listed(names: Sequence[str]) -> str:
    """Names, one after the other.

    >>> listed(["a", "b"]), listed(["a, branch aux", "b"])
    ('a, b', 'a, branch aux; b')
    """
    return ("; " if any("," in name for name in names) else ", ").join(names)


def overview(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The pairs that are not `quiet`: headings, and differences with verdicts in a word, a row a pair and a branch."""
    silent = quiet(comparison)
    pairs = [pair for pair in comparison.pairs if pair not in silent]
    labels = list(dict.fromkeys(line.label for pair in pairs for line in pair.scores if not line.corruption))
    places = len({pair.first.place for pair in comparison.pairs}) > 1
    rows = []
    for pair in pairs:
        where = f" ({' / '.join(clean(part, 40) for part in pair.first.place)})" if places else ""
        every = {"": pair.scores} | {f", branch {clean(one.name, 60)}": one.scores for one in pair.others if one.both}
        for branch, scores in every.items():
            own = {line.label: line for line in scores}
            cells = [_brief(own[label]) if label in own else MISSING for label in labels]
            rows.append([heading(pair) + where + branch, *cells])
    return ["B less A", *labels], rows


def _brief(line: ScoreLine) -> str:
    shown = {"better": " better", "worse": " worse"}.get(line.verdict, "")
    return line.verdict if line.difference is None else difference(line) + shown


def tallies(comparison: Comparison) -> tuple[str, str]:
    """The tally of the scores of the pairs, and that of their other branches; empty where no others face each other."""
    beside = [line for pair in comparison.pairs for one in pair.others if one.both for line in one.scores]
    return tally(line for pair in comparison.pairs for line in pair.scores), tally(beside) if beside else ""


def tally(lines: Iterable[ScoreLine]) -> str:
    """How many scores are better, worse and so on.

    >>> tally([])
    'no score'
    """
    counts = Counter(line.verdict for line in lines)
    order: tuple[Verdict, ...] = ("better", "worse", "not distinguishable", "not tested", "not comparable", "missing")
    return ", ".join(f"{counts[one]} {one}" for one in order if counts[one]) or "no score"
