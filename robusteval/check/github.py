"""What GitHub's runner understands: annotations as workflow commands on standard output."""

from __future__ import annotations

from collections.abc import Iterator

from robusteval.check.gate import Gate
from robusteval.report.text import clean

MOST = 10
"""Annotations of a kind in a step: GitHub drops those beyond."""


def commands(gate: Gate) -> Iterator[str]:
    """A line for each error and each warning, the worst first; one that counts what is not annotated."""
    for weight in ("error", "warning"):
        found = gate.of("error" if weight == "error" else "warning")
        kept = found if len(found) <= MOST else found[: MOST - 1]
        for finding in kept:
            yield command(weight, f"{finding.verdict}: {finding.name}", finding.text)
        if len(kept) < len(found):
            yield command(weight, "robusteval check", f"{len(found) - len(kept)} more: see the summary of this job")


def command(kind: str, title: str, text: str) -> str:
    """A workflow command; its characters are escaped as the runner unescapes them.

    >>> command("error", "a,b: c", "50 % gone")
    '::error title=a%2Cb%3A c::50 %25 gone'
    """
    title = _data(clean(title, 250)).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{_data(clean(text, 1000))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
