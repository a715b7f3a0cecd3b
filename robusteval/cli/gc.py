"""``gc``: room on the disk."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from robusteval.clearing import busy, clear_report, clear_run
from robusteval.cli.arguments import RESULTS, Flag, Json, Out
from robusteval.cli.output import document, line, note, table
from robusteval.errors import UserError
from robusteval.garbage import Chosen, Waste, of_report, of_run, run_folders
from robusteval.store import Busy

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def gc(
    *, yes: Flag = False, failed: Flag = False, older_than: str | None = None, out: Out = RESULTS, as_json: Json = False
) -> int:
    """List what can go: half-written files, drafts and numbers that no run needs; with `--yes` remove it.

    Nothing is removed without `--yes`, because what is gone cannot be had back: look at the list first. Weights,
    snapshots and numbers of runs stay, so do runs that a process works on and files that robusteval did not write.
    Runs that cannot be read are named and left alone; the exit code is then 1.

    Args:
        yes: Remove what is listed.
        failed: Also runs whose training failed; those with weights stay, `run` goes on with them.
        older_than: Only what was last written so long ago, e.g. 12h, 7d or 4w.
    """
    if not out.is_dir():
        raise UserError(f"gc: {out}: no such folder; allowed: the --out of earlier runs")
    chosen = Chosen(failed=failed, older_than=seconds(older_than))
    found: list[Waste] = []
    refused: list[UserError] = []
    skipped: list[Path] = []
    for folder in run_folders(out):
        try:
            if busy(folder):
                skipped.append(folder)
                continue
            there = of_run(folder, chosen)
            found += clear_run(folder, chosen) if yes and there else there
        except Busy:
            skipped.append(folder)
        except UserError as why:
            refused.append(why)
    found += clear_report(out, chosen) if yes else of_report(out, chosen)
    _tell(found, removed=yes, as_json=as_json, skipped=skipped)
    for error in refused:
        note(f"left alone: {error}")
    return 1 if refused else 0


def seconds(age: str | None) -> float:
    """An age in seconds.

    >>> seconds("12h"), seconds("1.5 d"), seconds(None)
    (43200.0, 129600.0, 0.0)

    Raises:
        UserError: it is none.
    """
    if age is None:
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", age.strip())
    if match is None or match[2] not in _UNITS:
        raise UserError(f"--older-than: {age!r} is no age; allowed: a number with one of {', '.join(_UNITS)}: 12h, 7d")
    return float(match[1]) * _UNITS[match[2]]


def _tell(found: Sequence[Waste], *, removed: bool, as_json: bool, skipped: Sequence[Path]) -> None:
    """Prints what was found, and how much room that is."""
    size = sum(one.size for one in found)
    if as_json:
        files = [{"path": str(one.path), "why": one.why, "bytes": one.size} for one in found]
        busy = [str(folder) for folder in skipped]
        document({"removed": removed, "bytes": size, "files": files, "at_work": busy})
        return
    if found:
        table(("MB", "why", "file"), [(f"{one.size / 1e6:.2f}", one.why, str(one.path)) for one in found])
    for folder in skipped:
        note(f"left alone: {folder}: a process works on it")
    count = f"{len(found)} file{'' if len(found) == 1 else 's'}, {size / 1e6:.2f} MB"
    if not found:
        line("nothing to remove")
    else:
        line(f"removed: {count}" if removed else f"to remove: {count}; `robusteval gc --yes` does it")
