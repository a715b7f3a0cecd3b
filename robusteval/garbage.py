"""What an output folder holds that nothing needs any more (`robusteval.clearing` takes it away).

Only files that robusteval writes, under the names that it gives them; whatever else lies there is somebody's.
What a run is made of stays: its record, weights, snapshots, history, tags, and the numbers of those weights.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robusteval import store
from robusteval.checkpoints import CHECKPOINT
from robusteval.drafts import FOLDER as DRAFTS
from robusteval.manifest import LOCK, MANIFEST
from robusteval.records import Run, TaskRecord

_SNAPSHOT = re.compile(r"snapshot-(\d+)\.safetensors")
_NAMES = re.compile(
    r"(run|history|tags|manifest)\.json|error\.txt|(weights|deployed|checkpoint|snapshot-\d+)\.safetensors"
    r"|tasks/[\w-]+\.(json|npz)|drafts/[\w-]+\.npz"
)
"""Every name that robusteval gives a file of a run folder."""
_PAGES = re.compile(r"(leaderboard[\w-]*\.\w+|plots/[a-z0-9.-]+\.(svg|png|pdf|json))\.tmp")
"""What reports call their files while they write them; figures that it no longer makes a report removes itself."""


_AT_WORK = 60.0
"""Seconds within which a report replaces a file that it has begun: reports hold no lock."""


class Waste(NamedTuple):
    """A file that nothing needs.

    Attributes:
        folder: the run folder, or the output folder.
        name: in it.
        why: it is not needed.
        size: in bytes.
        written: when, last, in seconds of the epoch.
    """

    folder: Path
    name: str
    why: str
    size: int
    written: float

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / self.name


class Chosen(NamedTuple):
    """What is looked for.

    Attributes:
        failed: runs whose training failed, too, with all that robusteval wrote into their folders.
        older_than: only files that were last written so many seconds ago.
    """

    failed: bool = False
    older_than: float = 0.0


def run_folders(out: Path) -> list[Path]:
    """The folders of runs in an output folder, also those of which only a part is left."""
    found = (out, *sorted(out.glob("*")), *sorted(out.glob("runs/*")))
    return [one for one in found if (one / MANIFEST).is_file() and not one.is_symlink()]


def of_report(out: Path, chosen: Chosen) -> list[Waste]:
    """What an interrupted report has left in the output folder; in its last minute it may be at work still."""
    found = []
    for path in sorted([*out.glob("*.tmp"), *out.glob("plots/*.tmp")]):
        name = path.relative_to(out).as_posix()
        if _PAGES.fullmatch(name) and path.is_file() and not path.is_symlink():
            found.append(_waste(out, name, "half-written file of a report"))
    return _old(found, chosen._replace(older_than=max(chosen.older_than, _AT_WORK)))


def of_run(folder: Path, chosen: Chosen) -> list[Waste]:
    """What a run folder that no process works on need not keep.

    Raises:
        UserError: its manifest or a record is damaged: nothing is known then.
    """
    there = store.names(folder)
    if store.RUN not in there:
        if not (folder / LOCK).exists() or not all(map(_NAMES.fullmatch, there)):
            return []  # no run's folder: other things have manifests, too
        return _whole(folder, "left by a run that is gone", chosen)
    run = store.read_record(folder, store.RUN, Run)
    if chosen.failed and run.status == "failed" and run.weights_sha256 is None:
        return _whole(folder, "run whose training failed", chosen)
    found = [_waste(folder, name, "half-written file") for name in half_written(folder)]
    found += [_waste(folder, name, why) for name, why in _needless(folder, run, there) if (folder / name).is_file()]
    return _old(found, chosen)


def half_written(folder: Path) -> list[str]:
    """Names of files that a killed process left in a run folder: of those that robusteval writes, and no part of it."""
    known = {*store.names(folder), MANIFEST}
    return [name for name in _ours(folder) if name not in known]


def _whole(folder: Path, why: str, chosen: Chosen) -> list[Waste]:
    """All of a run folder, if all of it is old enough: a part of a run is of no use."""
    found = [_waste(folder, name, why) for name in _ours(folder)]
    return found if found == _old(found, chosen) else []


def _needless(folder: Path, run: Run, there: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Files of the manifest that the run does not need, and why."""
    weights = {run.weights_sha256, *(one.weights_sha256 for one in run.snapshots)}
    kept = {one.epoch for one in run.snapshots}
    for name in there:
        task = name.removeprefix(store.TASKS) if name.startswith(store.TASKS) else ""
        if name == CHECKPOINT and run.weights_sha256 is not None:
            yield name, "checkpoint of a training that is complete"
        elif (match := _SNAPSHOT.fullmatch(name)) and run.weights_sha256 is not None and int(match[1]) not in kept:
            yield name, "snapshot that the run does not name"
        elif task.endswith(".json"):
            if store.read_record(folder, name, TaskRecord).weights_sha256 not in weights:
                yield name, "numbers of weights that are no longer the run's"
                outcomes = f"{name.removesuffix('.json')}.npz"
                if outcomes in there:
                    yield outcomes, "outcomes of weights that are no longer the run's"
        elif task.endswith(".npz") and f"{name.removesuffix('.npz')}.json" not in there:
            yield name, "outcomes without a record"
        elif name.startswith(DRAFTS):
            if f"{store.TASKS}{name.removeprefix(DRAFTS).removesuffix('.npz')}.json" in there:
                yield name, "draft of a task that is done"
            elif run.status == "done":
                yield name, "draft of a task that the run was finished without"


def _ours(folder: Path) -> list[str]:
    """Names of files in a run folder that robusteval wrote, whole or half, known to the manifest or not."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and _NAMES.fullmatch(name.removesuffix(".tmp")):
            found.append(name)
    return found


def _waste(folder: Path, name: str, why: str) -> Waste:
    try:
        found = (folder / name).stat()
    except OSError:  # a process that began just now has taken it away
        return Waste(folder, name, why, 0, time.time())
    return Waste(folder, name, why, found.st_size, found.st_mtime)


def _old(found: list[Waste], chosen: Chosen) -> list[Waste]:
    """Those that were last written long enough ago."""
    newest = time.time() - chosen.older_than
    return [one for one in found if not chosen.older_than or one.written <= newest]
