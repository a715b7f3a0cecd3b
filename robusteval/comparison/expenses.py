"""What both sides cost: side by side, and as a ratio where the two were measured in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from robusteval.comparison.cautions import NONE, Caution
from robusteval.records import Cost, Run
from robusteval.report.board.costs import mean_cost, trained
from robusteval.report.board.rows import Row
from robusteval.report.text import clean

Amount = Literal["count", "passes", "FLOPs", "seconds", "bytes"]
"""What a cost is an amount of; passes are per training image."""

PARAMETERS, IMAGES = "Parameters", "Training images seen"
FORWARD, BACKWARD = "Forward passes per image", "Backward passes per image"
FLOPS, FLOPS_TOGETHER = "FLOPs of training", "FLOPs with the teacher's"
SECONDS, MEMORY = "Training time", "Peak memory"

AMOUNTS: dict[str, Amount] = {
    PARAMETERS: "count",
    IMAGES: "count",
    FORWARD: "passes",
    BACKWARD: "passes",
    FLOPS: "FLOPs",
    FLOPS_TOGETHER: "FLOPs",
    SECONDS: "seconds",
    MEMORY: "bytes",
}
"""The costs in their order."""


@dataclass(frozen=True)
class Expense:
    """One cost of both sides, a mean over their seeds. None is unknown.

    Attributes:
        name: what it is.
        amount: its unit.
        first, second: A's and B's.
        ratio: ``second`` over ``first``; None where the two are not comparable.
        reason: why they are not; may be empty.
    """

    name: str
    amount: Amount
    first: float | None
    second: float | None
    ratio: float | None
    reason: str = ""


def expenses(first: Sequence[Row], second: Sequence[Row]) -> tuple[tuple[Expense, ...], tuple[Caution, ...]]:
    """The costs of two sides and the cautions about them. Those of trainings that did not finish are left out.

    Args:
        first: A's rows, one a run.
        second: B's.
    """
    cautions = [*_teachers(first, second), *_machines(first, second)]
    withheld = {name: caution.topic.lower() for caution in cautions for name in caution.scores}
    ours, theirs = _totals(first), _totals(second)
    found = []
    for name, amount in AMOUNTS.items():
        one, two, reason = ours.get(name), theirs.get(name), withheld.get(name, "")
        if name == FLOPS_TOGETHER and not any(row.stored.run.teacher for row in (*first, *second)):
            continue
        ratio = two / one if one and two is not None and not reason else None
        found.append(Expense(name, amount, one, two, ratio, reason))
    return tuple(found), tuple(cautions)


def _totals(rows: Sequence[Row]) -> dict[str, float | None]:
    """The costs by name."""
    parameters = {PARAMETERS: fmean(row.stored.run.parameters for row in rows)}
    cost = mean_cost([row.cost for row in rows if row.cost is not None and trained(row.stored.run)])
    if cost is None:
        return {**parameters}
    return parameters | {
        IMAGES: cost.images,
        FORWARD: cost.forward_total,
        BACKWARD: cost.backward_total,
        FLOPS: cost.flops,
        FLOPS_TOGETHER: cost.flops if cost.teacher is None else cost.flops_together,
        SECONDS: cost.wall_s.get("train"),
        MEMORY: cost.peak_memory_bytes,
    }


def _teachers(first: Sequence[Row], second: Sequence[Row]) -> list[Caution]:
    """The caution where the sides did not learn from the same network."""
    ours, theirs = (sorted({row.stored.run.teacher or NONE for row in rows}) for rows in (first, second))
    if ours == theirs:
        return []
    text = (
        f"A's teacher: {clean(', '.join(ours), 200)}; B's: {clean(', '.join(theirs), 200)}. "
        "What training a teacher cost is not in the costs of its students."
    )
    return [Caution("Different teachers", text, (FORWARD, BACKWARD, FLOPS, SECONDS))]


def _machines(first: Sequence[Row], second: Sequence[Row]) -> list[Caution]:
    """The caution where seconds or bytes were not measured in the same way."""
    parts: tuple[tuple[str, Callable[[Run, Cost], object], tuple[str, ...]], ...] = (
        ("device", lambda run, cost: cost.device, (SECONDS, MEMORY)),
        ("processor", lambda run, cost: run.provenance.cpu, (SECONDS,)),
        ("threads", lambda run, cost: cost.threads, (SECONDS,)),
        ("precision", lambda run, cost: cost.precision, (SECONDS,)),
    )
    sides = [
        [(run, run.cost) for run in (row.stored.run for row in rows) if run.cost is not None and trained(run)]
        for rows in (first, second)
    ]
    if not all(sides):
        return []
    told, withheld = [], dict[str, None]()
    for name, part, concerned in parts:
        ours, theirs = (sorted({clean(part(run, cost), 60) for run, cost in side}) for side in sides)
        if len({*ours, *theirs}) > 1:
            told.append(f"{name} A {', '.join(ours)}, B {', '.join(theirs)}")
            withheld |= dict.fromkeys(concerned)
    return [Caution("Different machines", f"{'; '.join(told)}.", tuple(withheld))] if told else []
