"""``report``: run folders to tables and plots."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from robusteval.cli.arguments import RESULTS, Out
from robusteval.cli.cards import plain_cards
from robusteval.cli.output import line, note, results
from robusteval.errors import UserError
from robusteval.store import StoredRun, find_runs


def report(*folders: Path, out: Out = RESULTS) -> int:
    """Write the leaderboard (HTML, CSV, plots) of any number of runs and print its table.

    Runs that cannot be read are named and left out; the exit code is then 1.

    Args:
        folders: Folders with runs, or run folders; by default those of `--out`.
    """
    return write(out, folders or (out,))


def write(out: Path, folders: tuple[Path, ...]) -> int:
    """The exit code after writing the report on the runs in some folders, and naming it: 1 where a run was left out.

    Raises:
        UserError: there are no runs, or none that can be read.
    """
    # The same run found twice is one run.
    runs: dict[Path, StoredRun] = {}
    left_out: list[tuple[Path, UserError]] = []
    for folder in folders:
        found = find_runs(folder, skip=lambda *refused: left_out.append(refused))
        runs |= {run.folder.resolve(): run for run in found}
    if not runs:
        if left_out:
            raise left_out[0][1]
        raise UserError(f"{', '.join(map(str, folders))}: no runs here; `robusteval run --out DIR` makes some")
    from robusteval.report import terminal_table, write_report

    path = write_report(out, list(runs.values()), cards=plain_cards())
    results().print(terminal_table(list(runs.values())))
    line(f"report: {path}")
    return skipped({path.resolve(): error for path, error in left_out}.values())


def skipped(reasons: Collection[UserError]) -> int:
    """The exit code after telling which runs were skipped and why: 0 if none was."""
    for reason in reasons:
        note(f"skipped: {reason}")
    return 1 if reasons else 0
