"""Accuracy on corrupted images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from robusteval.corruptions import (
    CORRUPTIONS,
    GENERATOR_VERSION,
    HELD_OUT,
    NAMES,
    adapter,
    cache,
    corrupt,
    files,
    sources,
    table_for,
)
from robusteval.data.sets import ImageSet, data_folder
from robusteval.errors import UserError, unknown
from robusteval.options import Count, options
from robusteval.records import Measurement, Scalar
from robusteval.stats import mean_interval
from robusteval.tasks.predict import Part, batches, judge
from robusteval.tasks.task import Context, Observation, Outcomes, accuracy

PUBLISHED = (*CORRUPTIONS, *HELD_OUT)
"""The corruptions that files are published of."""

OFFICIAL: dict[str, Scalar] = {"source": "official"}
"""What a record says of published files."""

Severity = Annotated[int, Field(ge=1, le=5)]


def _whole(severity: float) -> float:
    """The severity, as an integer where it is one: 2.0 is the published 2, in the options' digest and in records."""
    return int(severity) if severity == int(severity) else severity


AnySeverity = Annotated[float, Field(ge=1, le=5, allow_inf_nan=False), AfterValidator(_whole)]
"""A published severity, or one between."""

BETWEEN = "a severity between the published ones: its strength is interpolated, and nobody's benchmark"
"""What a record says of such a severity."""


class Cell(NamedTuple):
    """A corruption at a severity, and what records say of where its images come from."""

    name: str
    severity: float
    source: dict[str, Scalar]

    def note(self) -> str:
        """What whoever reads its number has to know."""
        if self.name in adapter.NAMES:
            return adapter.NOTE
        return "" if isinstance(self.severity, int) else BETWEEN


@options
class Corruption:
    """Accuracy under each corruption at each severity, and the plain mean over them.

    Attributes:
        names: corruptions; the default are the benchmark's 15 (Hendrycks and Dietterich, 2019, arXiv:1903.12261).
            Compounds such as ``defocus_blur+gaussian_noise`` and those of CIFAR-10-C-bar (Mintun et al., 2021,
            arXiv:2102.11273) are generated; ``imagecorruptions:fog`` is the fog of the package of that name, with
            ImageNet-C's strengths.
        severities: 1 (weak) to 5; those between, such as 1.5, are generated, and ours.
        source: ``official`` reads the published files, ``generated`` makes images of the published strengths, or
            reads those that `robusteval data corrupt` put into the data folder as ``cifar10-c-gen``, if they are the
            very same. ``auto`` reads published files if they are in the data folder, else generates; records say
            which it was.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "corruption"
    version: ClassVar[int] = int(GENERATOR_VERSION)  # other images, other numbers

    names: Annotated[tuple[str, ...], Field(min_length=1)] = CORRUPTIONS
    severities: Annotated[tuple[AnySeverity, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    source: Literal["auto", "official", "generated"] = "auto"
    limit: Count | None = None

    @model_validator(mode="after")
    def _known_and_distinct(self) -> Corruption:
        for name in self.names:
            for part in () if name in adapter.NAMES else name.split("+"):
                if part not in NAMES:
                    raise unknown("names", "corruption", part, NAMES)
            if len(set(name.split("+"))) < len(name.split("+")):
                raise ValueError(f"names: {name!r} has a corruption twice; allowed: each once, from left to right")
        if any(name in adapter.NAMES for name in self.names) and not all(isinstance(s, int) for s in self.severities):
            raise ValueError(f"severities: {adapter.PREFIX}* has none between; allowed with it: 1, 2, 3, 4, 5")
        for field, values in (("names", self.names), ("severities", self.severities)):
            if len(set(values)) < len(values):
                raise ValueError(f"{field}: one is listed twice and would count twice; allowed: each once")
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Corruption:
        official = self._published(data, data_dir) is not None
        return replace(self, source="official" if official else "generated")

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Accuracy of each network in every cell, then each network's mean; see `Task`."""
        data = data.first(self.limit)
        official = self._published(data, context.data_dir) is not None
        cells = [
            Cell(name, severity, source_of(name, data, context.seed, official=official and isinstance(severity, int)))
            for name in self.names
            for severity in self.severities
        ]
        context.progress.begin(self.name, len(cells) * batches(data, context))
        hits = {branch: np.zeros(len(data.labels), dtype=np.int64) for branch in models}
        for cell in cells:
            for branch, right in _outcomes(models, data, context, cell).items():
                hits[branch] += right
                where = {"branch": branch, "corruption": cell.name, "severity": cell.severity, **cell.source}
                measurement, _ = accuracy(self.name, "accuracy", right, where)
                yield Observation(measurement.model_copy(update={"note": cell.note()}), right)
        mean_over = self._mean_over(cells)
        for branch, count in hits.items():
            yield Observation(_mean(self.name, count / len(cells), {"branch": branch, **mean_over}), None)

    def _mean_over(self, cells: Sequence[Cell]) -> dict[str, Scalar]:
        """What the record of a mean says of its cells."""
        # As many severities need not be the same ones: a number stands for the benchmark's five only.
        grid: Scalar = 5 if sorted(self.severities) == [1, 2, 3, 4, 5] else "+".join(map(str, sorted(self.severities)))
        over: dict[str, Scalar] = {"corruptions": len(self.names), "severities": grid}
        if set(self.names) != set(CORRUPTIONS):
            over["names"] = " ".join(self.names)  # as many names as the benchmark's need not be the same ones
        alike = all(cell.source == cells[0].source for cell in cells)
        return over | (cells[0].source if alike else {"source": "mixed"})

    def _published(self, data: ImageSet, data_dir: Path | None) -> Path | None:
        """The folder that holds the published files' folder; None if the images are to be generated."""
        root = data_folder(data_dir)
        there = data.split == "test" and files.available(root, data.name)
        if self.source == "official" and not there:
            wanted = files.FOLDERS.get(data.name, "none published")
            raise UserError(
                f"corruption: no published files for {data.name} {data.split} in {root} (folder: {wanted}); "
                "allowed without them: source = 'generated'"
            )
        return root if there and self.source != "generated" else None


