"""Which cell is at work, how far it is, and how long the rest takes at the pace of what was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from robusteval.display.parts import Cell, Ending, Planned, Stage

Clock = Callable[[], float]


class Journey:
    """The cells, those done and those to come, and the stage at work.

    Args:
        planned: the cells to come.
        clock: seconds.
    """

    def __init__(self, planned: Sequence[Planned] = (), clock: Clock = time.monotonic) -> None:
        self.cells = [Cell(one.title, list(one.stages)) for one in planned]
        self.clock = clock
        self.position = -1
        self.stage = Stage()
        self.spent: dict[str, tuple[float, float]] = {}  # of finished stages by name: seconds, expected cost

    @property
    def at_work(self) -> Cell | None:
        """The cell that has begun and not ended."""
        cell = self.cells[self.position] if self.position >= 0 else None
        return cell if cell is not None and cell.state == "at work" else None

    def cell(self, title: str) -> None:
        """The next cell starts: the next planned one, or one more."""
        if self.at_work is not None:
            self.ended("done")
        self.position += 1
        if self.position == len(self.cells):
            self.cells.append(Cell(title))
        cell = self.cells[self.position]
        cell.state, cell.began, self.stage = "at work", self.clock(), Stage()

    def begin(self, name: str, total: int) -> None:
        """A stage starts; planned ones before it had nothing to do."""
        if self.at_work is None:
            self.cell("")
        self._book()
        cell = self.cells[self.position]
        place = next((i for i, (planned, _) in enumerate(cell.stages) if planned == name), None)
        cost = 0.0
        if place is not None:
            cost = cell.stages[place][1]
            del cell.stages[: place + 1]
        now = self.clock()
        self.stage = Stage(name, cost, total, began=now, last=now)

    def advance(self, amount: int, note: str) -> None:
        """More of the stage is done."""
        self.stage.advance(amount, note, self.clock())

    def ended(self, ending: Ending, why: str = "") -> None:
        """The cell at work has come to its end."""
        cell = self.at_work
        if cell is None:
            return
        if ending == "done":
            self._book()
        cell.state, cell.why, cell.took = ending, why, self.clock() - cell.began
        cell.stages, self.stage = [], Stage()

    def _book(self) -> None:
        """Notes what the stage at work took: the pace of those of its name to come."""
        stage = self.stage
        if stage.cost and stage.done > stage.resumed:
            seconds, cost = self.spent.get(stage.name, (0.0, 0.0))
            share = 1 - stage.resumed / stage.total if stage.total else 1.0
            self.spent[stage.name] = seconds + self.clock() - stage.began, cost + stage.cost * share

    def left(self) -> float | None:
        """Seconds to the end of all cells; None before anything is known."""
        now = self.clock()
        here = self.stage.left(now) if self.stage.name else 0.0
        rest = [self.expected(cell) for cell in self.cells]
        known = [one for one in rest if one is not None]
        return None if here is None or len(known) < len(rest) else here + sum(known)

    def expected(self, cell: Cell) -> float | None:
        """Seconds of a cell's stages that have not begun; None before anything is known."""
        seconds = [self._expected(*stage) for stage in cell.stages]
        known = [one for one in seconds if one is not None]
        return sum(known) if len(known) == len(seconds) else None

    def _expected(self, name: str, cost: float) -> float | None:
        """Seconds of a stage, at the pace of those of its name, or of all if none was seen."""
        seen = [one for one in self._paces() if one[0] == name] or list(self._paces())
        total = sum(weight for _, _, weight in seen)
        return cost * sum(seconds for _, seconds, _ in seen) / total if total > 0 else None

    def _paces(self) -> Iterator[tuple[str, float, float]]:
        """Names, seconds and expected costs of what this process has done."""
        for name, (seconds, cost) in self.spent.items():
            yield name, seconds, cost
        stage = self.stage
        if stage.cost and stage.pace is not None:
            yield stage.name, stage.last - stage.began, stage.cost * (stage.done - stage.resumed) / stage.total
