"""Jobs done one after the other, and what is said of them while they are."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from robusteval.cli.arguments import Level
from robusteval.cli.output import errors, line, note
from robusteval.cli.telling import Collected, Verbose
from robusteval.display import Display, Planned, Shown, display_for, duration
from robusteval.observing import Observer, Observers
from robusteval.store import Busy
from robusteval.wording import as_object

if TYPE_CHECKING:
    from robusteval.planning import Job
    from robusteval.runtime import Runtime
    from robusteval.tasks import Task

INTERRUPTED = 130
"""The exit code after Ctrl-C, by the shells' convention."""


def work(
    jobs: Sequence[Job], runtime: Runtime, *, level: Level, as_json: bool = False, observers: Sequence[Observer] = ()
) -> int:
    """The exit code after doing all that was not done: 0, 1 where a job failed, `INTERRUPTED`.

    Args:
        jobs: in order.
        runtime: where.
        level: how much is told.
        as_json: measurements and the ends of cells as lines of JSON on standard output.
        observers: who is told besides.
    """
    left = [job for job in jobs if job.state != "done"]
    if (done := len(jobs) - len(left)) and level != "quiet":
        note(f"{done} of {len(jobs)} cells are done already")
    if as_json:
        for job in jobs:
            if job.state == "done":
                line(_end(job, "done", None, 0.0))
    shown: Shown = "quiet" if level == "quiet" else "lines" if as_json else "live"
    try:
        with display_for(errors(), _planned(left), shown=shown) as display:
            verbose = [Verbose(display)] if level == "verbose" else []
            collected = Collected() if as_json else None
            informed = Observers([*verbose, *filter(None, [collected]), *observers], display.say)
            failed = [job for job in left if not _done(job, runtime, display, informed, level, collected)]
    except KeyboardInterrupt:
        note("interrupted: the same command resumes where it stopped")
        return INTERRUPTED
    return 1 if failed else 0


def _done(
    job: Job, runtime: Runtime, display: Display, observers: Observers, level: Level, collected: Collected | None
) -> bool:
    """Whether a job came to its end; says how it went."""
    from robusteval.runner import run_job

    title = f"{job.cell.label} seed {job.cell.seed} ({job.cell.architecture}, {job.cell.dataset})"
    display.cell(title)
    began = time.monotonic()
    try:
        record = run_job(job, runtime, display, observers)
    except Busy as busy:
        display.ended("skipped", str(busy))
        display.say(f"{title}: skipped: {busy}")
        if collected is not None:
            line(_end(job, "skipped", str(busy), time.monotonic() - began))
        return False
    done, seconds = record.status == "done", time.monotonic() - began
    display.ended("done" if done else "failed", record.error or "")
    if not done or level != "quiet":
        display.say(f"{title}: {'done' if done else f'failed: {record.error}'} after {duration(seconds)}")
    if collected is not None:
        for measurement, epoch in collected.numbers:
            line(_dumped({"run": record.id, "epoch": epoch} | as_object(measurement)))
        line(_end(job, record.status, record.error, seconds))
    return done


def _end(job: Job, status: str, error: str | None, seconds: float) -> str:
    """The line of JSON on a cell's end."""
    cell = job.cell
    known = {"run": job.folder.name, "label": cell.label, "method": cell.method.name, "dataset": cell.dataset}
    known |= {"architecture": cell.architecture, "folder": str(job.folder), "status": status}
    return _dumped({**known, "seed": cell.seed, "error": error, "seconds": seconds})


def _dumped(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _planned(jobs: Sequence[Job]) -> list[Planned]:
    """What the display is to expect: names as short as tells the cells apart, stages with their rough costs."""
    cells = [job.cell for job in jobs]
    seeds = len({cell.seed for cell in cells}) > 1
    places = len({(cell.architecture, cell.dataset) for cell in cells}) > 1
    return [
        Planned(
            job.cell.label
            + (f" seed {job.cell.seed}" if seeds else "")
            + (f" ({job.cell.architecture}, {job.cell.dataset})" if places else ""),
            tuple(_stages(job)),
        )
        for job in jobs
    ]


def _stages(job: Job) -> list[tuple[str, float]]:
    """Training and tasks with their forward-equivalents, roughly; the display learns from those that were done."""
    method, training = job.cell.method, job.cell.training
    images = len(job.train.labels) * training.epochs
    stages = [] if job.trained else [("train", images * method.epochs_factor * 3 * method.passes().flops)]
    judged = [(task.name, len(method.branches) * cost(task, len(job.test.labels))) for task in job.missing]
    return stages + judged * (1 + len(training.snapshot_epochs))


def cost(task: Task, images: int) -> float:
    """Forward-equivalents of a task on one network, roughly: attacks pass forward and backward in every step."""
    options = vars(task)
    steps = options.get("steps")
    corrupted = [len(options[key]) for key in ("names", "severities") if isinstance(options.get(key), tuple)]
    times = 3.0 * steps if isinstance(steps, int) else 1.0
    for many in corrupted:
        times *= max(many, 1)
    limit = options.get("limit")
    return times * (min(limit, images) if isinstance(limit, int) and limit else images) + 1
