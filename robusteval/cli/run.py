"""``run`` and ``train``: suites and single cells to run folders."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

import time
from copy import deepcopy
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from robusteval.cli.arguments import (
    RESULTS,
    DataDir,
    Device,
    Download,
    Flag,
    Limit,
    Out,
    Seed,
    Settings,
    Threads,
    with_settings,
)
from robusteval.cli.cautions import caution
from robusteval.cli.output import errors, in_threads, line, note, table
from robusteval.cli.summary import write
from robusteval.config import Suite, Table, change, load_suite, narrowed, parse_suite
from robusteval.display import Display, display_for, duration
from robusteval.store import Busy

if TYPE_CHECKING:
    from robusteval.planning import Job
    from robusteval.runtime import Runtime


INTERRUPTED = 130
"""The exit code after Ctrl-C, by the shells' convention."""


def run(
    suite: str = "quick",
    /,
    *,
    only: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    seed: Annotated[tuple[Seed, ...], Parameter(show_default=False)] = (),
    settings: Settings = (),
    out: Out = RESULTS,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    limit: Limit = None,
    download: Download = False,
    dry_run: Flag = False,
) -> int:
    """Train and judge every cell of a suite, then write the report.

    What is done already is skipped and what is half-done goes on, so the same command can be given again at any
    time. A cell that fails is reported with its reason and does not stop the others; the exit code is then 1.

    Args:
        suite: Name of a shipped suite (`robusteval ls suites`) or path of a TOML file.
        only: Only this method, by name or label; may be repeated.
        seed: This seed instead of the suite's; may be repeated.
        settings: A changed option, e.g. `training.epochs=2`, `methods.entprop.k=0.4` or `tasks.pgd.epsilon=4/255`; may
            be repeated.
        dry_run: Print the cells, what is there already and the expected FLOPs and minutes; compute nothing else.
    """
    load_suite(suite)  # before torch is imported: a wrong name is to be told at once
    chosen = narrowed(
        with_settings(lambda settings: _resolvable(load_suite(suite, settings)), settings), only=only, seeds=seed
    )
    from robusteval.planning import plan
    from robusteval.runtime import prepare

    runtime = prepare(device, threads)
    jobs = plan(chosen, out, data_dir=data_dir, limit=limit, download=download)
    if dry_run:
        _forecast(jobs, runtime)
        return 0
    caution(task for job in jobs for task in job.missing)
    code = _work(jobs, runtime)
    return code if code == INTERRUPTED else max(code, write(out, (out,)))


def train(
    method: str,
    /,
    *,
    architecture: str = "resnet8",
    dataset: str = "cifar10-sample",
    seed: Seed = 0,
    settings: Settings = (),
    out: Out = RESULTS,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    limit: Limit = None,
    download: Download = False,
) -> int:
    """Train one method, and the teacher that it learns from, if any; keep the weights without judging them.

    Args:
        method: Name of a method (`robusteval ls methods`).
        architecture: Name of a network (`robusteval ls models`).
        dataset: Name of a data set (`robusteval ls datasets`).
        seed: The seed.
        settings: A changed option, e.g. `k=0.4` or `training.epochs=2`; may be repeated.
    """
    from robusteval.planning import plan
    from robusteval.runtime import prepare
    from robusteval.store import DEPLOYED

    described: Table = {
        "name": "train",
        "datasets": [dataset],
        "architectures": [architecture],
        "seeds": [seed],
        "methods": [{"name": method}],
        "tasks": [],
    }

    def changed(settings: tuple[str, ...]) -> Suite:
        table = deepcopy(described)
        for setting in settings:
            # Training options are the suite's, so that a teacher is trained like its student.
            change(table, setting if setting.startswith("training.") else f"methods.{method}.{setting}")
        return _resolvable(parse_suite(table, "train"))

    suite = with_settings(changed, settings)
    runtime = prepare(device, threads)
    jobs = plan(suite, out, data_dir=data_dir, limit=limit, download=download)
    code = _work(jobs, runtime)
    if code == 0:
        line(str(jobs[-1].folder / DEPLOYED))
    return code


def _resolvable(suite: Suite) -> Suite:
    """The suite, after every option of it was checked."""
    from robusteval.cells import check

    check(suite)
    return suite


def _work(jobs: list[Job], runtime: Runtime) -> int:
    """The exit code after doing all that was not done: 0, 1 where a job failed, `INTERRUPTED`."""
    left = [job for job in jobs if job.state != "done"]
    if done := len(jobs) - len(left):
        note(f"{done} of {len(jobs)} cells are done already")
    try:
        with display_for(errors(), [_weight(job) for job in left]) as display:
            failed = [job for job in left if not _done(job, runtime, display)]
    except KeyboardInterrupt:
        note("interrupted: the same command resumes where it stopped")
        return INTERRUPTED
    return 1 if failed else 0


def _done(job: Job, runtime: Runtime, display: Display) -> bool:
    """Whether a job came to its end; says how it went."""
    from robusteval.runner import run_job

    title = f"{job.cell.label} seed {job.cell.seed} ({job.cell.architecture}, {job.cell.dataset})"
    display.cell(title)
    began = time.monotonic()
    try:
        record = run_job(job, runtime, display)
    except Busy as busy:
        display.say(f"{title}: skipped: {busy}")
        return False
    took = duration(time.monotonic() - began)
    display.say(f"{title}: {'done' if record.status == 'done' else f'failed: {record.error}'} after {took}")
    return record.status == "done"


def _weight(job: Job) -> float:
    """What a job costs relative to others of the suite: its training's forward-equivalents, and a bit for judging."""
    images = len(job.train.labels)
    method, epochs = job.cell.method, job.cell.training.epochs
    training = 0 if job.trained else images * epochs * method.epochs_factor * 3 * method.passes().flops
    times = 1 + len(job.cell.training.snapshot_epochs)
    return training + 20 * len(job.test.labels) * len(job.missing) * times + 1


def _forecast(jobs: list[Job], runtime: Runtime) -> None:
    """Prints what a run would do and cost."""
    from robusteval.estimate import estimate

    costs = estimate(jobs, runtime)
    rows: list[tuple[str, ...]] = [
        (job.folder.name, job.cell.label, job.state, f"{cost.flops:.2e}", f"{cost.seconds / 60:.1f}")
        for job, cost in zip(jobs, costs, strict=True)
    ]
    flops, seconds = sum(cost.flops for cost in costs), sum(cost.seconds for cost in costs)
    rows.append(("total", "", "", f"{flops:.2e}", f"{seconds / 60:.1f}"))
    table(("cell", "method", "state", "FLOPs", "minutes"), rows)
    if all(job.state == "done" for job in jobs):
        line("all cells are done: nothing is left to compute")
        return
    line(
        f"minutes: from a few steps of each training and task, timed just now on {runtime.device} with "
        f"{in_threads(runtime.threads)}; a half-done training counts in full"
    )
