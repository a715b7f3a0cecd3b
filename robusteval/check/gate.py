"""The verdict on every number and every cost: what fell beyond what trainings, images and the tolerance explain.

A number that cannot be compared is never passed over: what is missing, or was measured in another way, is an error
that says so and asks for a new baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robusteval.check.baseline import Baseline, Cell, Number, Quantity
from robusteval.check.bills import bills
from robusteval.check.changes import changed_cell, changed_quantity, counterpart
from robusteval.check.drops import Drop, Paired, drops

Verdict = Literal[
    "same", "within", "better", "regression", "flagged", "missing", "not comparable", "new", "weaker attack"
]
Weight = Literal["error", "warning", "news", "fine"]


@dataclass(frozen=True)
class Finding:
    """What the gate says of one number or cost.

    Attributes:
        cell, branch: whose; the branch is empty for a cell's own.
        subject: the quantity or cost.
        verdict: in a word or two.
        weight: an ``error`` turns the gate red; ``news`` asks for a new baseline.
        before, now: means over seeds, fractions; None for costs and where there is none.
        drop: with its interval; None where nothing could be compared.
        tolerance: of the drop.
        text: what happened, one sentence without the subject.
    """

    cell: str
    branch: str
    subject: str
    verdict: str
    weight: Weight
    text: str
    before: float | None = None
    now: float | None = None
    drop: Drop | None = None
    tolerance: float | None = None

    @property
    def name(self) -> str:
        """Cell, branch and subject in one."""
        return f"{self.cell} {self.branch} {self.subject}" if self.branch else f"{self.cell} {self.subject}"


@dataclass(frozen=True)
class Gate:
    """All findings, the errors first, and what the intervals allow for.

    Attributes:
        compared: numbers with an interval; the level of each is such that all are right together.
        false_alarms: the probability, at most, of one or more regressions over code that trains as well as before.
        notes: what to know of all of them.
    """

    findings: tuple[Finding, ...]
    compared: int
    false_alarms: float
    notes: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that turn the gate red."""
        return tuple(finding for finding in self.findings if finding.weight == "error")

    @property
    def red(self) -> bool:
        """Whether any finding is an error."""
        return bool(self.errors)

    def of(self, weight: Weight) -> tuple[Finding, ...]:
        """The findings of one weight."""
        return tuple(finding for finding in self.findings if finding.weight == weight)


def judge(before: Baseline, now: Baseline, *, slow_fails: bool = False) -> Gate:
    """The findings on what is measured now, against a baseline, whose tolerances hold.

    Args:
        before: the baseline.
        now: from `robusteval.check.collect`.
        slow_fails: a rise of the calibrated time is an error and no warning.
    """
    matched = _Matched(before, now)
    found = drops([pair for *_, pair in matched.pairs], false_alarms=before.false_alarms)
    findings = [
        _fallen(before, name, branch, key, old, new, drop, pair)
        for (name, branch, key, old, new, pair), drop in zip(matched.pairs, found, strict=True)
    ]
    findings += matched.findings
    for name, cell in before.cells.items():
        current = now.cells.get(name)
        if current is not None and not changed_cell(cell, current):
            tolerance = before.wall_tolerance
            for bill in bills(cell, current, tolerance=tolerance, slow_fails=slow_fails):
                findings.append(Finding(name, "", bill.subject, bill.verdict, bill.weight, bill.text))
    order: list[Weight] = ["error", "warning", "news", "fine"]
    findings.sort(key=lambda finding: order.index(finding.weight))
    return Gate(tuple(findings), len(matched.pairs), before.false_alarms, tuple(_notes(found, matched)))


