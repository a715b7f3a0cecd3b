"""Observers of the command line: one says everything at once, one keeps it for lines of JSON."""

from __future__ import annotations

from robusteval.display import Display
from robusteval.records import Epoch, Measurement, Run
from robusteval.wording import as_row, verdict


class Verbose:
    """Says each epoch's logs and each number as soon as it is known."""

    def __init__(self, display: Display) -> None:
        self.display = display

    def begin(self, run: Run) -> None:
        """The run's folder."""
        self.display.say(f"  {run.id}")

    def epoch(self, epoch: Epoch) -> None:
        """The logs."""
        logs = " ".join(f"{key} {value:.4f}" for key, value in epoch.logs.items())
        self.display.say(f"  epoch {epoch.epoch}: {logs} lr {epoch.lr:.3g}")

    def measured(self, measurement: Measurement, epoch: int | None) -> None:
        """The number with its interval."""
        self.display.say("  " + told(measurement, epoch))

    def end(self, run: Run) -> None:
        """Nothing: every run's end is said."""


def told(measurement: Measurement, epoch: int | None = None) -> str:
    """A measurement in a line, e.g. ``clean accuracy 51.20 % (48.30 % to 54.10 %, n 1000) branch=main``."""
    task, metric, value, low, high, n, where = as_row(measurement)
    interval = ", ".join(filter(None, (f"{low} to {high}" if low else "", f"n {n}", verdict(measurement))))
    early = "" if epoch is None else f"after epoch {epoch}: "
    return f"{early}{task} {metric} {value} ({interval}) {where}".rstrip()


class Collected:
    """The numbers of a run, for lines of JSON when it has ended: a reader that goes away must not fail the run."""

    def __init__(self) -> None:
        self.numbers: list[tuple[Measurement, int | None]] = []

    def begin(self, run: Run) -> None:
        """Forgets those of the run before."""
        self.numbers.clear()

    def epoch(self, epoch: Epoch) -> None:
        """Nothing."""

    def measured(self, measurement: Measurement, epoch: int | None) -> None:
        """Keeps it."""
        self.numbers.append((measurement, epoch))

    def end(self, run: Run) -> None:
        """Nothing."""
