"""What ``check`` tells and leaves behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from robusteval.cli.output import document, line, note, results

if TYPE_CHECKING:
    from robusteval.check import Baseline, Gate


def tell(gate: Gate, suite: str, *, as_json: bool, every: bool) -> None:
    """Writes the findings, the worst at the top of the table and once more in words at the end.

    Args:
        gate: the findings.
        suite: whose.
        as_json: as one JSON document.
        every: also the numbers with which nothing is wrong.
    """
    from robusteval.check import words

    if as_json:
        document(words.document(gate, suite))
        return
    if every or any(finding.weight != "fine" for finding in gate.findings):
        results().print(words.table(gate, every=every))
    for text in gate.notes:
        note(text)
    for weight in ("warning", "error"):
        for finding in gate.of("warning" if weight == "warning" else "error"):
            line(f"{weight}: {words.sentence(finding)}")
    line(words.headline(gate))


def leave(gate: Gate, suite: str, *, junit: Path | None, summary: Path | None, as_json: bool) -> None:
    """Writes what machines read: JUnit XML, a Markdown summary, annotations where GitHub runs this.

    Args:
        gate: the findings.
        suite: whose.
        junit: the XML file; None writes none.
        summary: the Markdown file to append to; by default GitHub's, where it runs this.
        as_json: whether standard output is taken by a document.
    """
    from robusteval.check.github import commands
    from robusteval.check.junit import write_junit
    from robusteval.check.markdown import append, markdown

    if junit is not None:
        write_junit(junit, gate, suite)
    there = os.environ.get("GITHUB_ACTIONS") == "true"
    given = os.environ.get("GITHUB_STEP_SUMMARY") if there else None
    path = summary or (Path(given) if given else None)
    if path is not None:
        append(path, markdown(gate, suite))
    for command in commands(gate) if there else ():
        (note if as_json else line)(command)  # GitHub reads both streams


def renew(path: Path, former: Baseline | None, now: Baseline, *, as_json: bool) -> int:
    """The exit code after writing a baseline and showing what differs from the former.

    Args:
        path: the file.
        former: what was in it, with the rules that are to hold from now on; None for the first.
        now: what is to be in it.
        as_json: as one JSON document.
    """
    from robusteval.check import inherited, judge, write

    failed = [f"{name} seed {seed}: {why}" for name, cell in now.cells.items() for seed, why in cell.failed.items()]
    if failed:
        for text in failed:
            note(f"failed: {text}")
        note(f"{path} was not written: a cell that failed is no baseline")
        return 1
    if former is not None:
        now = inherited(now, former)
        tell(judge(former, now), now.suite, as_json=as_json, every=False)
    write(path, now)
    numbers = list(now.numbers())
    flagged = sum(number.trust == "flagged" for *_, number in numbers)
    if flagged:
        note(f"{flagged} numbers are flagged already: the gate cannot tell if they lose trust")
    seeds = sorted({len(cell.seeds) for cell in now.cells.values()})
    if seeds[0] == 1:
        note("one seed: how much trainings differ is not known, and any retraining may look like a drop; see --seeds")
    if all(wall is None for cell in now.cells.values() for wall in cell.wall):
        note("these runs were trained without the calibration loop: training time will not be compared")
    counts = f"{'-'.join(map(str, seeds))} seed{'' if seeds == [1] else 's'}"
    told = f"{len(numbers)} numbers of {len(now.cells)} cells, {counts}"
    (note if as_json else line)(f"baseline: {path}: {told}")
    return 0
