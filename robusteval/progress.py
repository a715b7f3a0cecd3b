"""How long work tells that it goes on. The command line supplies the displays."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a long loop reports to. Never asked to do so more than a few times a second by the callee."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of ``total`` units starts (units: training steps or evaluated batches)."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """``amount`` more units are done; ``note`` replaces the text beside the bar when not empty."""


class Silent:
    """Reports nothing."""

    def begin(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Nothing."""


class Within:
    """Passes on how far a task that is part of another one has come, without a beginning of its own.

    Args:
        outer: the other task's progress.
        each: how many of its units one of this task's is worth.
    """

    def __init__(self, outer: Progress, each: int = 1) -> None:
        self.outer, self.each = outer, each

    def begin(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """The outer task's."""
        self.outer.advance(amount * self.each, note)
