"""Accuracy on the images as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from torch import nn

from robusteval.data.sets import ImageSet
from robusteval.options import Count, options
from robusteval.tasks.predict import batches, judge
from robusteval.tasks.task import Context, Observation, accuracy


@options
class Clean:
    """Share of images whose highest logit is the label's.

    Attributes:
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "clean"
    version: ClassVar[int] = 1

    limit: Count | None = None

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Clean:
        return self

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Accuracy of each network; see `Task`."""
        data = data.first(self.limit)
        context.progress.begin(self.name, batches(data, context))
        for branch, right in judge(models, data, context).items():
            yield accuracy(self.name, "accuracy", right, {"branch": branch})
