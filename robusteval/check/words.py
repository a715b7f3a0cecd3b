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
    if not gate.compared:
        return f"{colour}. No numbers were compared."
    numbers = "1 number was" if gate.compared == 1 else f"{gate.compared} numbers were"
    return (
        f"{colour}. {numbers} compared; the level is set for a false alarm among them in "
        f"{100 * gate.false_alarms:.3g} % of calls at most."
    )


def interval(drop: Drop | None) -> str:
    """A drop in points, with its interval; a fall is positive.

    >>> interval(Drop(0.1, 0.05, 0.15, None))
    '+10.0 [+5.0, +15.0]'
    """
    return "" if drop is None else f"{points(drop.value)} [{points(drop.low)}, {points(drop.high)}]"


def table(gate: Gate, *, every: bool = True) -> Table:
    """The findings, errors first; percent and points. The data set and network that all cells share stand above them.

    Args:
        gate: the findings.
        every: also those that are fine; else only the others.
    """
    shown = [finding for finding in gate.findings if every or finding.weight != "fine"]
    places = {"/".join(finding.cell.split("/", 2)[:-1]) for finding in shown}
    place = places.pop() if len(places) == 1 else ""  # data set and architecture, if all have the same
    title = Text(clean(place, 120)) if place else None
    found = Table(title=title, title_justify="left", title_style="dim", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    # Room for the longest word of a number: it is not to be broken where the name of a cell can be.
    longest = max((len(word) for finding in shown for word in finding.subject.split()), default=0)
    for head, width in (("Cell", None), ("Branch", None), ("Number", min(longest, 24))):
        found.add_column(head, overflow="fold", min_width=width)
    for head in ("Baseline", "Now", "Drop with interval"):
        found.add_column(head, justify="right", no_wrap=True)
    found.add_column("Verdict", no_wrap=True)
    for finding in shown:
        cell = finding.cell.removeprefix(f"{place}/") if place else finding.cell
        cells = [clean(cell, 60), clean(finding.branch, 20), clean(finding.subject, 60)]
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
