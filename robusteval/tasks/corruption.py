"""Accuracy on corrupted images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robusteval.corruptions import CORRUPTIONS, GENERATOR_VERSION, HELD_OUT, adapter, cache, corrupt, files, table_for
from robusteval.data.sets import ImageSet, data_folder
from robusteval.errors import UserError, unknown
from robusteval.options import Count, options
from robusteval.records import Measurement, Scalar
from robusteval.stats import mean_interval
from robusteval.tasks.predict import Part, batches, judge
from robusteval.tasks.task import Context, Observation, accuracy

PUBLISHED = (*CORRUPTIONS, *HELD_OUT)
"""The corruptions that files are published of."""

OFFICIAL: dict[str, Scalar] = {"source": "official"}
"""What a record says of published files."""

Severity = Annotated[int, Field(ge=1, le=5)]


@options
class Corruption:
    """Accuracy under each corruption at each severity, and the plain mean over them.

    Attributes:
        names: corruptions; the default are the benchmark's 15 (Hendrycks and Dietterich, 2019, arXiv:1903.12261).
            Compounds such as ``defocus_blur+gaussian_noise`` are generated; ``imagecorruptions:fog`` is the fog of the
            package of that name, with ImageNet-C's strengths.
        severities: 1 (weak) to 5.
        source: ``official`` reads the published files, ``generated`` makes images of the published strengths.
            ``auto`` reads the files if they are in the data folder, else generates; records say which it was.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "corruption"
    version: ClassVar[int] = int(GENERATOR_VERSION)  # other images, other numbers

    names: Annotated[tuple[str, ...], Field(min_length=1)] = CORRUPTIONS
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    source: Literal["auto", "official", "generated"] = "auto"
    limit: Count | None = None

    @model_validator(mode="after")
    def _known_and_distinct(self) -> Corruption:
        for name in self.names:
            for part in () if name in adapter.NAMES else name.split("+"):
                if part not in PUBLISHED:
                    raise unknown("names", "corruption", part, PUBLISHED)
            if len(set(name.split("+"))) < len(name.split("+")):
                raise ValueError(f"names: {name!r} has a corruption twice; allowed: each once, from left to right")
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
        folder = self._published(data, context.data_dir)
        sources = {name: source_of(name, data, context.seed, official=folder is not None) for name in self.names}
        cells = [(name, severity) for name in self.names for severity in self.severities]
        context.progress.begin(self.name, len(cells) * batches(data, context))
        hits = {branch: np.zeros(len(data.labels), dtype=np.int64) for branch in models}
        for name, severity in cells:
            source = sources[name]
            if folder is not None and source == OFFICIAL:
                images = files.read(folder, data.name, name, severity, expect=data.labels)
                outcomes = judge(models, replace(data, images=images), context)
            elif cache.folder() is not None and name not in adapter.NAMES:
                images = cache.corrupted(data, name, severity, seed=context.seed, device=context.device)
                outcomes = judge(models, replace(data, images=images), context)
            else:
                change = partial(_made, name=name, severity=severity, seed=context.seed, device=context.device)
                outcomes = judge(models, data, context, change)
            for branch, right in outcomes.items():
                hits[branch] += right
                where = {"branch": branch, "corruption": name, "severity": severity, **source}
                measurement, _ = accuracy(self.name, "accuracy", right, where)
                note = adapter.NOTE if name in adapter.NAMES else ""
                yield Observation(measurement.model_copy(update={"note": note}), right)
        all_alike = all(source == sources[self.names[0]] for source in sources.values())
        mean_source: dict[str, Scalar] = sources[self.names[0]] if all_alike else {"source": "mixed"}
        mean_over: dict[str, Scalar] = {"corruptions": len(self.names), "severities": len(self.severities)}
        if set(self.names) != set(CORRUPTIONS):
            mean_over["names"] = " ".join(self.names)  # as many names as the benchmark's need not be the same ones
        for branch, count in hits.items():
            where = {"branch": branch, **mean_over, **mean_source}
            yield Observation(_mean(self.name, count / len(cells), where), None)

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
    return OFFICIAL if official and name in PUBLISHED else generated(data, seed)


def generated(data: ImageSet, seed: int) -> dict[str, Scalar]:
    """What a record says of generated images: they are of this generator, table of strengths and seed."""
    table = table_for("auto", *data.images.shape[2:])
    return {"source": "generated", "generator": GENERATOR_VERSION, "table": table, "seed": seed}


def _made(part: Part, *, name: str, severity: int, seed: int, device: torch.device) -> Tensor:
    """The part's images with a corruption, on the device; its padding is copied, not made again."""
    images = part.images[: part.n].to(device)
    made = corrupt(images, name, severity, seed=seed, index=part.index[: part.n])
    return made[(part.index - part.index[0]).to(device)]


def _mean(task: str, scores: npt.NDArray[np.float64], where: dict[str, Scalar]) -> Measurement:
    """The mean over cells of images' scores (n,); images, not image-cell pairs, are what its interval counts."""
    low, high = mean_interval(scores)
    value = float(scores.mean())
    return Measurement(task=task, metric="mean_accuracy", value=value, n=len(scores), low=low, high=high, where=where)
