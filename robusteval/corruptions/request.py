"""What corrupted images are to be written as files, and what they can be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robusteval.corruptions import adapter
from robusteval.corruptions.bar import CBAR
from robusteval.corruptions.contents import TABLE, generated_name, of_bar
from robusteval.corruptions.generate import corrupt
from robusteval.corruptions.published import DETERMINISTIC, IMAGES, PUBLISHED, SEVERITIES
from robusteval.corruptions.strengths import CORRUPTIONS
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError


@dataclass(frozen=True)
class Request:
    """What to write.

    Attributes:
        names: corruptions.
        severities: in ascending order.
        seed: of all draws.
        exact: whether a file of a corruption without random draws has to be the published one to the byte.
    """

    names: tuple[str, ...] = CORRUPTIONS
    severities: tuple[int, ...] = SEVERITIES
    seed: int = 0
    exact: bool = False

    def check(self, images: ImageSet) -> None:
        """Raises UserError for what cannot be meant, before anything is written."""
        for what, values in (("corruption", self.names), ("severity", self.severities)):
            if not values or len({*values}) < len(values):
                raise UserError(
                    f"data corrupt: each {what} once, and at least one; given: {', '.join(map(str, values))}"
                )
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise UserError(f"data corrupt: severity {severity!r} is not one of 1, 2, 3, 4, 5")
        for name in self.names:
            if name.startswith(adapter.PREFIX):
                raise UserError(f"data corrupt: {name} is not written in the layout of CIFAR-10-C: {adapter.NOTE}")
        if len({of_bar([name]) for name in self.names}) > 1:
            raise UserError(
                f"data corrupt: some of these would be {generated_name(images.name)}, others "
                f"{generated_name(images.name, CBAR)}; allowed: a folder and a command for each"
            )
        if self.exact and not comparable(images, self.severities):
            raise UserError(
                f"--exact: nothing is published to compare with: it takes all {IMAGES} test images of "
                f"{' or '.join(PUBLISHED)}, verified, and severities 1 to 5"
            )
        if self.exact and not {*self.names} & {*DETERMINISTIC}:
            raise UserError(
                "--exact: of the corruptions that were asked for no file can equal a published one: they draw random "
                f"numbers, or none is published; allowed: {', '.join(DETERMINISTIC)}"
            )
        # One image of each, so that an unknown name or a missing photograph of ice is found out now, not after minutes.
        for name in self.names:
            self.made(images, name, self.severities[0], slice(0, 1))

    def made(self, images: ImageSet, name: str, severity: int, rows: slice) -> Tensor:
        """Some images with a corruption, uint8 (B, 3, H, W)."""
        index = torch.arange(rows.start, rows.stop)
        return corrupt(images.images[rows], name, severity, seed=self.seed, index=index, table=TABLE)


def comparable(images: ImageSet, severities: Sequence[int]) -> bool:
    """Whether files of these images and severities have the rows of published ones."""
    complete = images.name in PUBLISHED and images.split == "test" and len(images.labels) == IMAGES
    return complete and images.verified and tuple(severities) == SEVERITIES


def published_md5(name: str, images: ImageSet, request: Request) -> str | None:
    """What the file's md5 has to be; None where nothing is published that it could equal."""
    if name not in DETERMINISTIC or not comparable(images, request.severities):
        return None
    return PUBLISHED[images.name].md5[name]
