"""The gate's findings in Markdown: a job summary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from robusteval.check.gate import Finding, Gate
from robusteval.check.words import headline, interval
from robusteval.errors import UserError
from robusteval.report.escaping import escaped
from robusteval.report.text import clean, percent

MOST = 300
"""Rows of a table: a summary of more than a megabyte is thrown away by GitHub."""

HEAD = ("Cell", "Branch", "Number", "Baseline", "Now", "Drop with interval", "Verdict")


def markdown(gate: Gate, suite: str) -> str:
    """A heading with the verdict, a table of all that is not fine, and the rest folded away."""
    marked = [finding for finding in gate.findings if finding.weight != "fine"]
    fine = gate.of("fine")
    parts = [f"## robusteval check: {escaped(suite)}: {'red' if gate.red else 'green'}", escaped(headline(gate))]
    parts += [f"- {escaped(note)}" for note in gate.notes]
    if marked:
        parts.append(_table((*HEAD, "What happened"), [[*_row(one), one.text] for one in marked]))
    if fine:
        body = _table(HEAD, [_row(one) for one in fine])
        parts.append(f"<details><summary>{len(fine)} as before</summary>\n\n{body}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def append(path: Path, text: str) -> None:
    """Adds to a file that others write to as well.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--summary {path}: cannot be written: {error.strerror}") from error


def _row(finding: Finding) -> list[str]:
    numbers = (percent(finding.before), percent(finding.now), interval(finding.drop))
    return [finding.cell, finding.branch, finding.subject, *numbers, finding.verdict]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    every = list(rows)
    lines = [head, ["---"] * len(head), *([escaped(clean(cell, 2000)) for cell in row] for row in every[:MOST])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    left = len(every) - MOST
    return table if left <= 0 else f"{table}\n\n{left} more are not shown here."