def source_of(name: str, data: ImageSet, seed: int, *, official: bool) -> dict[str, Scalar]:
    """What a record says of where a corruption's images come from.

    Args:
        name: the corruption.
        data: the clean images.
        seed: of what is generated.
        official: the published files are at hand and to be used, as far as they go.
    """
    if name in adapter.NAMES:
        return {"source": "imagecorruptions", "generator": adapter.generator(), "seed": seed}
    if official and name in PUBLISHED:
        return OFFICIAL
    table = sources(table_for("auto", *data.images.shape[2:]), name)
    return {"source": "generated", "generator": GENERATOR_VERSION, "table": table, "seed": seed}


def _outcomes(models: Mapping[str, nn.Module], data: ImageSet, context: Context, cell: Cell) -> dict[str, Outcomes]:
    """Which images of a cell each network gets right: images from files, from the cache, or made batch by batch."""
    root, images = data_folder(context.data_dir), None
    if cell.source == OFFICIAL:
        images = files.read(root, data.name, cell.name, int(cell.severity), expect=data.labels)
    elif cell.name not in adapter.NAMES:
        written = files.written(root, data, cell.name, cell.severity, seed=context.seed)
        if written is not None:
            images = files.read_generated(written, cell.name, int(cell.severity), expect=data.labels)
        elif cache.folder() is not None:
            images = cache.corrupted(data, cell.name, cell.severity, seed=context.seed, device=context.device)
    if images is not None:
        return judge(models, replace(data, images=images), context)
    change = partial(_made, name=cell.name, severity=cell.severity, seed=context.seed, device=context.device)
    return judge(models, data, context, change)


def _made(part: Part, *, name: str, severity: float, seed: int, device: torch.device) -> Tensor:
    """The part's images with a corruption, on the device; its padding is copied, not made again."""
    images = part.images[: part.n].to(device)
    made = corrupt(images, name, severity, seed=seed, index=part.index[: part.n])
    return made[(part.index - part.index[0]).to(device)]


def _mean(task: str, scores: npt.NDArray[np.float64], where: dict[str, Scalar]) -> Measurement:
    """The mean over cells of images' scores (n,); images, not image-cell pairs, are what its interval counts."""
    low, high = mean_interval(scores)
    value = float(scores.mean())
    return Measurement(task=task, metric="mean_accuracy", value=value, n=len(scores), low=low, high=high, where=where)
