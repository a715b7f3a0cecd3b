"""``report``: run folders to tables and plots."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from robusteval.cli.arguments import RESULTS, Out
from robusteval.cli.output import line, results
from robusteval.errors import UserError
from robusteval.store import StoredRun, find_runs


def report(*folders: Path, out: Out = RESULTS) -> None:
    """Write the leaderboard (HTML, CSV, plots) of any number of runs and print its table.

    Args:
        folders: Folders with runs, or run folders; by default those of `--out`.
    """
    write(out, folders or (out,))


def write(out: Path, folders: tuple[Path, ...]) -> None:
    """Writes the report on the runs in some folders and names it."""
    # The same run found twice is one run.
    runs: dict[Path, StoredRun] = {run.folder.resolve(): run for folder in folders for run in find_runs(folder)}
    if not runs:
        raise UserError(f"{', '.join(map(str, folders))}: no runs here; `robusteval run --out DIR` makes some")
    from robusteval.methods import METHODS
    from robusteval.report import terminal_table, write_report

    cards = {name: asdict(method.card) for name, method in METHODS.items()}
    path = write_report(out, list(runs.values()), cards=cards)
    results().print(terminal_table(list(runs.values())))
    line(f"report: {path}")
