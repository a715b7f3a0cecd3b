"""Who is told what a run comes to, while it does. Observers look on: nothing that they do changes a result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Protocol

from robusteval.records import Epoch, Measurement, Run

Tell = Callable[["Observer"], None]


class Observer(Protocol):
    """What is told of runs, one after the other."""

    def begin(self, run: Run) -> None:
        """Work on a run starts, or goes on; its record says what it is made of."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch of the run's training has ended."""

    def measured(self, measurement: Measurement, epoch: int | None) -> None:
        """A number is known; of the final weights, or of those after so many epochs."""

    def end(self, run: Run) -> None:
        """Work on the run has ended: done, failed, or (still running by its record) interrupted."""


class Observers:
    """Several observers as one. An observer that fails is named once and not told of anything more.

    Args:
        observers: whom to tell, in that order.
        warn: is given the line about one that failed.
    """

    def __init__(self, observers: Iterable[Observer] = (), warn: Callable[[str], None] = warnings.warn) -> None:
        self.observers = list(observers)
        self.warn = warn

    def begin(self, run: Run) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.begin(run))

    def epoch(self, epoch: Epoch) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.epoch(epoch))

    def measured(self, measurement: Measurement, epoch: int | None) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.measured(measurement, epoch))

    def end(self, run: Run) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.end(run))

    def _tell(self, tell: Tell) -> None:
        for one in tuple(self.observers):
            try:
                tell(one)
            except Exception as error:  # noqa: BLE001 - whatever fails in an observer must not stop the run
                self.observers.remove(one)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self.warn(f"warning: {type(one).__name__}: no more is told: {reason}; the runs go on")
