"""Runs beside a run that differ from it in their method alone, and tasks that were measured before there was one."""

from __future__ import annotations

from pathlib import Path

from robusteval import store
from robusteval.cells import plain, readable
from robusteval.errors import UserError
from robusteval.methods import METHODS
from robusteval.records import Run, TaskRecord


def sibling(run: Run, folder: Path, method: str) -> Path | None:
    """The folder of a method's trained run that differs from a run in its method alone; None without one.

    Of several, the one with the method's default options.

    Args:
        run: the run.
        folder: where it is; the others are beside it.
        method: name of the other one's method.
    """
    default = plain(METHODS[method]())
    found: list[tuple[bool, Path]] = []
    for other in sorted(folder.parent.glob(f"{readable(run.dataset, run.architecture, method, run.seed)}-*")):
        try:
            if not {store.RUN, store.DEPLOYED} <= {*store.names(other)}:
                continue
            record = store.read_record(other, store.RUN, Run)
        except UserError:  # what cannot be read is not there
            continue
        if record.method == method and _alike(record, run):
            found.append((record.options != default, other))
    return min(found)[1] if found else None


def overdue(run: Run, folder: Path, name: str) -> bool:
    """Whether a task's record says that another run was missing which is there by now.

    Args:
        run: the run that was judged.
        folder: where it is.
        name: the record's file.
    """
    # Most records await nothing, and parsing all of them would take longer than all else that planning does.
    text = store.read_bytes(folder, name)
    if b'"awaits": []' in text or not (b'"awaits"' in text or b"there is no run of method" in text):
        return False
    record = store.read_record(folder, name, TaskRecord)
    return any(method in METHODS and sibling(run, folder, method) for method in record.awaits)


def _alike(run: Run, other: Run) -> bool:
    """Whether two runs differ in their methods alone, and in what is only watched on the way."""
    watched = ("checkpoint_seconds", "snapshots", "shadow_momenta")
    first, second = (
        (
            one.dataset,
            one.architecture,
            one.seed,
            one.train_data,
            {key: value for key, value in one.training.items() if key not in watched},
        )
        for one in (run, other)
    )
    return first == second
