"""Progress for people: live bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from robusteval.progress import Progress

QUIET_SECONDS = 30.0
"""Between two lines where there is no terminal."""

Clock = Callable[[], float]


class Display(Progress, AbstractContextManager["Display"], Protocol):
    """A progress that also knows of the cells of a suite; a context manager."""

    def cell(self, label: str) -> None:
        """The next cell starts."""

    def say(self, text: str) -> None:
        """Prints a line that stays."""


def display_for(console: Console, weights: Sequence[float] = (1.0,)) -> Display:
    """Bars where the console is a terminal, lines where it is not.

    Args:
        console: where to; standard error, so that results can be piped.
        weights: the expected cost of each cell to come, in any unit: the time that is left is reckoned from it.
    """
    journey = Journey(tuple(weights))
    return Bars(console, journey) if console.is_terminal else Lines(console, journey)


class Journey:
    """Which cell is at work, and how long the rest takes at the pace of the cells that are done."""

    def __init__(self, weights: tuple[float, ...], clock: Clock = time.monotonic) -> None:
        self.weights, self.clock = weights, clock
        self.position, self.label = 0, ""
        self.began = self.cell_began = clock()

    def next(self, label: str) -> None:
        """The next cell starts."""
        self.position += 1
        self.label = label
        self.cell_began = self.clock()

    def text(self) -> str:
        """Where we are, e.g. ``[2/5] entprop, 3:10 left in all``."""
        place = f"[{self.position}/{len(self.weights)}] {self.label}" if len(self.weights) > 1 else self.label
        done = sum(self.weights[: self.position - 1])
        if self.position < 2 or not done:
            return place
        pace = (self.cell_began - self.began) / done
        left = pace * (sum(self.weights) - done) - (self.clock() - self.cell_began)
        return f"{place}, {duration(max(left, 0.0))} left in all"


def duration(seconds: float) -> str:
    """A time as people read it.

    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class Stage:
    """A stage of a cell: ``done`` of ``total`` units since ``began``; the first report may be of resumed work."""

    name: str = ""
    total: int = 0
    done: int = 0
    resumed: int = 0
    began: float = 0.0
    note: str = ""

    def advance(self, amount: int, note: str, now: float) -> None:
        """``amount`` more units are done; several at once before any work are those of an earlier process."""
        if self.done == 0 and amount > 1:
            self.resumed, self.began = amount, now
        self.done += amount
        self.note = note or self.note

    def text(self, now: float) -> str:
        """E.g. ``train 120/400, 0:35 left, loss 1.203``."""
        worked = self.done - self.resumed
        left = f", {duration((now - self.began) / worked * (self.total - self.done))} left" if worked > 0 else ""
        return f"{self.name} {self.done}/{self.total}{left}{', ' + self.note if self.note else ''}"


class Lines:
    """A line at most every `QUIET_SECONDS`."""

    def __init__(self, console: Console, journey: Journey, clock: Clock = time.monotonic) -> None:
        self.console, self.journey, self.clock = console, journey, clock
        self.stage = Stage()
        self.told = clock()

    def begin(self, stage: str, total: int) -> None:
        """A stage starts."""
        self.stage = Stage(stage, total, began=self.clock())

    def advance(self, amount: int = 1, note: str = "") -> None:
        """More is done."""
        now = self.clock()
        self.stage.advance(amount, note, now)
        if now - self.told >= QUIET_SECONDS:
            self.told = now
            self.say(f"{self.journey.text()}: {self.stage.text(now)}")

    def cell(self, label: str) -> None:
        """The next cell starts."""
        self.journey.next(label)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _UnderALine(RichProgress):
    """Bars under a line that says where we are: in the bar's own line a narrow terminal has no room for it."""

    journey: Journey

    def get_renderables(self) -> Iterable[RenderableType]:
        """The line, as far as the terminal is wide, and the bars; nothing before the first stage."""
        if any(task.visible for task in self.tasks):
            yield Text(self.journey.text(), no_wrap=True, overflow="ellipsis")
            yield self.make_tasks_table(self.tasks)


class Bars:
    """A live bar for the stage at work, under a line for the cell."""

    def __init__(self, console: Console, journey: Journey) -> None:
        self.console, self.journey = console, journey
        self.bars = _UnderALine(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            # Names and notes are not ours: brackets in them are not markup.
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            expand=True,
            transient=True,
            # Else rich sends what is printed to standard output, our results, to this console.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.bars.journey = journey
        self.task = self.bars.add_task("", total=None, note="", visible=False)

    def begin(self, stage: str, total: int) -> None:
        """A stage starts."""
        self.bars.reset(self.task, total=total, description=stage, note="", visible=True)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """More is done."""
        self.bars.update(self.task, advance=amount)
        if note:
            self.bars.update(self.task, note=note)

    def cell(self, label: str) -> None:
        """The next cell starts."""
        self.journey.next(label)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()
