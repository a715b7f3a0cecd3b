"""One cell from nothing, or from wherever it was left, to a complete run folder.

``run.json`` says ``done`` last of all. Weights are trained once, and a task is measured once for given
weights, options and images, so that a suite can grow at any time.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from robusteval import store
from robusteval.cells import plain, task_key
from robusteval.checkpoints import CHECKPOINT
from robusteval.clearing import tidy
from robusteval.drafts import StoredDraft
from robusteval.errors import UserError
from robusteval.hardware import choose_precision
from robusteval.observing import Observer, Observers
from robusteval.planning import Job, measured, record_name, renewed
from robusteval.progress import Progress
from robusteval.provenance import collect
from robusteval.records import Measurement, Run, TaskRecord
from robusteval.restoring import check_teacher, network, restored, teacher_of
from robusteval.runtime import Runtime
from robusteval.tasks import Context, Origin, Outcomes, Task
from robusteval.train import snapshot_name, train

EVALUATION_SEED = 0
"""Every run is judged on the same corrupted images and from the same attack starts, so that outcomes can be paired."""

ERROR = "error.txt"
"""The tracebacks of the last failure, in the run folder."""


def run_job(job: Job, runtime: Runtime, progress: Progress, observers: Observers | None = None) -> Run:
    """The record of the run, done or failed with its reason, after training and judging what was missing.

    Args:
        job: what to do.
        runtime: where.
        progress: is told how far it is.
        observers: are told of every epoch and number; what they raise is not the run's failure.

    Raises:
        Busy: another process works on the run, or still on the one that it learns from.
        UserError: the run folder cannot be written.
        KeyboardInterrupt: the folder is left as one to resume.
    """
    with store.locked(job.folder):
        tidy(job.folder)
        job = renewed(job)
        if job.state == "done":
            return store.read_record(job.folder, store.RUN, Run)
        check_teacher(job)
        run = _begin(job, runtime)
        told = observers or Observers()
        told.begin(run)
        try:
            run = _work(job, run, runtime, progress, told)
        finally:
            told.end(run)
        return run


def _work(job: Job, run: Run, runtime: Runtime, progress: Progress, told: Observer) -> Run:
    """The final record of a run that has begun."""
    failures: dict[str, Exception] = {}
    with _kept(failures, "training"):
        if not job.trained:
            run = _train(job, run, runtime, progress, told)
        store.remove(job.folder, CHECKPOINT)  # not before the weights are stored: a kill costs no training
        context = judging(runtime, run.deployed, progress, data_dir=job.data_dir)
        for subject in _subjects(run):
            missing = [t for t in job.missing if not measured(job.folder, run, t, job.test, subject.sha256)]
            if missing:
                models, origin = restored(job, run, runtime, subject.file)
            for task in missing:
                with _kept(failures, task.name if subject.epoch is None else f"{task.name} after {subject.epoch}"):
                    _measure(job, task, subject, models, replace(context, origin=origin), runtime, told)
    return _end(job.folder, run, failures)


def judging(runtime: Runtime, deployed: str, progress: Progress, *, data_dir: Path | None) -> Context:
    """How tasks measure on this machine, the same for every run and checkpoint."""
    return Context(
        device=runtime.device,
        seed=EVALUATION_SEED,
        deployed=deployed,
        # Small enough for a CPU's caches and for few padded images, large enough to keep a GPU busy.
        batch_size=100 if runtime.device.type == "cpu" else 500,
        data_dir=data_dir,
        precision=choose_precision("auto", runtime.device),
        progress=progress,
    )


@contextmanager
def _kept(failures: dict[str, Exception], stage: str) -> Iterator[None]:
    """A context whose error ends it and is kept: what fails must not stop the other tasks and cells."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this cell's and goes into its record
        failures[stage] = error


def _begin(job: Job, runtime: Runtime) -> Run:
    """The run's record, written as running."""
    cell = job.cell
    if job.trained:
        old = store.read_record(job.folder, store.RUN, Run)
        run = old.model_copy(update={"status": "running", "label": cell.label, "error": None})
    else:
        run = Run(
            id=job.folder.name,
            label=cell.label,
            method=cell.method.name,
            options=plain(cell.method),
            training=plain(cell.training),
            dataset=cell.dataset,
            architecture=cell.architecture,
            seed=cell.seed,
            status="running",
            branches=cell.method.branches,
            deployed=cell.method.deployed,
            parameters=sum(p.numel() for p in network(cell, job.train).parameters()),
            train_data=job.train.ref(),
            teacher=job.teacher.name if job.teacher else None,
            provenance=collect(runtime, choose_precision(cell.training.precision, runtime.device)),
        )
    store.write_record(job.folder, store.RUN, run)
    return run


