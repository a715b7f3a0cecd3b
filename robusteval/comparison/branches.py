"""Which BatchNorm branches of two sides face each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robusteval.comparison.cautions import Caution
from robusteval.comparison.lines import ScoreLine, score_lines
from robusteval.comparison.readings import Outcomes
from robusteval.comparison.sides import Side
from robusteval.errors import unknown
from robusteval.report.board.columns import Column
from robusteval.report.board.rows import Row
from robusteval.store import StoredRun

Named = tuple[str | None, str | None]
"""A's branch and B's, where one is named."""

Rows = Mapping[str, Sequence[Row]]
"""A side's rows by branch."""


@dataclass(frozen=True)
class Facing:
    """Branches of one name beside those that a pair is about.

    Attributes:
        first, second: the name where A has it, and where B has it; one is None where only the other side does.
        scores: where a side does not have the branch, the other's alone.
    """

    first: str | None
    second: str | None
    scores: tuple[ScoreLine, ...]

    @property
    def name(self) -> str:
        """What the branch is called."""
        return self.first or self.second or ""

    @property
    def both(self) -> bool:
        """Whether both sides have it."""
        return None not in (self.first, self.second)


def having(runs: Sequence[StoredRun], branch: str | None, *, side: str) -> Sequence[StoredRun]:
    """Those of the runs that have the branch; all where none is asked for.

    Raises:
        UserError: none of them has it.
    """
    found = [stored for stored in runs if branch is None or branch in stored.run.branches]
    if runs and not found:
        labels = {stored.run.label for stored in runs}
        where = f"{side} ({labels.pop()})" if len(labels) == 1 else side
        raise unknown(where, "branch", branch or "", {name for stored in runs for name in stored.run.branches})
    return found


def others(
    first: Side, second: Side, rows: tuple[Rows, Rows], shown: Sequence[Column], outcomes: Outcomes, *, level: float
) -> tuple[tuple[Facing, ...], list[Caution]]:
    """The branches that are shown beside the deployed ones, with their cautions; none where branches were chosen.

    Args:
        first: A.
        second: B.
        rows: theirs, see `readings.rows_of`.
        shown: the columns that they share.
        outcomes: where outcomes of images are read.
        level: the coverage of intervals, in (0, 1).
    """
    found: list[Facing] = []
    cautions: list[Caution] = []
    for name in dict.fromkeys([*rows[0], *rows[1]] if first.chosen is second.chosen is None else []):
        ours, theirs = (side.get(name) for side in rows)
        # What faces another name as a deployed branch has been shown; it is shown again to face its own name only.
        before = [name == first.branch, name == second.branch]
        if all(before) or (any(before) and (ours is None or theirs is None)):
            continue
        lines = score_lines(ours or (), theirs or (), shown, outcomes, each_corruption=False, level=level, apart=name)
        if any(line.first is not None or line.second is not None for line in lines.scores):
            names = (None if ours is None else name, None if theirs is None else name)
            found.append(Facing(*names, lines.scores))
            cautions += lines.cautions
    return tuple(found), cautions
