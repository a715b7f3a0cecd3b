"""Networks from run folders: a run's own branches, the teacher it learns from, the sibling it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from robusteval import siblings, store
from robusteval.cells import Cell
from robusteval.data import DATASETS, ImageSet
from robusteval.errors import UserError
from robusteval.method import Setting
from robusteval.models import build
from robusteval.models.weights import load_state
from robusteval.planning import Job
from robusteval.randomness import Stream
from robusteval.records import Run
from robusteval.runtime import Runtime
from robusteval.tasks import Origin
from robusteval.train import wrapped


def network(cell: Cell, data: ImageSet) -> nn.Module:
    """The cell's network with its initial weights: the same for every method at a seed."""
    torch.manual_seed(Stream.of(cell.seed).at("initial weights").seed)
    return build(cell.architecture, classes=len(data.classes), normalize=DATASETS[cell.dataset].family)


def setting(cell: Cell, data: ImageSet, teacher: nn.Module | None = None) -> Setting:
    """What the cell's method is told about its training; a teacher that is not given has its initial weights."""
    if cell.teacher is not None and teacher is None:
        teacher = cell.teacher.method.deploy(
            cell.teacher.method.wrap(network(cell.teacher, data).train(), setting(cell.teacher, data))
        )
    return Setting(
        classes=len(data.classes),
        images=len(data.labels),
        batch_size=cell.training.batch_size,
        shape=(3, *data.images.shape[2:]),
        teacher=teacher,
    )


def restored(job: Job, run: Run, runtime: Runtime, file: str) -> tuple[Mapping[str, nn.Module], Origin]:
    """The network of each branch, always from stored weights: what is judged is what can be loaded again."""
    cell = job.cell
    model = wrapped(network(cell, job.train).train(), cell.method, cell.training, setting(cell, job.train))
    tensors, _ = store.read_tensors(job.folder, file)
    load_state(model, tensors, where=str(job.folder / file))
    model = model.to(runtime.device)
    models = {branch: cell.method.deploy(model, branch).eval() for branch in run.branches}
    return models, Origin(cell.method, cell.training, model, job.train, partial(sibling, job, runtime))


def check_teacher(job: Job) -> None:
    """Raises Busy while another process trains the teacher: a student must not fail for being early."""
    if job.trained or job.teacher is None:
        return
    there = store.names(job.teacher)
    if store.RUN in there and store.DEPLOYED not in there:
        with store.locked(job.teacher):
            return


def teacher_of(job: Job) -> nn.Module | None:
    """The trained network that the cell's method learns from.

    Raises:
        UserError: its run has no weights: it failed, or was left out.
    """
    if job.teacher is None or job.cell.teacher is None:
        return None
    if store.DEPLOYED not in store.names(job.teacher):
        raise UserError(f"{job.cell.label}: its teacher has no weights yet: {job.teacher.name}; train it first")
    return _deployed(job.teacher, job)


def sibling(job: Job, runtime: Runtime, method: str) -> nn.Module | None:
    """The deployed network of a method's run that differs from the job's in its method alone; None without one.

    Of several, the one with the method's default options.
    """
    own = store.read_record(job.folder, store.RUN, Run)
    folder = siblings.sibling(own, job.folder, method)
    return None if folder is None else _deployed(folder, job).to(runtime.device)


def _deployed(folder: Path, job: Job) -> nn.Module:
    """The plain network that another run of the job's architecture and data has left."""
    plain = network(job.cell, job.train)
    tensors, _ = store.read_tensors(folder, store.DEPLOYED)
    load_state(plain, tensors, where=str(folder / store.DEPLOYED))
    return plain.eval()
