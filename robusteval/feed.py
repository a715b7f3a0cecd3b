"""The training batches of every epoch, augmented on the device where the whole set lies as uint8."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robusteval.cost import timed
from robusteval.data import ImageSet
from robusteval.data.augment import Augment, augment
from robusteval.data.batches import epoch_batches
from robusteval.method import Batch, Pairing
from robusteval.randomness import Stream
from robusteval.training import Training


class Feed:
    """Batches as functions of epoch and step alone, so that there is no loader whose state could be lost.

    Args:
        data: the training images; they are moved to the device once.
        training: batch size, augmentation and memory layout.
        stream: the run's randomness.
        device: where the batches are made.
        pairing: which further view of each image a batch holds.
    """

    def __init__(
        self,
        data: ImageSet,
        training: Training,
        stream: Stream,
        device: torch.device,
        pairing: Pairing | None = None,
    ) -> None:
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.classes = len(data.classes)
        self.training, self.stream, self.device = training, stream, device
        self.spec = Augment(crop_padding=training.crop_padding, flip=training.flip, cutout=training.cutout)
        self.pairing = pairing
        self.partners: tuple[int, Tensor] = (-1, torch.empty(0))
        self.fill = _mean_colour(data.images) if training.cutout else (0.0, 0.0, 0.0)  # what cutout paints

    def order(self, epoch: int, first: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch from the ``first`` on: image positions (B,); an incomplete last one is left out."""
        rng = self.stream.at("order", epoch)
        batches = epoch_batches(len(self.labels), self.training.batch_size, rng, drop_last=True)
        for i, rows in enumerate(batches):
            if i >= first:
                yield rows.to(self.device, non_blocking=True)

    def batches(self, step: int, steps: int, *, replays: int = 1) -> Iterator[tuple[int, Tensor]]:
        """For every step from ``step`` on: how often the images were seen whole, and the image positions (B,).

        With replays each batch comes so many times in a row, and the images are seen less often.
        """
        per_epoch = len(self.labels) // self.training.batch_size
        while step < steps:
            seen, first = divmod(step // replays, per_epoch)
            for rows in self.order(seen, first):
                for _ in range(step % replays, replays):
                    if step == steps:
                        return
                    yield seen, rows
                    step += 1

    def batch(self, epoch: int, step: int, rows: Tensor, *, number: int = 0) -> Batch:
        """The augmented images of some rows; ``number`` counts the parts of a step's batch."""
        with timed("data"):
            return Batch(
                x=self._images(rows, self.stream.at("augment", epoch)),
                y=self.labels[rows],
                index=rows,
                rng=self.stream.at("step", step, number),
                classes=self.classes,
                partner=self._partner(epoch, rows),
            )

    def _images(self, rows: Tensor, rng: Stream) -> Tensor:
        """The rows' images, augmented, in the layout that training asks for."""
        x = augment(self.images.index_select(0, rows), rows, rng, self.spec, fill=self.fill)
        return x.contiguous(memory_format=torch.channels_last) if self.training.channels_last else x

    def _partner(self, epoch: int, rows: Tensor) -> Tensor | None:
        """Another view for each row, if the method wants one; its augmentation is drawn apart from the row's own."""
        if self.pairing is None:
            return None
        rng = self.stream.at("augment partner", epoch)
        if self.pairing.kind == "augmented":
            return self._images(rows, rng)
        period = epoch // self.pairing.every
        if self.partners[0] != period:
            drawn = same_class_partners(self.labels.cpu(), self.stream.at("partner", period))
            self.partners = (period, drawn.to(self.device))
        return self._images(self.partners[1][rows], rng)


def same_class_partners(labels: Tensor, rng: Stream) -> Tensor:
    """A partner of each image, int64 (N,): a random permutation within each class, so each is a partner once.

    An image may be its own partner, as in the paper that this is for (Sakai et al., 2021, arXiv:2111.00131).
    """
    partners = torch.empty_like(labels)
    for label in range(int(labels.max()) + 1):
        members = torch.nonzero(labels == label).squeeze(1)
        partners[members] = members[rng.at(label).permutation(len(members))]
    return partners


def _mean_colour(images: Tensor) -> tuple[float, float, float]:
    """The mean of each channel in [0, 1], exactly, without a float copy of the images."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = (torch.bincount(images[:, channel].flatten(), minlength=256).double() for channel in range(3))
    red, green, blue = (float(count @ levels / count.sum()) for count in counts)
    return red, green, blue
