"""Progress where there is no terminal: a line now and then."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from robusteval.display.journey import Journey
from robusteval.display.parts import Ending, duration
from robusteval.wording import clean

QUIET_SECONDS = 30.0
"""Between two lines."""


class Lines:
    """A line at most every `QUIET_SECONDS`.

    Args:
        console: where to.
        journey: what to tell of.
        quiet: only what `say` is given.
    """

    def __init__(self, console: Console, journey: Journey, *, quiet: bool = False) -> None:
        self.console, self.journey, self.quiet = console, journey, quiet
        self.told = journey.clock()

    def begin(self, stage: str, total: int) -> None:
        """A stage starts."""
        self.journey.begin(stage, total)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """More is done."""
        self.journey.advance(amount, note)
        now = self.journey.clock()
        if now - self.told >= QUIET_SECONDS and not self.quiet:
            self.told = now
            self.say(": ".join(filter(None, (place(self.journey), stage(self.journey)))))

    def cell(self, label: str) -> None:
        """The next cell starts."""
        self.journey.cell(label)

    def ended(self, ending: Ending, why: str = "") -> None:
        """The cell at work has come to its end."""
        self.journey.ended(ending, why)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(Text(clean(text)), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def place(journey: Journey) -> str:
    """Where we are, e.g. ``[2/5] entprop, 3:10 left in all``."""
    cells, title = journey.cells, journey.cells[journey.position].title
    shown = f"[{journey.position + 1}/{len(cells)}] {title}" if len(cells) > 1 else title
    left = journey.left() if any(cell.stages for cell in cells) else None  # else the stage's time says it all
    return shown if left is None else f"{shown}, {duration(left)} left in all"


def stage(journey: Journey) -> str:
    """What is at work, e.g. ``train 120/400, 0:35 left, loss 1.203``."""
    one = journey.stage
    left = one.left(journey.clock())
    parts = [f"{one.name} {one.done}/{one.total}", "" if left is None else f"{duration(left)} left", one.note]
    return ", ".join(filter(None, parts))
