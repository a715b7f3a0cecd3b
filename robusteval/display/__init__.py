"""Progress for people: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from rich.console import Console

from robusteval.display.journey import Journey
from robusteval.display.lines import Lines
from robusteval.display.live import Table
from robusteval.display.parts import Ending, Planned, duration
from robusteval.progress import Progress

__all__ = ["Display", "Ending", "Journey", "Lines", "Planned", "Shown", "Table", "display_for", "duration"]

Shown = Literal["live", "lines", "quiet"]
"""A table that is drawn over and over, a line now and then, or what `Display.say` is given alone."""


class Display(Progress, AbstractContextManager["Display"], Protocol):
    """A progress that also knows of the cells of a suite; a context manager."""

    def cell(self, label: str) -> None:
        """The next cell starts."""

    def ended(self, ending: Ending, why: str = "") -> None:
        """The cell at work is done, or has failed or was skipped for a reason."""

    def say(self, text: str) -> None:
        """Prints a line that stays."""


def display_for(console: Console, planned: Sequence[Planned] = (), *, shown: Shown = "live") -> Display:
    """A table where the console is a terminal that can move its cursor, lines where it is not.

    Args:
        console: where to; standard error, so that results can be piped.
        planned: the cells to come: the time that is left is reckoned from their stages. Others may come besides.
        shown: ``lines`` also on a terminal; ``quiet`` shows no progress.
    """
    journey = Journey(planned)
    if shown == "live" and console.is_terminal and not console.is_dumb_terminal:
        return Table(console, journey)
    return Lines(console, journey, quiet=shown == "quiet")
