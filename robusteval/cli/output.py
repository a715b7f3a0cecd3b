"""What goes to the terminal: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console

from robusteval.wording import clean


def line(text: str) -> None:
    """Writes a line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Writes a line beside the result; of names that are not ours only what shows."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def document(value: object) -> None:
    """Writes the result as one JSON document."""
    line(json.dumps(value, allow_nan=False, indent=1))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes rows in aligned columns that can be read and piped; the last column is as long as it likes."""
    lines = [[" ".join(clean(cell).split()) for cell in row] for row in ([name.upper() for name in head], *rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    for row in lines:
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def in_threads(count: int) -> str:
    """A number of threads in words."""
    return f"{count} thread{'' if count == 1 else 's'}"


def errors() -> Console:
    """The console on standard error, for progress."""
    return Console(stderr=True)


def results() -> Console:
    """The console on standard output; in a pipe as wide as COLUMNS says, else so wide that nothing is cut."""
    console = Console()
    return console if console.is_terminal or os.environ.get("COLUMNS", "").isdigit() else Console(width=200)
