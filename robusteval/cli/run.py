"""``run`` and ``train``: suites and single cells to run folders."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from copy import deepcopy
from typing import Annotated

from cyclopts import Parameter

from robusteval import trackers
from robusteval.cli.arguments import (
    RESULTS,
    DataDir,
    Device,
    Download,
    Flag,
    Limit,
    Out,
    Quiet,
    Seed,
    Settings,
    Threads,
    Track,
    Verbose,
    level,
    with_settings,
)
from robusteval.cli.cautions import caution
from robusteval.cli.forecast import forecast
from robusteval.cli.output import line
from robusteval.cli.summary import write
from robusteval.cli.work import INTERRUPTED, work
from robusteval.config import Suite, Table, change, load_suite, narrowed, parse_suite


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
    json_lines: Annotated[Flag, Parameter(name="--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    track: Track = (),
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
        json_lines: Print JSON objects, one a line: the numbers of each cell when it has ended, as `eval` prints them,
            with its run; its status and error; the path of the report last. With `--dry-run` one document.
    """
    told = level(quiet=quiet, verbose=verbose)
    load_suite(suite)  # before torch is imported: a wrong name is to be told at once
    chosen = narrowed(
        with_settings(lambda settings: _resolvable(load_suite(suite, settings)), settings), only=only, seeds=seed
    )
    from robusteval.planning import plan
    from robusteval.runtime import prepare

    runtime = prepare(device, threads)
    jobs = plan(chosen, out, data_dir=data_dir, limit=limit, download=download)
    if dry_run:
        forecast(jobs, runtime, as_json=json_lines)
        return 0
    caution(task for job in jobs for task in job.missing)
    observers = [trackers.tracker(name, out) for name in track]
    code = work(jobs, runtime, level=told, as_json=json_lines, observers=observers)
    return code if code == INTERRUPTED else max(code, write(out, (out,), as_json=json_lines))


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
    quiet: Quiet = False,
    verbose: Verbose = False,
    track: Track = (),
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

    told = level(quiet=quiet, verbose=verbose)
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
    code = work(jobs, runtime, level=told, observers=[trackers.tracker(name, out) for name in track])
    if code == 0:
        line(str(jobs[-1].folder / DEPLOYED))
    return code


def _resolvable(suite: Suite) -> Suite:
    """The suite, after every option of it was checked."""
    from robusteval.cells import check

    check(suite)
    return suite