class _Matched:
    """Numbers of both sides that measure the same, as pairs, and findings on all others."""

    def __init__(self, before: Baseline, now: Baseline) -> None:
        self.before, self.now = before, now
        self.pairs: list[tuple[str, str, str, Number, Number, Paired]] = []
        self.findings: list[Finding] = []
        self.keys = {key: counterpart(quantity, now.quantities) for key, quantity in before.quantities.items()}
        for name, branch, key, number in before.numbers():
            self._match(name, branch, key, number)
        for name, cell in now.cells.items():
            for seed, reason in cell.failed.items():
                self.findings.append(Finding(name, "", f"seed {seed}", "missing", "error", f"it failed: {reason}"))
        self.findings += self._news()

    def _match(self, name: str, branch: str, key: str, old: Number) -> None:
        quantity, cell = self.before.quantities[key], self.now.cells.get(name)
        twin = self.keys[key]
        new = cell.numbers.get(branch, {}).get(twin) if cell is not None and twin is not None else None
        mean = float(np.mean(old.values))
        if cell is not None and (why := changed_cell(self.before.cells[name], cell)):
            return self._refuse(name, branch, key, "not comparable", f"{why}; `--update` makes a new baseline", mean)
        if twin is None or cell is None or new is None:
            why = self._missing(name, branch, key)
            return self._refuse(name, branch, key, "missing", why, mean)
        if why := changed_quantity(quantity, self.now.quantities[twin]):
            return self._refuse(name, branch, key, "not comparable", f"{why}; `--update` makes a new baseline", mean)
        pair = self._pair(self.before.cells[name], cell, old, new, quantity, key)
        self.pairs.append((name, branch, key, old, new, pair))
        return None

    def _refuse(self, name: str, branch: str, key: str, verdict: Verdict, why: str, before: float) -> None:
        self.findings.append(Finding(name, branch, key, verdict, "error", why, before=before))

    def _missing(self, name: str, branch: str, key: str) -> str:
        """Why there is nothing to compare with a number of the baseline."""
        cell = self.now.cells.get(name)
        if cell is None:
            return "the baseline has this cell and the runs do not; if that is meant: `--update`"
        if not cell.seeds:
            return "the cell failed"
        if branch not in cell.numbers:
            there = ", ".join(cell.numbers) or "none"
            return f"there is no branch {branch} any more; there are: {there}; if that is meant: `--update`"
        return "it was not measured, or what single images gave was not kept"

    def _pair(self, before: Cell, now: Cell, old: Number, new: Number, quantity: Quantity, family: str) -> Paired:
        """The outcomes of both; where the networks are the baseline's own, only those of the very same networks."""
        first, second = old.scores(quantity), new.scores(quantity)
        places = {weights: i for i, weights in enumerate(before.weights) if weights is not None}
        fixed = all(weights in places for weights in now.weights)
        if fixed:
            first = first[[places[weights] for weights in now.weights if weights is not None]]
        return Paired(first, second, family, fixed, self.before.tolerated(family))

    def _news(self) -> Iterator[Finding]:
        """Numbers that the baseline has not."""
        known = {(name, branch, self.keys[key]) for name, branch, key, _ in self.before.numbers() if self.keys[key]}
        for name, branch, key, number in self.now.numbers():
            if (name, branch, key) not in known:
                text = "not in the baseline; `--update` adds it"
                yield Finding(name, branch, key, "new", "news", text, now=float(np.mean(number.values)))


def _fallen(
    before: Baseline, name: str, branch: str, key: str, old: Number, new: Number, drop: Drop, pair: Paired
) -> Finding:
    """The finding on a number that could be compared."""
    tolerance = before.tolerated(key)
    means = float(pair.before.mean()), float(pair.now.mean())
    course = f"from {100 * means[0]:.1f} % to {100 * means[1]:.1f} %"
    verdict: Verdict = "within"
    weight: Weight = "fine"
    if drop.low > tolerance:
        verdict, weight = "regression", "error"
    elif old.trust != "flagged" and new.trust == "flagged":
        verdict, weight = "flagged", "error"
    elif drop.high < -tolerance and pair.fixed and before.quantities[key].kind == "attack":
        # The same network cannot have become more robust: what changed is how it is attacked.
        verdict, weight = "weaker attack", "error"
    elif drop.high < -tolerance:
        # Nothing tells a better training from a weaker attack, so a robust accuracy that rises is not to be overlooked.
        verdict, weight = "better", "warning" if before.quantities[key].kind == "attack" else "news"
    elif np.array_equal(pair.before, pair.now):
        verdict = "same"
    text = {
        "regression": f"fell by {_points(drop.value)} ({_points(drop.low)} to {_points(drop.high)}), "
        f"{course}; tolerated: {_points(tolerance)}",
        "flagged": f"the trust in it was {old.trust} and is flagged: `robusteval show RUN` gives the reasons",
        "weaker attack": f"rose by {_points(-drop.value)} ({_points(-drop.high)} to {_points(-drop.low)}), "
        f"{course}, with the very weights of the baseline: the attack finds less than it did",
        "better": f"rose by {_points(-drop.value)}, {course}; if that is meant: `--update`",
    }.get(verdict, "")
    if weight == "warning":
        text += "; or did the attack get weaker?"
    return Finding(name, branch, key, verdict, weight, text, *means, drop, tolerance)


def _points(difference: float) -> str:
    return f"{100 * difference:.1f} points"


def _notes(found: Sequence[Drop], matched: _Matched) -> Iterator[str]:
    if blind := sum(drop.blind for drop in found):
        yield (
            f"{blind} of {len(found)} numbers could fall to 0 without an error: they are low already, or too few "
            "images and seeds are behind them"
        )
    alone = sum(1 for *_, pair in matched.pairs if not pair.fixed and len(pair.before) == len(pair.now) == 1)
    if alone:
        yield (
            f"{alone} numbers: the baseline holds one training, so how much trainings differ from each other is not "
            "known: these are comparisons of two networks; `--update --seeds 5` measures it"
        )
