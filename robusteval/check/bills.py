"""What trainings cost against the baseline: passes and operations to the last one, time as a multiple.

Passes and operations are counted, and equal code counts the same on every machine. Time is not: it is compared as a
multiple of a calibration loop's, and even so only with a wide tolerance, as processors differ in what they are good at.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from robusteval.check.baseline import Cell, CellCost


class Bill(NamedTuple):
    """What is said of one kind of cost of a cell; see `robusteval.check.gate.Finding`."""

    subject: str
    verdict: str
    weight: Literal["error", "warning", "news", "fine"]
    text: str


def bills(before: Cell, now: Cell, *, tolerance: float, slow_fails: bool) -> Iterator[Bill]:
    """The costs of the baseline, one each; times only where both sides know them.

    Args:
        before: of the baseline.
        now: the same cell.
        tolerance: by which share the calibrated time may rise.
        slow_fails: a greater rise is an error and no warning.
    """
    pairs = list(_alike(before, now))
    for subject in ("forward passes", "backward passes", "FLOPs"):
        if pairs:
            yield _counted(subject, [(_counts(one, subject), [_counts(o, subject) for o in old]) for one, old in pairs])
    if not pairs and now.seeds and any(cost is not None for cost in before.cost):
        yield Bill("passes and FLOPs", "missing", "error", "the baseline has them and the runs have none")
    walls = [[wall for wall in cell.wall if wall is not None] for cell in (before, now)]
    if walls[0] and walls[1]:
        old, new = (statistics.median(wall) for wall in walls)
        if new > old * (1 + tolerance):
            text = f"training takes {new / old:.2f} times as long as it did, in units of the calibration loop"
            yield Bill("training time", "slower", "error" if slow_fails else "warning", text)
        else:
            yield Bill("training time", "within", "fine", "")


def _alike(before: Cell, now: Cell) -> Iterator[tuple[CellCost, Sequence[CellCost]]]:
    """Each cost now, and what it is to be compared with: the same seed's, else those of all seeds."""
    known = [cost for cost in before.cost if cost is not None]
    of_seed = dict(zip(before.seeds, before.cost, strict=True))
    for seed, cost in zip(now.seeds, now.cost, strict=True):
        if cost is not None and known:
            same = of_seed.get(seed)
            yield cost, known if same is None else [same]


def _counts(cost: CellCost, subject: str) -> Mapping[str, int]:
    return {"forward passes": cost.forward, "backward passes": cost.backward, "FLOPs": {"": cost.flops}}[subject]


def _counted(subject: str, pairs: Sequence[tuple[Mapping[str, int], Sequence[Mapping[str, int]]]]) -> Bill:
    """The bill of counts, which may not rise by one in any branch."""
    risen: dict[str, None] = {}
    fallen: dict[str, None] = {}
    for now, before in pairs:
        for branch in sorted({*now, *(branch for one in before for branch in one)}):
            count, old = now.get(branch, 0), [one.get(branch, 0) for one in before]
            if count > max(old):
                risen[_told(branch, max(old), count)] = None
            elif count < min(old):
                fallen[_told(branch, min(old), count)] = None
    if risen:
        return Bill(subject, "costlier", "error", f"rose: {', '.join([*risen, *fallen])}")
    if fallen:
        return Bill(subject, "cheaper", "news", f"fell: {', '.join(fallen)}; `--update` keeps it so")
    return Bill(subject, "same", "fine", "")


def _told(branch: str, before: int, now: int) -> str:
    share = f" ({100 * (now / before - 1):+.1f} %)" if before else ""
    return f"{branch + ': ' if branch else ''}{before:,} to {now:,}{share}"
