"""Progress on a terminal: a table of cells, drawn over and over, that fits the screen."""

from __future__ import annotations

from collections import Counter
from threading import RLock
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from robusteval.display.journey import Journey
from robusteval.display.parts import Cell, Ending, duration
from robusteval.wording import clean

STYLES = {"done": "green", "failed": "red", "skipped": "yellow", "at work": "bold", "next": "dim"}
REFRESH = 2.0
"""Drawings per second: the training wants the processor."""


class Table:
    """The cells at work, next and failed with their times; what is said stays above it."""

    def __init__(self, console: Console, journey: Journey) -> None:
        self.console, self.journey = console, journey
        self.lock = RLock()  # the drawing is a thread of its own
        self.live = Live(
            console=console,
            get_renderable=self.screen,
            refresh_per_second=REFRESH,
            transient=True,
            # Else rich sends what is printed to standard output, our results, to this console.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def begin(self, stage: str, total: int) -> None:
        """A stage starts."""
        with self.lock:
            self.journey.begin(stage, total)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """More is done."""
        with self.lock:
            self.journey.advance(amount, note)

    def cell(self, label: str) -> None:
        """The next cell starts."""
        with self.lock:
            self.journey.cell(label)

    def ended(self, ending: Ending, why: str = "") -> None:
        """The cell at work has come to its end."""
        with self.lock:
            self.journey.ended(ending, why)

    def say(self, text: str) -> None:
        """Prints a line that stays, above the table."""
        self.console.print(Text(clean(text)), soft_wrap=True)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def screen(self) -> RenderableType:
        """What is shown now: at most half the lines of the terminal, and four."""
        with self.lock:
            cells = self.journey.cells
            if self.journey.position < 0:
                return Text("")
            shown = chosen(cells, max(self.console.height // 2, 3))
            parts: list[RenderableType] = []
            if len(cells) > 1:
                parts.append(_summary(self.journey))
            parts.append(self._grid(shown))
            if more := len(cells) - len(shown):
                parts.append(Text(f"  {more} more not shown", style="dim"))
            if note := self._note():
                parts.append(Text(f"  {note}", "cyan", no_wrap=True, overflow="ellipsis"))
            return Group(*parts)

    def _grid(self, cells: list[Cell]) -> Grid:
        """A row per cell."""
        grid = Grid.grid(padding=(0, 1), expand=True)
        # The name gives way to the bar where there is no room for both.
        grid.add_column(ratio=3, no_wrap=True, overflow="ellipsis", min_width=12)
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=16)
        grid.add_column(ratio=2, min_width=10)
        grid.add_column(no_wrap=True, justify="right")
        grid.add_column(no_wrap=True, justify="right", min_width=7)
        for cell in cells:
            style = STYLES[cell.state]
            title = clean(f"{cell.title}: {cell.why}" if cell.why else cell.title)
            row: list[RenderableType] = [Text(title, style)]
            if cell.state == "at work":
                row += self._at_work(cell)
            else:
                row += [Text(cell.state, style), "", "", Text(self._time(cell), "dim")]
            grid.add_row(*row)
        return grid

    def _at_work(self, cell: Cell) -> list[RenderableType]:
        """State, bar, count and time left of the stage at work."""
        stage = self.journey.stage
        if not stage.name:
            return [Text("starting"), "", "", ""]
        left = stage.left(self.journey.clock())
        bar = ProgressBar(total=max(stage.total, 1), completed=stage.done)
        time = Text("" if left is None else duration(left))
        return [Text(clean(stage.name, 16)), bar, Text(f"{stage.done}/{stage.total}"), time]

    def _note(self) -> str:
        """Losses and throughput of the stage at work."""
        stage = self.journey.stage
        if not stage.name:
            return ""
        parts = [stage.note]
        if stage.pace is not None and "/s" not in stage.note:
            parts.append(f"{stage.pace:.{0 if stage.pace >= 10 else 2}f} steps/s")
        left = self.journey.left()
        if len(self.journey.cells) == 1 and self.journey.cells[0].stages and left is not None:
            parts.append(f"{duration(left)} left in all")
        return clean(", ".join(filter(None, parts)))

    def _time(self, cell: Cell) -> str:
        """What a cell took, or will take."""
        if cell.state != "next":
            return duration(cell.took)
        expected = self.journey.expected(cell)
        return "" if not expected else f"~{duration(expected)}"


def chosen(cells: list[Cell], room: int) -> list[Cell]:
    """The cells to show, in order: the one at work, failed ones (a third of the room), the next, the last done."""
    if len(cells) <= room:
        return cells
    places = {state: [i for i, cell in enumerate(cells) if cell.state == state] for state in STYLES}
    failed = sorted(places["failed"] + places["skipped"])[-(room // 3) :]
    found = places["at work"] + failed
    found += places["next"][: max(room - len(found) - 1, 0)]
    found += places["done"][::-1][: room - len(found)]
    return [cells[i] for i in sorted(found)]


def _summary(journey: Journey) -> Text:
    """How many cells are where, and the time that all need, e.g. ``2 of 28 done, 1 failed; 1:12:05 left in all``."""
    states = Counter(cell.state for cell in journey.cells)
    counts = [f"{states['done']} of {len(journey.cells)} cells done"]
    counts += [f"{states[name]} {name}" for name in ("failed", "skipped") if states[name]]
    counts += [f"{states['next']} to go"] if states["next"] else []
    left = journey.left()
    text = ", ".join(counts) + ("" if left is None else f"; {duration(left)} left in all")
    return Text(text, style="bold", no_wrap=True, overflow="ellipsis")
