"""What a journey is made of: cells, planned, at work or ended, and the stage at work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Ending = Literal["done", "failed", "skipped"]


class Planned(NamedTuple):
    """A cell to come.

    Attributes:
        title: as short as tells it from the others.
        stages: names of the stages it will begin, in order, and what each is expected to cost, in any unit.
    """

    title: str
    stages: tuple[tuple[str, float], ...] = ()


@dataclass
class Cell:
    """A cell of the suite.

    Attributes:
        stages: those that have not begun.
        state: ``next`` before it begins, ``at work``, or how it ended.
        why: the reason for a bad end.
        began: on the clock.
        took: seconds, when it has ended.
    """

    title: str
    stages: list[tuple[str, float]] = field(default_factory=list)
    state: Literal["next", "at work", "done", "failed", "skipped"] = "next"
    why: str = ""
    began: float = 0.0
    took: float = 0.0


@dataclass
class Stage:
    """A stage of a cell: ``done`` of ``total`` units; the first report may be of work that is taken up again.

    A first report of nothing says that there is none: what comes after is work, however much of it at once.

    Attributes:
        cost: what was expected of it; 0 if it was not planned.
        reported: whether there has been a report.
        resumed: the units of an earlier process.
        began, last: on the clock, when the work of this process began and when it was last reported.
    """

    name: str = ""
    cost: float = 0.0
    total: int = 0
    done: int = 0
    reported: bool = False
    resumed: int = 0
    began: float = 0.0
    last: float = 0.0
    note: str = ""

    def advance(self, amount: int, note: str, now: float) -> None:
        """``amount`` more units are done; several in the first report are those of an earlier process."""
        if not self.reported and amount > 1:
            self.resumed, self.began = amount, now
        self.reported = True
        self.done += amount
        self.last = now
        self.note = note or self.note

    @property
    def pace(self) -> float | None:
        """Units per second, of this process; None before there is any."""
        worked, took = self.done - self.resumed, self.last - self.began
        return worked / took if worked > 0 and took > 0 else None

    def left(self, now: float) -> float | None:
        """Seconds to its end at this pace."""
        return None if self.pace is None else max((self.total - self.done) / self.pace - (now - self.last), 0.0)


def duration(seconds: float) -> str:
    """A time as people read it.

    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
