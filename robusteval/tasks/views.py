"""The same test images clean and under a few corruptions, for tasks that look at more than accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from robusteval.corruptions import cache, files
from robusteval.data.sets import ImageSet, data_folder
from robusteval.options import build, options
from robusteval.records import Scalar
from robusteval.tasks.corruption import OFFICIAL, Corruption, Severity, source_of
from robusteval.tasks.task import Context

CLEAN = "clean"


@options
class Corrupted:
    """Options of tasks that look at a few corruptions.

    Attributes:
        names, severities, source: the corrupted images, as in the task ``corruption``.
    """

    name: ClassVar[str]

    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("gaussian_noise", "defocus_blur", "fog", "contrast")
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = (3,)
    source: Literal["auto", "official", "generated"] = "auto"

    @model_validator(mode="after")
    def _known_corruptions(self) -> Self:
        self.corruption()
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Self:
        """See `Task`."""
        return replace(self, source=self.corruption().resolved(data, data_dir).source)

    def corruption(self) -> Corruption:
        """The task that looks at their accuracies."""
        values = {"names": self.names, "severities": self.severities, "source": self.source}
        return build(Corruption, values, self.name)

    @property
    def cells(self) -> int:
        """How many conditions there are beside the clean images."""
        return len(self.names) * len(self.severities)

    def over(self, source: Scalar) -> dict[str, Scalar]:
        """What a mean over them is a mean of, as measurements name it; of images from that source."""
        counts: dict[str, Scalar] = {"corruptions": len(self.names), "severities": len(self.severities)}
        return counts | {"names": " ".join(self.names), "source": source}


@dataclass(frozen=True, eq=False)
class View:
    """Test images in one condition.

    Attributes:
        where: ``images``: ``clean`` or the corruption; with its ``severity`` and ``source``.
        data: the images as they are seen, with their labels.
    """

    where: dict[str, Scalar]
    data: ImageSet


def views(data: ImageSet, corruption: Corruption, context: Context) -> Iterator[View]:
    """The clean images, then those of each corruption at each severity.

    Args:
        data: the clean images.
        corruption: which corruptions, and whether from files; `Corruption.resolved` first.
        context: the seed of what is generated, and the data folder.
    """
    yield View({"images": CLEAN}, data)
    for name in corruption.names:
        for severity in corruption.severities:
            source = source_of(name, data, context.seed, official=corruption.source == "official")
            if source == OFFICIAL:
                folder = data_folder(context.data_dir)
                assert severity == int(severity), "nothing is published between the five"
                images = files.read(folder, data.name, name, int(severity), expect=data.labels)
            else:
                images = cache.corrupted(data, name, severity, seed=context.seed, device=context.device)
            where: dict[str, Scalar] = {"images": name, "severity": severity, **source}
            yield View(where, replace(data, images=images))
