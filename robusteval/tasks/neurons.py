"""Selectivity, invariance and specialisation of the penultimate neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robusteval.corruptions import GENERATOR_VERSION
from robusteval.data.sets import ImageSet
from robusteval.features import penultimate
from robusteval.options import Count, build, options
from robusteval.records import Measurement, Scalar
from robusteval.tasks.corruption import Corruption, Severity
from robusteval.tasks.predict import batches, parts, predict, to_input
from robusteval.tasks.task import Context, Observation
from robusteval.tasks.views import CLEAN, View, views

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MEDIANS = ("selectivity", "invariance", "specialisation")


class Scores(NamedTuple):
    """What neurons respond to: one entry each, (D,).

    Attributes:
        dead: whose activation is the same everywhere; their scores are NaN.
        category: more selective for a class than for a nuisance.
        selectivity: in [-1, 1].
        invariance, specialisation: in [0, 1].
    """

    dead: Flags
    category: Flags
    selectivity: Floats
    invariance: Floats
    specialisation: Floats


def scores(activations: Floats) -> Scores:
    """The scores of (Madan et al., 2022, NMI 4:146-153, and its published code).

    With A_ij a neuron's mean activation for class i under nuisance j, shifted and scaled to [0, 1] over the grid: the
    neuron is a category neuron if max_i mean_j A_ij >= max_j mean_i A_ij. Its preferred class p is that of its largest
    A_ij. Selectivity S = (a - b) / (a + b), a the mean of row p and b that of all other rows. Invariance I = 1 -
    (max_j A_pj - min_j A_pj). Specialisation = sqrt(max(S, 0) I).

    Args:
        activations: (D, classes, nuisances), at least two classes.
    """
    neurons, classes, _ = activations.shape
    assert classes > 1, "selectivity compares classes"
    low, high = activations.min(axis=(1, 2)), activations.max(axis=(1, 2))
    dead = low == high
    span = np.where(dead, np.nan, high - low)
    grid = (activations - low[:, None, None]) / span[:, None, None]
    category = ~dead & (grid.mean(axis=2).max(axis=1) >= grid.mean(axis=1).max(axis=1))
    preferred = activations.max(axis=2).argmax(axis=1)
    row = grid[np.arange(neurons), preferred]
    a = row.mean(axis=1)
    b = (grid.mean(axis=2).sum(axis=1) - a) / (classes - 1)
    selectivity = (a - b) / (a + b)
    invariance = 1 - (row.max(axis=1) - row.min(axis=1))
    return Scores(dead, category, selectivity, invariance, np.sqrt(np.maximum(selectivity, 0) * invariance))


@options
class Neurons:
    """What the penultimate neurons of each branch respond to, over the grid of classes and nuisances.

    The nuisances are none (the clean images) and each corruption. ``dead_share`` counts neurons whose mean activation
    is the same in the whole grid, ``category_share`` those, of the living, that tell classes apart rather than
    nuisances; ``selectivity``, ``invariance`` and ``specialisation`` are medians over the latter (see `scores`).

    Attributes:
        names, severity, source: the corrupted images, as in the task ``corruption``.
        limit: only so many images, from the first; None for all. Classes without an image are left out.
    """

    name: ClassVar[str] = "neurons"
    version: ClassVar[int] = int(GENERATOR_VERSION)

    names: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "gaussian_noise",
        "defocus_blur",
        "fog",
        "contrast",
        "jpeg_compression",
    )
    severity: Severity = 3
    source: Literal["auto", "official", "generated"] = "auto"
    limit: Count | None = 500

    @model_validator(mode="after")
    def _can_be_measured(self) -> Neurons:
        self._corruption()
        return self

    def _corruption(self) -> Corruption:
        values = {"names": self.names, "severities": (self.severity,), "source": self.source}
        return build(Corruption, values, self.name)

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Neurons:
        return replace(self, source=self._corruption().resolved(data, data_dir).source)

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Shares and medians of each network; see `Task`."""
        data = data.first(self.limit)
        corruption = self._corruption().resolved(data, context.data_dir)
        context.progress.begin(self.name, (1 + len(self.names)) * batches(data, context))
        columns: dict[str, list[Floats]] = {branch: [] for branch in models}
        for view in views(data, corruption, context):
            for branch, column in _class_means(models, view, context).items():
                columns[branch].append(column)
        for branch in models:
            where: dict[str, Scalar] = {
                "branch": branch,
                "nuisances": " ".join((CLEAN, *self.names)),
                "severity": self.severity,
                "source": corruption.source,
            }
            yield from self._observations(np.stack(columns[branch], axis=2), len(data.labels), where)

    def _observations(self, grid: Floats, images: int, where: dict[str, Scalar]) -> Iterator[Observation]:
        """The measurements of one network's grid (D, classes, nuisances)."""
        values: dict[str, float] = {}
        note = "the images are all of one class"
        if grid.shape[1] > 1:
            found = scores(grid)
            values["dead_share"] = float(found.dead.mean())
            note = "no neuron is of this kind"
            if not found.dead.all():
                values["category_share"] = float(found.category.sum() / (~found.dead).sum())
            if found.category.any():
                for metric in MEDIANS:
                    values[metric] = float(np.median(getattr(found, metric)[found.category]))
        for metric in ("dead_share", "category_share", *MEDIANS):
            value = values.get(metric)
            measurement = Measurement(
                task=self.name,
                metric=metric,
                value=value,
                n=images,
                unit="number" if metric in MEDIANS else "fraction",
                where=where,
                note=note if value is None else "",
            )
            yield Observation(measurement, None)


def _class_means(models: Mapping[str, nn.Module], view: View, context: Context) -> dict[str, Floats]:
    """Each network's mean penultimate activation of each class that has images: (D, classes)."""
    sums: dict[str, Tensor] = {}
    for part in parts(view.data, context.batch_size):
        x = to_input(part.images, context.device)
        for branch, model in models.items():
            with penultimate(model) as kept:
                predict(model, x, classes=len(view.data.classes), where=branch)
            activations = kept[-1][: part.n].flatten(1).double().cpu()
            if branch not in sums:
                sums[branch] = activations.new_zeros(len(view.data.classes), activations.shape[1])
            sums[branch].index_add_(0, part.labels[: part.n], activations)
        context.progress.advance()
    counts = torch.bincount(view.data.labels, minlength=len(view.data.classes)).double()
    return {branch: (total / counts.unsqueeze(1))[counts > 0].T.numpy() for branch, total in sums.items()}
