"""The training batches of every epoch, augmented on the device where the whole set lies as uint8."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robusteval.cost import timed
from robusteval.data import ImageSet
from robusteval.data.augment import Augment, augment
from robusteval.data.batches import epoch_batches
from robusteval.method import Batch
from robusteval.randomness import Stream
from robusteval.training import Training


class Feed:
    """Batches as functions of epoch and step alone, so that there is no loader whose state could be lost.

    Args:
        data: the training images; they are moved to the device once.
        training: batch size, augmentation and memory layout.
        stream: the run's randomness.
        device: where the batches are made.
    """

    def __init__(self, data: ImageSet, training: Training, stream: Stream, device: torch.device) -> None:
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.classes = len(data.classes)
        self.training, self.stream, self.device = training, stream, device
        self.spec = Augment(crop_padding=training.crop_padding, flip=training.flip, cutout=training.cutout)
        self.fill = _mean_colour(data.images) if training.cutout else (0.0, 0.0, 0.0)  # what cutout paints

    def order(self, epoch: int, first: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch from the ``first`` on: image positions (B,); an incomplete last one is left out."""
        rng = self.stream.at("order", epoch)
        batches = epoch_batches(len(self.labels), self.training.batch_size, rng, drop_last=True)
        for i, rows in enumerate(batches):
            if i >= first:
                yield rows.to(self.device, non_blocking=True)

    def batch(self, epoch: int, step: int, rows: Tensor, *, number: int = 0) -> Batch:
        """The augmented images of some rows; ``number`` counts the parts of a step's batch."""
        with timed("data"):
            rng = self.stream.at("augment", epoch)
            x = augment(self.images.index_select(0, rows), rows, rng, self.spec, fill=self.fill)
            if self.training.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            return Batch(
                x=x,
                y=self.labels[rows],
                index=rows,
                rng=self.stream.at("step", step, number),
                classes=self.classes,
            )


def _mean_colour(images: Tensor) -> tuple[float, float, float]:
    """The mean of each channel in [0, 1], exactly, without a float copy of the images."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = (torch.bincount(images[:, channel].flatten(), minlength=256).double() for channel in range(3))
    red, green, blue = (float(count @ levels / count.sum()) for count in counts)
    return red, green, blue
