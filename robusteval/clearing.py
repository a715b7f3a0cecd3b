"""How what nothing needs is taken out of an output folder: under the run's lock, the manifest first."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robusteval import store
from robusteval.errors import UserError
from robusteval.garbage import Chosen, Waste, half_written, of_report, of_run
from robusteval.manifest import LOCK, MANIFEST


def busy(folder: Path) -> bool:
    """Whether a process works on the run; nothing is written to find out."""
    if not (folder / LOCK).exists():
        return False
    try:
        with store.locked(folder):
            return False
    except store.Busy:
        return True


def tidy(folder: Path) -> None:
    """Removes what a killed process left half-written in a run folder. Call it under `robusteval.store.locked` only.

    Raises:
        UserError: the folder is damaged or cannot be written.
    """
    for name in half_written(folder):
        with _removing(folder / name):
            store.remove(folder, name)


def clear_run(folder: Path, chosen: Chosen) -> list[Waste]:
    """What was taken out of a run folder, looked for anew under its lock.

    A kill at any instant leaves a folder as whole as it was: the manifest forgets a file before it goes.

    Raises:
        Busy: another process works on the run.
        UserError: the folder is damaged or cannot be written.
    """
    with store.locked(folder):
        found = of_run(folder, chosen)
        # The record goes first: without it the rest is nobody's, and the next call finishes the work.
        for one in sorted(found, key=lambda one: (one.name == MANIFEST, one.name != store.RUN)):
            with _removing(one.path):
                store.remove(folder, one.name)
        _remove_empty(folder)
    return found


def clear_report(out: Path, chosen: Chosen) -> list[Waste]:
    """What was taken out of an output folder."""
    found = of_report(out, chosen)
    for one in found:
        with _removing(one.path):
            one.path.unlink(missing_ok=True)
    return found


@contextmanager
def _removing(path: Path) -> Iterator[None]:
    """A context in which the file goes; what the system refuses is the user's to know."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be removed: {error.strerror}") from error


def _remove_empty(folder: Path) -> None:
    """Removes the run folder if nothing but its lock and empty folders are left of it."""
    rest = [path for path in folder.rglob("*") if not path.is_dir()]
    if not rest or rest == [folder / LOCK]:
        shutil.rmtree(folder, ignore_errors=True)
