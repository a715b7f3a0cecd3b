"""``eval``: judges any checkpoint of a known architecture."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from robusteval.cli.arguments import DataDir, Device, Download, Limit, Settings, Threads, with_settings
from robusteval.cli.output import errors, line, table
from robusteval.config import Table, TaskTable, change
from robusteval.display import display_for
from robusteval.errors import UserError
from robusteval.records import Measurement, Run

if TYPE_CHECKING:
    from robusteval.tasks import Task


def evaluate(
    model: str,
    /,
    *,
    checkpoint: Path,
    dataset: str = "cifar10-sample",
    tasks: str = "clean",
    settings: Settings = (),
    normalize: str | None = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    limit: Limit = None,
    download: Download = False,
    json_lines: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> None:
    """Judge a checkpoint, one of ours or anybody's, and print the measurements.

    Args:
        model: Name of the network (`robusteval ls models`).
        checkpoint: A safetensors file, or a PyTorch checkpoint that holds plain tensors; of a run's
            `weights.safetensors` every branch is judged.
        dataset: Name of a data set; its test images are used.
        tasks: Names of tasks, with commas: clean, corruption, pgd.
        settings: A changed option, e.g. `pgd.steps=50` or `corruption.limit=1000`; may be repeated.
        normalize: Pixel statistics the network was trained with: cifar10, cifar100, imagenet or none; by default the
            data set's.
        json_lines: Print a JSON object per measurement: task, metric, value, n, unit, low, high, where.
    """
    from robusteval.branches import MAIN, add_branches, branch_names, branches_in, keep_branch
    from robusteval.data import DATASETS, load
    from robusteval.method import TRAINING_ONLY
    from robusteval.models import build
    from robusteval.models.weights import load_state, read_state
    from robusteval.runner import judging
    from robusteval.runtime import prepare
    from robusteval.store import RUN, names, read_bytes, read_record

    asked = with_settings(partial(_tasks, tasks), settings)
    images = load(dataset, "test", data_dir=data_dir, download=download).first(limit)
    network = build(model, classes=len(images.classes), normalize=normalize or DATASETS[dataset].family)
    deployed = MAIN
    if (checkpoint.parent / RUN).exists() and checkpoint.name in names(checkpoint.parent):
        read_bytes(checkpoint.parent, checkpoint.name)  # a file of a run: is it what was written?
        deployed = read_record(checkpoint.parent, RUN, Run).deployed
    state = {key: value for key, value in read_state(checkpoint).items() if not key.startswith(TRAINING_ONLY)}
    if branches := branches_in(state):
        add_branches(network, branches)
    load_state(network, state, where=str(checkpoint))
    runtime = prepare(device, threads)
    network = network.to(runtime.device).eval()
    models = {name: keep_branch(network, name) for name in branch_names(network)}
    found: list[Measurement] = []
    with display_for(errors()) as display:
        display.cell(f"{model} on {dataset}")
        context = judging(runtime, deployed if deployed in models else MAIN, display, data_dir=data_dir)
        for task in asked:
            before = len(found)
            for measurement, _ in task.measure(models, images, context):
                found.append(measurement)
                if json_lines:
                    line(as_json(measurement))
            if len(found) == before:
                display.say(f"{task.name}: nothing to measure: the checkpoint lacks what this task looks at")
    if not json_lines:
        table(("task", "metric", "value", "low", "high", "n", "where"), [as_row(one) for one in found])


def _tasks(names: str, settings: tuple[str, ...]) -> list[Task]:
    """The tasks that a list of names with commas means, options changed."""
    from robusteval.cells import make_task
    from robusteval.tasks import TASKS

    described: Table = {"tasks": [{"name": name.strip()} for name in names.split(",") if name.strip()]}
    if not described["tasks"]:
        raise UserError(f"--tasks: names no task; allowed: {', '.join(TASKS)}, with commas between several")
    for setting in settings:
        change(described, f"tasks.{setting}")
    return [
        make_task(TaskTable(name=entry.pop("name"), options=entry), "eval") for entry in map(dict, described["tasks"])
    ]


def as_json(measurement: Measurement) -> str:
    """A measurement as one line of JSON; a missing value is null."""
    fields = measurement.model_dump(include={"task", "metric", "value", "n", "unit", "low", "high", "where"})
    return json.dumps(fields, allow_nan=False)


def as_row(measurement: Measurement) -> tuple[str, ...]:
    """A measurement for people: fractions as percent, other numbers with four significant digits."""
    percent = measurement.unit == "fraction"
    numbers = (measurement.value, measurement.low, measurement.high)
    shown = ["missing" if x is None else f"{100 * x:.2f} %" if percent else f"{x:.4g}" for x in numbers]
    if measurement.value is not None and measurement.low is None and measurement.high is None:
        shown[1:] = ["", ""]  # not missing: it has no interval
    where = " ".join(f"{key}={value}" for key, value in measurement.where.items())
    return (measurement.task, measurement.metric, *shown, str(measurement.n), where)
