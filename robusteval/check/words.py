"""The gate's findings in words and as a table for the terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.table import Table
from rich.text import Text

from robusteval.check.drops import Drop
from robusteval.check.gate import Finding, Gate
from robusteval.report.text import clean, percent, points

STYLES = {"error": "bold red", "warning": "yellow", "news": "cyan", "fine": "dim"}


def headline(gate: Gate) -> str:
    """The verdict in a sentence or two.

    Where all is well the number of comparisons is said, as a gate that compares nothing is no gate.
    """
    counts = Counter(finding.verdict for finding in gate.errors)
    what = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    colour = f"red: {what}" if gate.red else "green: nothing fell beyond what is tolerated"
    return (
        f"{colour}. {gate.compared} numbers were compared; by chance alone any of them is called a regression in "
        f"{100 * gate.false_alarms:.3g} % of calls at most."
    )


def interval(drop: Drop | None) -> str:
    """A drop in points, with its interval; a fall is positive.

    >>> interval(Drop(0.1, 0.05, 0.15, None))
    '+10.0 [+5.0, +15.0]'
    """
    return "" if drop is None else f"{points(drop.value)} [{points(drop.low)}, {points(drop.high)}]"


def table(gate: Gate, *, every: bool = True) -> Table:
    """The findings, errors first; percent and points.

    Args:
        gate: the findings.
        every: also those that are fine; else only the others.
    """
    found = Table(box=None, padding=(0, 2, 0, 0))
    found.pad_edge = False
    for head in ("Cell", "Branch", "Number"):
        found.add_column(head, overflow="fold")
    for head in ("Baseline", "Now", "Drop with interval"):
        found.add_column(head, justify="right", no_wrap=True)
    found.add_column("Verdict", no_wrap=True)
    for finding in gate.findings:
        if not every and finding.weight == "fine":
            continue
        cells = [clean(finding.cell, 60), clean(finding.branch, 20), clean(finding.subject, 60)]
        cells += [percent(finding.before), percent(finding.now), interval(finding.drop), finding.verdict]
        found.add_row(*(Text(cell) for cell in cells), style=STYLES[finding.weight])
    return found


def sentence(finding: Finding) -> str:
    """The finding in a line: what and what happened to it."""
    return clean(f"{finding.name}: {finding.text}", 600)


def document(gate: Gate, suite: str) -> dict[str, Any]:
    """The gate for programs: fractions, null where there is no number."""
    return {
        "suite": suite,
        "red": gate.red,
        "compared": gate.compared,
        "false_alarms": gate.false_alarms,
        "notes": list(gate.notes),
        "findings": [
            {
                "cell": one.cell,
                "branch": one.branch,
                "subject": one.subject,
                "verdict": one.verdict,
                "weight": one.weight,
                "text": one.text,
                "before": one.before,
                "now": one.now,
                "drop": one.drop and one.drop.value,
                "low": one.drop and one.drop.low,
                "high": one.drop and one.drop.high,
                "tolerance": one.tolerance,
            }
            for one in gate.findings
        ],
    }
