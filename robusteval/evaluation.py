"""`evaluate`: any network judged by tasks, from Python in three lines.

import robusteval
result = robusteval.evaluate(model, "cifar10-sample", ["clean", "pgd"])
print(result)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from robusteval.branches import MAIN
from robusteval.cells import make_task
from robusteval.config import TaskTable
from robusteval.data import ImageSet, load
from robusteval.data.given import Array, given, image_set
from robusteval.errors import UserError, unknown
from robusteval.progress import Progress, Silent
from robusteval.randomness import Stream
from robusteval.records import DataRef, Measurement
from robusteval.runner import EVALUATION_SEED, judging
from robusteval.runtime import Runtime, prepare
from robusteval.subjects import Model, copies, tried, width
from robusteval.tasks import TASKS, Outcomes, Task
from robusteval.wording import aligned, as_row, verdict

if TYPE_CHECKING:
    import pandas as pd

Data = str | ImageSet | tuple[Array, Array | Sequence[int]]
"""The name of a data set, whose test images are meant; an image set; or images and labels."""
Tasks = str | Task | Sequence[str | Task]
"""Names, with commas between several, or task objects such as ``Pgd(steps=50)``, or a list of both."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured; `print` shows it as a table.

    Attributes:
        measurements: in the order in which they were made.
        outcomes: by `Measurement.outcomes`: which images were right, bool (n,) in the order of the data.
        notes: lines on what was done to the network or the images, and on tasks that found nothing to measure.
        data: which images.
    """

    measurements: tuple[Measurement, ...]
    outcomes: Mapping[str, Outcomes]
    notes: tuple[str, ...]
    data: DataRef

    def frame(self) -> pd.DataFrame:
        """A line a measurement; what distinguishes measurements is in columns ``where_<name>``."""
        import pandas as pd

        lines = []
        for one in self.measurements:
            fields = one.model_dump(exclude={"where", "reasons"}) | {"reasons": "; ".join(map(str, one.reasons))}
            lines.append(fields | {f"where_{key}": value for key, value in one.where.items()})
        columns = dict.fromkeys(key for line in lines for key in line)
        return pd.DataFrame(lines, columns=list(columns)).convert_dtypes()

    def table(self) -> str:
        """The measurements in aligned columns, under them the reasons not to trust one, then what else is said of one.

        With several branches a reason names its own.
        """
        head = ("TASK", "METRIC", "VALUE", "LOW", "HIGH", "N", "TRUST", "WHERE")
        rows = [(*row[:-1], verdict(one), row[-1]) for one in self.measurements for row in [as_row(one)]]
        branches = [one.where.get("branch") for one in self.measurements]
        several = len(set(branches)) > 1
        reasons = [
            f"{one.task} (branch {branch}): {reason}" if several and branch else f"{one.task}: {reason}"
            for one, branch in zip(self.measurements, branches, strict=True)
            for reason in one.reasons
        ]
        notes = [f"{one.task}: {one.note}" for one in self.measurements if one.note]
        return "\n".join([aligned([head, *rows]), *dict.fromkeys([*reasons, *notes])])

    def __str__(self) -> str:
        """The table, and the notes."""
        return "\n".join([self.table(), *self.notes])

    def _repr_html_(self) -> str:
        """The frame, for notebooks."""
        html: str = self.frame().to_html(index=False)
        return html


def evaluate(
    model: Model,
    data: Data,
    tasks: Tasks = "clean",
    *,
    deployed: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    device: str | torch.device = "auto",
    threads: int | None = None,
    limit: int | None = None,
    seed: int = EVALUATION_SEED,
    batch_size: int | None = None,
    progress: bool | Progress = False,
    told: Callable[[Measurement], None] | None = None,
) -> Evaluation:
    """What tasks measure of a network.

    The network is copied first, so that nothing which happens here reaches it: weights, gradients, BatchNorm
    statistics, flags and device stay as they are, and so do torch's random numbers and settings.

    Args:
        model: takes float images (B, 3, H, W) in [0, 1] and gives logits (B, classes), normalisation included. With
            BatchNorm branches (`robusteval.branches`) each of them is judged, as is each network of a mapping from
            branch names.
        data: the name of a data set (`robusteval ls datasets`), an image set, or images and labels: uint8 or floats
            in [0, 1], (N, 3, H, W) or (N, H, W, 3), and whole numbers (N,).
        tasks: names (`robusteval ls tasks`) and task objects, e.g. ``["clean", Pgd(steps=50)]``.
        deployed: the branch for tasks that look at one; by default main, or the first of a mapping without main.
        data_dir: folder with data sets and published corruptions; else ``ROBUSTEVAL_DATA``, else the user's cache.
        download: get a missing data set through torchvision.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``, or the device of torch.
        threads: on the CPU; results depend on it in rounding. None leaves torch's choice.
        limit: only so many images, from the first.
        seed: of the evaluation's own draws; the default is that of ``robusteval run``.
        batch_size: images in a batch; None chooses by device.
        progress: True shows bars on standard error; or whom to tell.
        told: called with each measurement as soon as it is known.

    Raises:
        UserError: anything wrong with what was given: data that are not there or do not fit, an unknown task, a
            network that fails, or gives no finite logits of the data's classes.
    """
    asked = chosen_tasks(tasks)
    device = str(device)
    seed = _whole("seed", seed, least=0)
    threads, limit, batch_size = (
        None if number is None else _whole(name, number, least=1)
        for name, number in (("threads", threads), ("limit", limit), ("batch_size", batch_size))
    )
    folder = None if data_dir is None else Path(data_dir).expanduser()
    with _same_process(device), _shown(progress) as display, torch.inference_mode(False), torch.enable_grad():
        runtime = _prepared(device, threads)
        _seed(Stream.of(seed).at("evaluation").seed, runtime.device)
        subjects = copies(model, runtime.device)
        images, note = _images(data, subjects.models, runtime, data_dir=folder, download=download)
        images = images.first(limit)
        context = judging(runtime, _deployed(deployed, subjects.models), display, data_dir=folder)
        context = replace(context, seed=seed, batch_size=batch_size or context.batch_size)
        probe = images.images[: context.batch_size]
        models = {
            name: tried(network, probe, runtime.device, classes=len(images.classes), where=name)
            for name, network in subjects.models.items()
        }
        notes = [note] * bool(note) + list(subjects.notes)
        found: list[Measurement] = []
        outcomes: dict[str, Outcomes] = {}
        for task in asked:
            before = len(found)
            for measurement, right in task.measure(models, images, context):
                if right is not None:
                    measurement = measurement.model_copy(update={"outcomes": str(len(outcomes))})
                    outcomes[str(len(outcomes))] = right
                found.append(measurement)
                if told is not None:
                    told(measurement)
            if len(found) == before:
                notes.append(f"{task.name}: nothing to measure: the networks lack what this task looks at")
    return Evaluation(tuple(found), outcomes, tuple(notes), images.ref())


def chosen_tasks(tasks: Tasks) -> tuple[Task, ...]:
    """The tasks that are meant, with default options where they are named.

    Raises:
        UserError: none, an unknown name, or something else than a task.
    """
    listed = [tasks] if isinstance(tasks, str) or not isinstance(tasks, Sequence) else tasks
    found: list[Task] = []
    for one in listed:
        if isinstance(one, str):
            names = [name.strip() for name in one.split(",") if name.strip()]
            found += [make_task(TaskTable(name=name), "tasks") for name in names]
        elif isinstance(one, type) or not callable(getattr(one, "measure", None)):
            shown = f"the class {one.__name__}" if isinstance(one, type) else f"a {type(one).__name__}"
            raise UserError(f"tasks: {shown}; allowed: names ({', '.join(TASKS)}) and objects such as Pgd(steps=50)")
        else:
            found.append(one)
    if not found:
        raise UserError(f"tasks: none; allowed: {', '.join(TASKS)}")
    return tuple(found)


def _whole(name: str, number: object, *, least: int) -> int:
    """An option that is a whole number; those of numpy are some, too.

    Raises:
        UserError: it is something else, or too small.
    """
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise UserError(f"{name}: {number!r}; allowed: whole numbers, {least} and above")
    if number < least:
        raise UserError(f"{name}: {number}; allowed: {least} and above")
    return int(number)


def _images(
    data: Data, models: Mapping[str, nn.Module], runtime: Runtime, *, data_dir: Path | None, download: bool
) -> tuple[ImageSet, str]:
    """The image set that is meant, and a note on what had to be done to the images."""
    if isinstance(data, str):
        return load(data, "test", data_dir=data_dir, download=download), ""
    if isinstance(data, ImageSet):
        return data, ""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise UserError(f"data: a {type(data).__name__}; allowed: a data set's name, an ImageSet, or (images, labels)")
    pixels = given(*data)
    name, network = next(iter(models.items()))
    classes = width(network, pixels.images, runtime.device, where=name)
    return image_set(pixels, classes=classes), pixels.note


def _deployed(name: str | None, models: Mapping[str, nn.Module]) -> str:
    """The branch that is deployed."""
    if name is not None and name not in models:
        raise unknown("deployed", "branch", name, models)
    return name or (MAIN if MAIN in models else next(iter(models)))


def _shown(progress: bool | Progress) -> AbstractContextManager[Progress]:
    """What is told of every batch."""
    if not isinstance(progress, bool):
        return nullcontext(progress)
    if not progress:
        return nullcontext(Silent())
    from rich.console import Console

    from robusteval.display import display_for

    return display_for(Console(file=sys.stderr))


def _prepared(device: str, threads: int | None) -> Runtime:
    """The runtime; an operation that has no deterministic form, in a network that we did not write, only warns."""
    runtime = prepare(device, threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    return runtime


def _seed(seed: int, device: torch.device) -> None:
    """Seeds what networks that draw numbers draw from; ``torch.manual_seed`` would reach devices not in use, too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def _same_process(device: str) -> Iterator[None]:
    """A context that leaves torch's settings and random numbers as they were; GPUs stay asleep for the device cpu."""
    gpus = device != "cpu" and torch.cuda.is_available()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    threads = torch.get_num_threads()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # a property that torch's stub lacks
    benchmark = torch.backends.cudnn.benchmark
    precision = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # as above
    gpu = torch.cuda.current_device() if gpus else None
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if gpus else ()):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_num_threads(threads)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]  # as above
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]  # as above
        if gpu is not None:
            torch.cuda.set_device(gpu)
