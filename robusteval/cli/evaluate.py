"""``eval``: judges any checkpoint of a known architecture."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from robusteval.cli.arguments import (
    DataDir,
    Device,
    Download,
    Flag,
    Limit,
    Quiet,
    Settings,
    Threads,
    Verbose,
    level,
    whole,
    with_settings,
)
from robusteval.cli.cautions import caution
from robusteval.cli.output import errors, line, note
from robusteval.cli.telling import told
from robusteval.cli.work import cost
from robusteval.config import Table, TaskTable, change
from robusteval.display import Planned, Shown, display_for
from robusteval.errors import UserError
from robusteval.records import Run
from robusteval.wording import as_json

if TYPE_CHECKING:
    from robusteval.records import Measurement
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
    resize: Annotated[int | None, Parameter(converter=whole, validator=Number(gte=1))] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    limit: Limit = None,
    download: Download = False,
    json_lines: Annotated[Flag, Parameter(name="--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Judge a checkpoint, one of ours or anybody's, and print the measurements.

    Args:
        model: Name of the network (`robusteval ls models`), or timm:NAME, torchvision:NAME or robustbench:NAME@THREAT
            (packages of the extras timm and robustbench; no weights are downloaded).
        checkpoint: A safetensors file, or a PyTorch checkpoint that holds plain tensors. Every BatchNorm branch in it
            is judged: of a run's `weights.safetensors`, and of checkpoints of timm, fast_advprop, easyrobust, DynACL
            and AR-AT.
        dataset: Name of a data set; its test images are used.
        tasks: Names of tasks, with commas: clean, corruption, pgd.
        settings: A changed option, e.g. `pgd.steps=50` or `corruption.limit=1000`; may be repeated.
        normalize: Pixel statistics the network was trained with: cifar10, cifar100, imagenet or none; by default those
            in the checkpoint, or where there are none the data set's.
        resize: Height and width that networks of timm and torchvision get images of (bilinear); by default images are
            left as they are. Attacks and corruptions act on the images before that.
        json_lines: Print a JSON object per measurement: task, metric, value, n, unit, low, high, where, trust, reasons,
            note.
    """
    how = level(quiet=quiet, verbose=verbose)
    import torch

    from robusteval.branches import MAIN, branch_names
    from robusteval.data import DATASETS, load
    from robusteval.evaluation import evaluate as judge
    from robusteval.method import TRAINING_ONLY
    from robusteval.models import build, normalises_itself, wrappers
    from robusteval.models.adoption import adopt
    from robusteval.models.weights import read_state
    from robusteval.store import RUN, names, read_bytes, read_record

    asked = with_settings(partial(_tasks, tasks), settings)
    caution(asked)
    images = load(dataset, "test", data_dir=data_dir, download=download).first(limit)
    family = None if normalises_itself(model) else DATASETS[dataset].family
    with torch.random.fork_rng(devices=()):
        network = build(model, classes=len(images.classes), normalize=normalize or family, resize=resize)
    read = read_state(checkpoint, also=wrappers(model))
    state = {key: value for key, value in read.items() if not key.startswith(TRAINING_ONLY)}
    adopted = adopt(network, state, where=str(checkpoint), normalize=normalize)
    deployed = adopted.deployed
    if (checkpoint.parent / RUN).exists() and checkpoint.name in names(checkpoint.parent):
        read_bytes(checkpoint.parent, checkpoint.name)  # a file of a run: is it what was written?
        deployed = read_record(checkpoint.parent, RUN, Run).deployed
    for text in adopted.notes:
        note(f"{checkpoint.name}: {text}")
    name, branches = f"{model} on {dataset}", len(branch_names(network))
    stages = tuple((task.name, branches * cost(task, len(images.labels))) for task in asked)
    shown: Shown = "quiet" if quiet else "lines" if json_lines else "live"
    with display_for(errors(), [Planned(name, stages)], shown=shown) as display:

        def tell(measurement: Measurement) -> None:
            if json_lines:
                line(as_json(measurement))
            if how == "verbose":
                display.say(told(measurement))

        display.cell(name)
        result = judge(
            network.eval(),
            images,
            asked,
            deployed=deployed if deployed in branch_names(network) else MAIN,
            data_dir=data_dir,
            device=device,
            threads=threads,
            progress=display,
            told=tell,
        )
    for text in result.notes:
        note(text)
    if not json_lines:
        line(result.table())


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
