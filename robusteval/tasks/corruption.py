"""Accuracy on corrupted images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from torch import Tensor, nn

from robusteval.corruptions import CORRUPTIONS, GENERATOR_VERSION, HELD_OUT, corrupt, files
from robusteval.data.sets import ImageSet, data_folder
from robusteval.errors import UserError, unknown
from robusteval.options import Count, options
from robusteval.records import Measurement, Scalar
from robusteval.stats import mean_interval
from robusteval.tasks.predict import Part, batches, judge
from robusteval.tasks.task import Context, Observation, accuracy

Severity = Annotated[int, Field(ge=1, le=5)]


@options
class Corruption:
    """Accuracy under each corruption at each severity, and the plain mean over them.

    Attributes:
        names: corruptions; the default are the benchmark's 15 (Hendrycks and Dietterich, 2019, arXiv:1903.12261).
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
            if name not in (*CORRUPTIONS, *HELD_OUT):
                raise unknown("names", "corruption", name, (*CORRUPTIONS, *HELD_OUT))
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
        source: dict[str, Scalar] = {"source": "official"}
        if folder is None:
            source = {"source": "generated", "generator": GENERATOR_VERSION}
        cells = [(name, severity) for name in self.names for severity in self.severities]
        context.progress.begin(self.name, len(cells) * batches(data, context))
        hits = {branch: np.zeros(len(data.labels), dtype=np.int64) for branch in models}
        for name, severity in cells:
            if folder is None:
                outcomes = judge(models, data, context, partial(_made, name=name, severity=severity, seed=context.seed))
            else:
                images = files.read(folder, data.name, name, severity, expect=data.labels)
                outcomes = judge(models, replace(data, images=images), context)
            for branch, right in outcomes.items():
                hits[branch] += right
                where = {"branch": branch, "corruption": name, "severity": severity, **source}
                yield accuracy(self.name, "accuracy", right, where)
        mean_over: dict[str, Scalar] = {"corruptions": len(self.names), "severities": len(self.severities)}
        if set(self.names) != set(CORRUPTIONS):
            mean_over["names"] = " ".join(self.names)  # as many names as the benchmark's need not be the same ones
        for branch, count in hits.items():
            where = {"branch": branch, **mean_over, **source}
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


def _made(part: Part, *, name: str, severity: int, seed: int) -> Tensor:
    """The part's images with a corruption; its padding is copied, not made again."""
    made = corrupt(part.images[: part.n], name, severity, seed=seed, index=part.index[: part.n])
    return made[part.index - part.index[0]]


def _mean(task: str, scores: npt.NDArray[np.float64], where: dict[str, Scalar]) -> Measurement:
    """The mean over cells of images' scores (n,); images, not image-cell pairs, are what its interval counts."""
    low, high = mean_interval(scores)
    value = float(scores.mean())
    return Measurement(task=task, metric="mean_accuracy", value=value, n=len(scores), low=low, high=high, where=where)
