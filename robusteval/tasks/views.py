"""The same test images clean and under a few corruptions, for tasks that look at more than accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from robusteval.corruptions import cache, files
from robusteval.data.sets import ImageSet, data_folder
from robusteval.records import Scalar
from robusteval.tasks.corruption import OFFICIAL, Corruption, source_of
from robusteval.tasks.task import Context

CLEAN = "clean"


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
