"""The same test images clean and under a few corruptions, for tasks that look at more than accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from robusteval.corruptions import GENERATOR_VERSION, corrupt, files
from robusteval.data.sets import ImageSet, data_folder
from robusteval.records import Scalar
from robusteval.tasks.corruption import Corruption
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
            where: dict[str, Scalar] = {"images": name, "severity": severity, "source": corruption.source}
            if corruption.source == "official":
                folder = data_folder(context.data_dir)
                images = files.read(folder, data.name, name, severity, expect=data.labels)
            else:
                where["generator"] = GENERATOR_VERSION
                index = torch.arange(len(data.labels))
                images = corrupt(data.images, name, severity, seed=context.seed, index=index)
            yield View(where, replace(data, images=images))
