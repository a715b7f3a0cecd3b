"""What a task is: it measures networks on images and yields numbers with their per-sample outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robusteval.data.sets import ImageSet
from robusteval.method import Method
from robusteval.progress import Progress, Silent
from robusteval.records import Measurement, Scalar
from robusteval.stats import t_interval, wilson
from robusteval.training import Training

Outcomes = npt.NDArray[np.bool_]
"""(n,): which images were right, in the order of the data set."""


@dataclass(frozen=True, eq=False)
class Origin:
    """How the networks under test were trained, for tasks that look inside; a bare checkpoint has none.

    Attributes:
        method, training: what trained them.
        model: what `Method.wrap` made, with the trained weights, on the context's device: every branch and every
            attached part. To be left as it was, its gradients None.
        data: the training images.
        sibling: the deployed network of another method's run of the same architecture, data, training and seed in the
            same folder, by the method's name; None if there is no such run yet.
    """

    method: Method
    training: Training
    model: nn.Module
    data: ImageSet
    sibling: Callable[[str], nn.Module | None]


class Draft(Protocol):
    """What a long task notes as it goes on, so that it need not begin again after an interruption."""

    def read(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """What was written under the key for this very task, weights and images; None if nothing was."""

    def write(self, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keeps the arrays until the task is recorded."""


class Forgetful:
    """A `Draft` that keeps nothing."""

    def read(self, key: str) -> None:
        """Nothing."""

    def write(self, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Context:
    """Where and how tasks measure.

    Attributes:
        device: where the networks are and the images go.
        seed: of the evaluation's own draws (generated corruptions, random starts). Not that of training: networks
            measured with one seed meet the same corrupted images and the same starts, so outcomes can be paired.
        deployed: the branch that the method deploys.
        batch_size: images in every batch, the last one padded, so that a result does not depend on how many
            images follow.
        data_dir: folder with data sets and published corruption files.
        precision: of the gradients that attacks follow. Predictions are always float32.
        progress: told of every batch.
        origin: how the networks were trained.
        draft: where a task keeps the parts that it has done.
        hardest: for estimates: every image is taken for right and every attack for failed, which costs the most.
    """

    device: torch.device
    seed: int
    deployed: str
    batch_size: int = 500
    data_dir: Path | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    progress: Progress = field(default_factory=Silent)
    origin: Origin | None = None
    draft: Draft = field(default_factory=Forgetful)
    hardest: bool = False


class Observation(NamedTuple):
    """A measurement and the outcomes behind it; None where it is derived from those of other measurements."""

    measurement: Measurement
    outcomes: Outcomes | None


class Task(Protocol):
    """Something to measure; tasks are `robusteval.options.options` classes.

    Attributes:
        name: the registry name.
        version: raised when the same options would give other numbers.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Task:
        """The task with nothing left to what is found in the data folder, so that its options decide its numbers."""

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Measurements of every network, each as soon as it is known.

        A task that looks for parts which not every method has yields nothing where there are none.

        Args:
            models: branch name to the plain network of that branch, on the context's device. Left as they were.
            data: the images.
            context: where and how.

        Raises:
            UserError: a network whose output are no finite logits of the data's classes, or data that are not there.
        """


def accuracy(task: str, metric: str, outcomes: Outcomes, where: Mapping[str, Scalar]) -> Observation:
    """The share of outcomes that are right, with its Wilson interval."""
    k, n = int(outcomes.sum()), len(outcomes)
    low, high = wilson(k, n)
    measurement = Measurement(task=task, metric=metric, value=k / n, n=n, low=low, high=high, where=dict(where))
    return Observation(measurement, outcomes)


def image_mean(
    task: str, metric: str, values: Tensor, where: dict[str, Scalar], *, low: float, high: float = math.inf
) -> Observation:
    """The mean over images of a number, not a share, with its t interval.

    Args:
        task: its name.
        metric: what the number is.
        values: float64 (n,), on the CPU.
        where: what distinguishes the measurement.
        low: the least that a value can be.
        high: the greatest.
    """
    interval = t_interval(values.numpy(), low=low, high=high)
    measurement = Measurement(
        task=task,
        metric=metric,
        value=float(values.mean()),
        n=len(values),
        unit="number",
        low=interval and interval.low,
        high=interval and interval.high,
        where=where,
        note="" if interval else "no interval: all images give the same number",
    )
    return Observation(measurement, None)
