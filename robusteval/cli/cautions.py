"""What is said before numbers that might be taken for others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from robusteval.cli.output import note

if TYPE_CHECKING:
    from robusteval.tasks import Task


def caution(tasks: Iterable[Task]) -> None:
    """Writes once, beside the result, that some of the tasks' corruptions have the names but not the strengths."""
    from robusteval.corruptions import adapter

    names = {name for task in tasks for name in getattr(task, "names", ())}
    if names & {*adapter.NAMES}:
        note(f"caution: {adapter.NOTE}")
