"""The accuracy of one run on every corruption at every severity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from robusteval.report.board.columns import Column
from robusteval.report.board.grids import FAMILIES, cells
from robusteval.report.board.rows import Row
from robusteval.report.text import clean, percent


class Severities(NamedTuple):
    """A heat map of one run.

    Attributes:
        column: the mean that the cells make.
        severities: the headings, mildest first.
        lines: (corruption, accuracies by severity; None where it is missing).
    """

    column: Column
    severities: tuple[str, ...]
    lines: tuple[tuple[str, tuple[float | None, ...]], ...]

    @property
    def text(self) -> str:
        """The map as lines of words, percent: one element, where a table has 75; the script makes it one.

        >>> from robusteval.report.board.columns import Column
        >>> column = Column("a", "A", "A", "corruption", "", ("", "", ()))
        >>> print(Severities(column, ("1", "5"), (("fog", (0.5, None)), ("jpeg x", (0.25, 0.125)))).text)
        severity     1     5
        fog       50.0     –
        jpeg_x    25.0  12.5
        """
        table = [("severity", *self.severities), *((name, *map(percent, values)) for name, values in self.lines)]
        words = [[clean("_".join(str(cell).split()), 40) for cell in line] for line in table]
        width = max(len(line[0]) for line in words)
        return "\n".join(line[0].ljust(width) + "".join(f" {cell:>5}" for cell in line[1:]) for line in words)


def severities(row: Row, columns: Sequence[Column]) -> list[Severities]:
    """The heat maps of a row's branch, one for each kind of corrupted images."""
    found = (_severities(row, column) for column in columns if column.kind == "corruption" and column.key in row.scores)
    return [one for one in found if one is not None]


def _severities(row: Row, column: Column) -> Severities | None:
    found = [m for m in cells(row, column) if "severity" in m.where]
    table = {(str(m.where["corruption"]), m.where["severity"]): m.value for m in found}
    if all(value is None for value in table.values()):
        return None
    steps = sorted({step for _, step in table}, key=lambda step: (isinstance(step, str), step))
    named = {name for name, _ in table}
    known = [name for family in FAMILIES.values() for name in family if name in named]
    lines = tuple(
        (name, tuple(table.get((name, step)) for step in steps)) for name in (*known, *sorted(named - {*known}))
    )
    return Severities(column, tuple(map(str, steps)), lines)
