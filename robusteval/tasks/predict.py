"""Predictions that numbers are made of: fixed batch shape, eval mode, true float32, no gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from robusteval.data.augment import as_float
from robusteval.data.batches import eval_batches
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.modes import evaluating, true_float32
from robusteval.tasks.task import Context, Outcomes


@dataclass(frozen=True, eq=False)
class Part:
    """A batch of a set's images, padded to the fixed size with copies of the last image.

    Attributes:
        images: uint8 (B, 3, H, W).
        labels: int64 (B,).
        index: int64 (B,) positions in the set.
        n: how many rows, from the first, are not padding.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    n: int


def parts(data: ImageSet, batch_size: int) -> Iterator[Part]:
    """The images in order, in batches that all have ``batch_size`` rows.

    An image's place in its batch and the batch's shape, on which the last bits of a float result may depend,
    are the same however many images the set has.
    """
    for index, n in eval_batches(len(data.labels), batch_size):
        yield Part(data.images.index_select(0, index), data.labels[index], index, n)


def batches(data: ImageSet, context: Context) -> int:
    """How many `parts` the set has."""
    return -(-len(data.labels) // context.batch_size)


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """Uint8 images as float32 in [0, 1] on the device, channels last in memory (convolutions run faster on it)."""
    return as_float(images.to(device)).contiguous(memory_format=torch.channels_last)


def logits(model: nn.Module, x: Tensor, *, classes: int, where: str) -> Tensor:
    """The network's logits (B, classes) in eval mode and true float32, without a graph.

    Args:
        model: the network; its train/eval flags are restored.
        x: float32 (B, 3, H, W) in [0, 1].
        classes: number of logits that there have to be.
        where: what the network is, for errors.

    Raises:
        UserError: the output is not (B, classes), not of real numbers, or not finite.
    """
    with evaluating(model), torch.no_grad(), torch.autocast(x.device.type, enabled=False), true_float32():
        out = model(x)
    shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if shape != (len(x), classes):
        raise UserError(f"{where}: the network's output is {shape}; allowed: logits {(len(x), classes)}")
    if out.is_complex() or out.dtype == torch.bool:
        kind = str(out.dtype).removeprefix("torch.")
        raise UserError(f"{where}: the network's output is {kind} {shape}; allowed: logits that are real numbers")
    if not bool(out.isfinite().all()):
        bad = int((~out.isfinite()).any(dim=1).sum())
        raise UserError(f"{where}: the network's logits are not finite on {bad} of {len(x)} images")
    checked: Tensor = out
    return checked


def predict(model: nn.Module, x: Tensor, *, classes: int, where: str) -> Tensor:
    """The class with the highest logit of each image, int64 (B,); see `logits`."""
    return logits(model, x, classes=classes, where=where).argmax(dim=1)


def judge(
    models: Mapping[str, nn.Module],
    data: ImageSet,
    context: Context,
    change: Callable[[Part], Tensor] | None = None,
) -> dict[str, Outcomes]:
    """Which images each network gets right.

    Args:
        models: branch name to network.
        data: images and labels.
        context: where; its progress advances by one a batch.
        change: gives the uint8 images that the networks see instead of a part's; called once a batch, whatever
            the number of networks.
    """
    right = {branch: np.zeros(len(data.labels), dtype=np.bool_) for branch in models}
    for part in parts(data, context.batch_size):
        x = to_input(part.images if change is None else change(part), context.device)
        for branch, model in models.items():
            rows = part.index[: part.n].numpy()
            right[branch][rows] = correct(model, x, part, classes=len(data.classes), where=branch)
        context.progress.advance()
    return right


def right(model: nn.Module, x: Tensor, y: Tensor, *, classes: int, where: str, batch_size: int) -> Tensor:
    """Which images the network gets right, bool (n,), predicted in batches that all have ``batch_size`` rows.

    Args:
        model: the network.
        x: float32 (n, 3, H, W) in [0, 1].
        y: int64 (n,) labels, on the device of x.
        classes: number of logits that there have to be.
        where: what the network is, for errors.
        batch_size: rows of a batch; the last one is padded with copies of its last image.
    """
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for first in range(0, len(x), batch_size):
        rows = x[first : first + batch_size]
        padding = rows[-1:].expand(batch_size - len(rows), *rows.shape[1:])
        batch = torch.cat([rows, padding]).contiguous(memory_format=torch.channels_last)
        seen = predict(model, batch, classes=classes, where=where)[: len(rows)]
        found[first : first + batch_size] = seen == y[first : first + batch_size]
    return found


def correct(model: nn.Module, x: Tensor, part: Part, *, classes: int, where: str) -> Outcomes:
    """Which of a part's real rows, seen as x, the network gets right: bool (part.n,)."""
    prediction = predict(model, x, classes=classes, where=where)
    right: Outcomes = (prediction.cpu() == part.labels)[: part.n].numpy()
    return right
