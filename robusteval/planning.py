"""What a suite means for an output folder: which cells are done, half-done or new, and what is missing in each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from robusteval import store
from robusteval.cells import Cell, expand, task_key, tasks_of
from robusteval.config import Suite
from robusteval.data import ImageSet, load
from robusteval.errors import UserError
from robusteval.records import Run
from robusteval.siblings import overdue
from robusteval.tasks import Task

State = Literal["new", "half-done", "failed", "done"]


@dataclass(frozen=True)
class Job:
    """A cell, its images, and what its run folder held when the job was planned.

    Attributes:
        cell: what to train.
        train, test: the images.
        folder: the run folder; its name is the run's id.
        state: of the folder.
        trained: whether the weights are there.
        missing: the tasks that are still to be measured, of the final weights or of a snapshot.
        data_dir: where tasks look for published corruption files.
    """

    cell: Cell
    train: ImageSet
    test: ImageSet
    folder: Path
    state: State
    trained: bool
    missing: tuple[Task, ...]
    data_dir: Path | None

    @property
    def teacher(self) -> Path | None:
        """The run folder of the network that the method learns from."""
        teacher = self.cell.teacher
        return None if teacher is None else self.folder.parent / teacher.identity(self.train.ref())


def plan(
    suite: Suite, out: Path, *, data_dir: Path | None = None, limit: int | None = None, download: bool = False
) -> list[Job]:
    """The jobs of a suite; what is wrong with the suite, the data or older runs is found here, before any compute.

    Args:
        suite: what to run.
        out: run folders are ``out/runs/<id>``.
        data_dir: where data sets are, see `robusteval.data.load`.
        limit: only so many images of each split.
        download: get data sets that are not there.

    Raises:
        UserError: a wrong option, missing or damaged data, a damaged or newer run folder, two equal cells.
    """
    cells, tasks = expand(suite), tasks_of(suite)
    sets = {
        name: (
            load(name, "train", data_dir=data_dir, download=download).first(limit),
            load(name, "test", data_dir=data_dir, download=download).first(limit),
        )
        for name in suite.datasets
    }
    for cell in cells:
        images = len(sets[cell.dataset][0].labels)
        if cell.training.batch_size > images:
            raise UserError(
                f"{suite.source}: training.batch_size: {cell.training.batch_size} is more than the {images} training "
                f"images of {cell.dataset}; allowed: 1 to {images}"
            )
    folders = [out / "runs" / cell.identity(sets[cell.dataset][0].ref()) for cell in cells]
    for folder, count in Counter(folders).items():
        if count > 1:
            raise UserError(f"{suite.source}: {folder.name}: the suite holds this cell {count} times; leave one")
    return [
        _job(cell, tasks, *sets[cell.dataset], folder, data_dir) for cell, folder in zip(cells, folders, strict=True)
    ]


def renewed(job: Job) -> Job:
    """The job as its folder stands now: another process may have worked on it since it was planned."""
    return _job(job.cell, job.missing, job.train, job.test, job.folder, job.data_dir)


def _job(
    cell: Cell, tasks: tuple[Task, ...], train: ImageSet, test: ImageSet, folder: Path, data_dir: Path | None
) -> Job:
    """The job of a cell, given what its folder holds."""
    tasks = tuple(task.resolved(test, data_dir) for task in tasks)
    new = Job(cell, train, test, folder, state="new", trained=False, missing=tasks, data_dir=data_dir)
    there = store.names(folder)
    if store.RUN not in there:
        return new
    run = store.read_record(folder, store.RUN, Run)
    sha256 = run.weights_sha256
    weights = [sha256, *(snapshot.weights_sha256 for snapshot in run.snapshots)]
    for name in there:  # damage is to be found before hours of work, or a report, build on it
        try:
            store.read_bytes(folder, name)
        except UserError:
            if name in store.names(folder):  # else a running process removed it just now
                raise
    missing = tuple(
        task for task in tasks if any(one is None or not measured(folder, run, task, test, one) for one in weights)
    )
    if run.status == "done" and not missing and run.label == cell.label:
        return replace(new, state="done", trained=True, missing=())
    state: State = "failed" if run.status == "failed" else "half-done"
    return replace(new, state=state, trained=sha256 is not None, missing=missing)


def record_name(task: Task, test: ImageSet, sha256: str) -> str:
    """The file of a task's record on weights with that digest."""
    return f"{store.TASKS}{task_key(task, test.ref(), sha256)}.json"


def measured(folder: Path, run: Run, task: Task, test: ImageSet, sha256: str) -> bool:
    """Whether a run's folder holds what a task measures of weights, and nothing that it missed has come since."""
    name = record_name(task, test, sha256)
    return name in store.names(folder) and not overdue(run, folder, name)