def _train(job: Job, run: Run, runtime: Runtime, progress: Progress, told: Observer) -> Run:
    """The record with cost and digest, after the weights were trained and stored."""
    cell, folder = job.cell, job.folder
    trained = train(
        network(cell, job.train),
        cell.method,
        job.train,
        cell.training,
        seed=cell.seed,
        device=runtime.device,
        teacher=teacher_of(job),
        folder=folder,
        progress=progress,
        ended=told.epoch,
    )
    meta = {"run": run.id, "method": run.method, "architecture": run.architecture, "dataset": run.dataset}
    deployed = cell.method.deploy(trained.model).state_dict()
    store.write_tensors(folder, store.DEPLOYED, deployed, meta | {"branch": run.deployed})
    sha256 = store.write_tensors(folder, store.WEIGHTS, trained.model.state_dict(), meta)
    store.write_record(folder, store.HISTORY, store.History(epochs=trained.history))
    run = run.model_copy(update={"weights_sha256": sha256, "cost": trained.cost, "snapshots": trained.snapshots})
    store.write_record(folder, store.RUN, run)
    return run


class Subject(NamedTuple):
    """Stored weights to be judged: file, digest, and the epochs after which they were kept (None: at the end)."""

    file: str
    sha256: str
    epoch: int | None


def _subjects(run: Run) -> list[Subject]:
    """The final weights of a trained run, and its snapshots."""
    assert run.weights_sha256 is not None
    kept = [Subject(snapshot_name(one.epoch), one.weights_sha256, one.epoch) for one in run.snapshots]
    return [Subject(store.WEIGHTS, run.weights_sha256, None), *kept]


def _measure(
    job: Job,
    task: Task,
    subject: Subject,
    models: Mapping[str, nn.Module],
    context: Context,
    runtime: Runtime,
    told: Observer,
) -> None:
    """Writes a task's record, after the per-sample outcomes that it names.

    Its draft is kept while it awaits another run: what is in there need not be done again.
    """
    key = task_key(task, job.test.ref(), subject.sha256)
    made_by = collect(runtime, context.precision)
    packages = " ".join(f"{name} {version}" for name, version in sorted(made_by.packages.items()))
    alike = f"{made_by.device} {context.precision} {runtime.threads} robusteval {made_by.robusteval} {packages}"
    draft = StoredDraft(job.folder, key, alike)
    measurements: list[Measurement] = []
    outcomes: dict[str, Outcomes] = {}
    absent: set[str] = set()
    context = replace(context, draft=draft, origin=context.origin and _noting(context.origin, absent))
    for measurement, right in task.measure(models, job.test, context):
        if right is not None:
            name = str(len(outcomes))
            outcomes[name] = right
            measurement = measurement.model_copy(update={"outcomes": name})
        measurements.append(measurement)
        told.measured(measurement, subject.epoch)
    record = TaskRecord(
        task=task.name,
        version=task.version,
        key=key,
        options=plain(task),
        test_data=job.test.ref(),
        weights_sha256=subject.sha256,
        epoch=subject.epoch,
        measurements=tuple(measurements),
        awaits=tuple(sorted(absent)),
        wall_s=draft.elapsed,
        provenance=collect(runtime, context.precision),
    )
    name = record_name(task, job.test, subject.sha256)
    store.remove(job.folder, name)  # one that awaited something: it must not be read with the new outcomes
    store.write_arrays(job.folder, f"{store.TASKS}{key}.npz", outcomes)
    store.write_record(job.folder, name, record)
    if not absent:
        draft.discard()


def _noting(origin: Origin, absent: set[str]) -> Origin:
    """The origin, which notes the methods whose runs are looked for in vain."""

    def sibling(method: str) -> nn.Module | None:
        found = origin.sibling(method)
        if found is None:
            absent.add(method)
        return found

    return replace(origin, sibling=sibling)


def _end(folder: Path, run: Run, failures: Mapping[str, Exception]) -> Run:
    """The final record, written: done, or failed with a line on every stage that failed."""
    if failures:
        texts = ["".join(traceback.format_exception(error)) for error in failures.values()]
        store.write_bytes(folder, ERROR, "\n".join(texts).encode())
        reasons = "; ".join(f"{stage}: {_reason(error)}" for stage, error in failures.items())
        run = run.model_copy(update={"status": "failed", "error": reasons})
    else:
        store.remove(folder, ERROR)
        run = run.model_copy(update={"status": "done"})
    if run.cost is not None:
        stored = store.load_run(folder)
        judging = sum(task.wall_s for task in (*stored.tasks, *stored.on_the_way))
        cost = run.cost.model_copy(update={"wall_s": run.cost.wall_s | {"eval": judging}})
        run = run.model_copy(update={"cost": cost})
    store.write_record(folder, store.RUN, run)
    return run


def _reason(error: Exception) -> str:
    """An error in one line; a user's mistake speaks for itself, others name their kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
