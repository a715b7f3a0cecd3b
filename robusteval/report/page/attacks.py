"""Varied attacks on one run's branches: through which branch they were made, and with which radius."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from robusteval.records import Measurement
from robusteval.report.board.columns import attack_name
from robusteval.report.board.variants import Measured, position, variants
from robusteval.report.page.details import Curve, shown
from robusteval.store import StoredRun

Cells = Mapping[tuple[str, str], Measurement]
"""By judged branch and by heading."""


class Attacked(NamedTuple):
    """A table of accuracies under attack.

    Attributes:
        title: what is varied.
        corner: what the headings are.
        key: what it takes to read the table.
        columns: the headings.
        lines: judged branch -> its measurements by heading; None where there is none.
        high: where colours and curves end, at least 0.1.
        n: test images behind each number, the same for all of a record.
        curves: a line per branch in a 300 x 100 box, from radius 0 to the last; empty where radii do not vary.
    """

    title: str
    corner: str
    key: str
    columns: tuple[str, ...]
    lines: Mapping[str, tuple[Measurement | None, ...]]
    high: float
    n: int
    curves: tuple[Curve, ...] = ()


def attacks(stored: StoredRun) -> list[Attacked]:
    """The tables of attacks that were varied; those of the leaderboard are not among them."""
    matrices = variants(stored, "attack_matrix", "robust_accuracy", ())
    curves = variants(stored, "epsilon_curve", "robust_accuracy", ("epsilon", "step"))
    return [
        *(_matrix(stored, attack_name("pgd", dict(variant.where)), found) for variant, found in matrices.items()),
        *(_radii(stored, attack_name("pgd", dict(variant.where)), found) for variant, found in curves.items()),
    ]


def in_tables(stored: StoredRun) -> set[int]:
    """The identities of the measurements that these tables show."""
    return {id(m) for table in attacks(stored) for line in table.lines.values() for m in line if m is not None}


def _matrix(stored: StoredRun, attack: str, found: Measured) -> Attacked:
    cells = _cells(stored, found, "attack_branch")
    branches = list(dict.fromkeys(branch for branch, _ in cells))
    made_on = dict.fromkeys(through for _, through in cells)
    single = [through for through in branches if through in made_on]
    key = "Down: the branch that is judged; across: the branch that the examples were made through."
    if "worst" in made_on:
        key += " worst: right on the examples of every branch."
    if "mean" in made_on:
        key += " mean: made through the mean of the logits of all branches."
    columns = (*single, *(through for through in made_on if through not in single))
    return _table(f"{attack} through each branch", "made through", key, columns, cells, branches)


def _radii(stored: StoredRun, attack: str, found: Measured) -> Attacked:
    cells = _cells(stored, found, "epsilon")
    at = {text: position(text) for _, text in cells}
    radii = {text: radius for text, radius in at.items() if radius is not None}
    columns = sorted(at, key=lambda text: radii.get(text, math.inf))
    branches = list(dict.fromkeys(branch for branch, _ in cells))
    table = _table(f"{attack} at each radius", "radius", "", tuple(columns), cells, branches)
    last = max(radii.values(), default=0.0)
    curves = []
    for branch, line in table.lines.items():
        points = [
            (300 * radii[text] / last, 100 - 100 * m.value / table.high, m.value)
            for text, m in zip(columns, line, strict=True)
            if last and text in radii and m is not None and m.value is not None
        ]
        if len(points) > 1:
            curves.append(Curve(branch, " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points), points[-1][2]))
    return table._replace(curves=tuple(curves))


def _cells(stored: StoredRun, found: Measured, key: str) -> Cells:
    """The measurements by branch, the deployed one first, and by an entry of ``where``."""
    deployed = stored.run.deployed
    cells = {(str(m.where.get("branch", deployed)), shown(m.where.get(key))): m for m in found.measurements}
    return dict(sorted(cells.items(), key=lambda item: item[0][0] != deployed))


def _table(title: str, corner: str, key: str, columns: tuple[str, ...], cells: Cells, branches: list[str]) -> Attacked:
    return Attacked(
        title=title,
        corner=corner,
        key=key,
        columns=columns,
        lines={branch: tuple(cells.get((branch, column)) for column in columns) for branch in branches},
        # In whole tenths, so that small differences are not made to look large.
        high=max(math.ceil(10 * max((m.value or 0.0 for m in cells.values()), default=0.0)), 1) / 10,
        n=max(m.n for m in cells.values()),
    )
