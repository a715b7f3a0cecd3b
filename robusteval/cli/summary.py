"""``report`` and ``open``: run folders to tables and plots, and the page in a browser."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

import json
import os
import sys
import webbrowser
from collections.abc import Collection, Mapping
from pathlib import Path

from robusteval.cli.arguments import RESULTS, Json, Out
from robusteval.cli.cards import plain_cards
from robusteval.cli.output import line, note, results
from robusteval.collector import paused
from robusteval.errors import UserError, unknown
from robusteval.store import RUN, StoredRun, find_runs
from robusteval.tags import read_label

PAGE = "leaderboard.html"


def report(*folders: Path, tag: str | None = None, out: Path = RESULTS, as_json: Json = False) -> int:
    """Write the leaderboard (HTML, CSV, plots) of any number of runs and print its table.

    Without folders it is of the runs in `--out`, where a report lies beside its runs; where there are none, of those in
    `results`.

    Runs that cannot be read are named and left out; the exit code is then 1.

    Args:
        folders: Folders with runs, or run folders; by default `--out`, else `results`.
        tag: Only runs with this tag (`robusteval tag`).
        out: Folder the report is written to.
    """
    if not folders and not _holds_runs(out) and _holds_runs(RESULTS):
        note(f"{out}: no runs here: the report is of those in {RESULTS}")
        folders = (RESULTS,)
    return write(out, folders or (out,), tag=tag, as_json=as_json)


def _holds_runs(folder: Path) -> bool:
    """Whether `find_runs` has something to find there, readable or not."""
    return any(next(folder.glob(f"{place}{RUN}"), None) for place in ("", "*/", "runs/*/"))


@paused()
def write(out: Path, folders: tuple[Path, ...], *, tag: str | None = None, as_json: bool = False) -> int:
    """The exit code after writing the report on the runs in some folders, and naming it: 1 where a run was left out.

    Args:
        out: where the report goes.
        folders: where runs are looked for.
        tag: only runs that have it.
        as_json: the path and the runs in a line of JSON instead of the table.

    Raises:
        UserError: there are no runs, or none that can be read, or none with the tag.
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
    if tag is not None:
        runs = _tagged(runs, tag, left_out)
    from robusteval.report import terminal_table, write_report
    from robusteval.report.board.leaderboard import leaderboard

    board = leaderboard(list(runs.values()))
    path = write_report(out, board, cards=plain_cards())
    if as_json:
        ids = [run.run.id for run in runs.values()]
        line(json.dumps({"report": str(path), "runs": ids, "skipped": [str(error) for _, error in left_out]}))
    else:
        console = results()
        console.print(terminal_table(board, width=console.width))
        line(f"report: {path}")
    return skipped({path.resolve(): error for path, error in left_out}.values())


def _tagged(runs: Mapping[Path, StoredRun], tag: str, left_out: list[tuple[Path, UserError]]) -> dict[Path, StoredRun]:
    """Those of the runs that have the tag; runs whose tags cannot be read are left out.

    Raises:
        UserError: none has it.
    """
    tags: dict[Path, tuple[str, ...]] = {}
    for folder, run in runs.items():
        try:
            tags[folder] = read_label(run.folder).tags
        except UserError as error:
            left_out.append((folder, error))
    found = {folder: run for folder, run in runs.items() if tag in tags.get(folder, ())}
    if not found:
        raise unknown("--tag", "tag", tag, {one for own in tags.values() for one in own})
    return found


def skipped(reasons: Collection[UserError]) -> int:
    """The exit code after telling which runs were skipped and why: 0 if none was."""
    for reason in reasons:
        note(f"skipped: {reason}")
    return 1 if reasons else 0


def open_report(*, out: Out = RESULTS) -> None:
    """Open the report in the browser, and print its path."""
    page = out / PAGE
    if not page.is_file():
        raise UserError(f"open: {page}: no report here; `robusteval report --out {out}` writes one")
    line(str(page))
    # Without a display Python takes a browser of the terminal, which would hold it until someone quits.
    if not _shown() or not webbrowser.open(page.resolve().as_uri()):
        note("no browser to open it with here")


def _shown() -> bool:
    """Whether a browser has somewhere to show itself, or the user has named one."""
    unix = sys.platform not in ("darwin", "win32", "cygwin")
    return not unix or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
