"""Runs in a folder: all of them, one a row, for `ls runs`, and the one of a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robusteval.cli.listings import Listing
from robusteval.errors import UserError, unknown
from robusteval.records import Measurement
from robusteval.store import StoredRun, find_runs
from robusteval.tags import Label, read_label

HEAD = ("run", "status", "label", "data set", "model", "seed", "age", "clean", "tags", "judged by")
MISSING = "-"


def runs(out: Path, *, tag: str | None, skip: Callable[[Path, UserError], None]) -> Listing:
    """The runs with their clean accuracies and tags.

    Args:
        out: where they are looked for.
        tag: only runs that have it.
        skip: told of each folder that cannot be read, and why.

    Raises:
        UserError: no run has the tag.
    """
    found: list[tuple[StoredRun, Label]] = []
    for stored in find_runs(out, skip=skip):
        try:
            found.append((stored, read_label(stored.folder)))
        except UserError as error:
            skip(stored.folder, error)
    if tag is not None:
        known = {one for _, label in found for one in label.tags}
        if tag not in known:
            raise unknown(f"ls runs (in {out}): --tag", "tag", tag, known)
        found = [(stored, label) for stored, label in found if tag in label.tags]
    now = datetime.now(UTC)
    entries = [_entry(stored, label, now) for stored, label in found]
    note = "" if entries else f"no runs that can be read in {out}; `robusteval run --out DIR` makes some"
    return Listing(HEAD, [_row(entry) for entry in entries], entries, note)


def matching(out: Path, name: str, *, where: str, besides: Iterable[str] = ()) -> StoredRun:
    """The run of that id, or the only one whose id begins so.

    Args:
        out: where it is looked for.
        name: its id or the beginning of it.
        where: what errors begin with.
        besides: names of other things that would have been right, too.

    Raises:
        UserError: there is none, or several, or it cannot be read.
    """
    refused: dict[str, UserError] = {}
    runs = {stored.run.id: stored for stored in find_runs(out, skip=lambda at, why: refused.update({at.name: why}))}
    found = [name] if name in runs else [one for one in runs if name and one.startswith(name)]
    if len(found) > 1:
        raise UserError(f"{where} (runs in {out}): several runs begin so: {', '.join(found)}")
    if found:
        return runs[found[0]]
    for folder, why in refused.items():
        if name and folder.startswith(name):
            raise why
    raise unknown(f"{where} (runs in {out})", "run or name" if besides else "run", name, [*runs, *besides])


def clean_accuracy(stored: StoredRun) -> Measurement | None:
    """The accuracy of the deployed branch on unchanged images; on the most images if it was measured more than once."""
    measured = [
        one
        for task in stored.tasks
        for one in task.measurements
        if (one.task, one.metric) == ("clean", "accuracy") and one.where.get("branch") == stored.run.deployed
    ]
    return max(measured, key=lambda one: one.n, default=None)


def _entry(stored: StoredRun, label: Label, now: datetime) -> dict[str, Any]:
    run, clean = stored.run, clean_accuracy(stored)
    return {
        "run": run.id,
        "folder": str(stored.folder),
        "status": run.status,
        "error": run.error,
        "label": run.label,
        "method": run.method,
        "dataset": run.dataset,
        "architecture": run.architecture,
        "seed": run.seed,
        "created": run.provenance.created,
        "age_s": _age(run.provenance.created, now),
        "clean_accuracy": None if clean is None else clean.value,
        "clean_n": None if clean is None else clean.n,
        "tasks": sorted({task.task for task in stored.tasks}),
        "tags": label.tags,
        "note": label.note,
    }


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    age, clean = entry["age_s"], entry["clean_accuracy"]
    return (
        entry["run"],
        entry["status"],
        entry["label"],
        entry["dataset"],
        entry["architecture"],
        str(entry["seed"]),
        MISSING if age is None else short(age),
        MISSING if clean is None else f"{100 * clean:.1f} %",
        ", ".join(entry["tags"]),
        " ".join(entry["tasks"]),
    )


def _age(created: str, now: datetime) -> float | None:
    """Seconds since then; None where the record's time cannot be read."""
    try:
        then = datetime.fromisoformat(created)
    except ValueError:
        return None
    return max((now - then.replace(tzinfo=then.tzinfo or UTC)).total_seconds(), 0.0)


def short(seconds: float) -> str:
    """A span of time in its largest unit.

    >>> short(59), short(3 * 60 + 59), short(26 * 3600), short(400 * 86400)
    ('59 s', '3 min', '26 h', '400 d')
    """
    for size, unit in ((2 * 86400, "d"), (2 * 3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // {'d': 86400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"
