"""Images and labels that a caller holds, as a checked image set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robusteval.data.digest import content_digest
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError

Array = Tensor | npt.NDArray[Any]
_FINE = 1e-4
"""Of a level of 8 bits: what 32-bit floats of n / 255 are off by, generously."""


class Given(NamedTuple):
    """Pixels and labels, and what had to be done to the pixels; the note is empty if nothing had."""

    images: Tensor
    labels: Tensor
    note: str


def given(images: Array, labels: Array | Sequence[int]) -> Given:
    """The images as uint8 (N, 3, H, W) and the labels as int64 (N,), copies on the CPU.

    Args:
        images: (N, 3, H, W) or (N, H, W, 3), either uint8 or floating point in [0, 1]; floats are brought to 8 bits.
        labels: (N,) whole numbers from 0.

    Raises:
        UserError: anything else.
    """
    pixels = _tensor(images, "images")
    if pixels.ndim != 4 or 3 not in (pixels.shape[1], pixels.shape[3]) or not len(pixels):
        raise UserError(f"images: {_kind(pixels)}; allowed: (N, 3, H, W) or (N, H, W, 3), N at least 1")
    if pixels.shape[1] != 3:
        pixels = pixels.permute(0, 3, 1, 2)
    pixels, note = _eight_bits(pixels)
    chosen = _tensor(labels, "labels")
    if chosen.ndim != 1 or chosen.is_floating_point() or chosen.dtype == torch.bool or chosen.is_complex():
        raise UserError(f"labels: {_kind(chosen)}; allowed: whole numbers (N,), the position of the right logit")
    if len(chosen) != len(pixels):
        raise UserError(f"labels: {len(chosen)} for {len(pixels)} images; allowed: one each")
    if int(chosen.min()) < 0:
        raise UserError(f"labels: {int(chosen.min())}; allowed: 0 and above")
    return Given(pixels.contiguous(), chosen.to(torch.int64), note)


def image_set(images: Given, *, classes: int) -> ImageSet:
    """The image set, under the name ``arrays``, for networks with so many logits.

    Raises:
        UserError: a label that none of the logits stands for.
    """
    if int(images.labels.max()) >= classes:
        raise UserError(
            f"labels: {int(images.labels.max())}, but the network has {classes} logits; allowed: below that"
        )
    return ImageSet(
        name="arrays",
        split="test",
        images=images.images,
        labels=images.labels,
        classes=tuple(map(str, range(classes))),
        digest=content_digest(images.images.numpy(), images.labels.numpy()),
        verified=False,
    )


def _tensor(values: object, what: str) -> Tensor:
    """A copy of the values as a tensor on the CPU."""
    try:
        found = values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
        return found.detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{what}: {type(values).__name__}: {reason}; allowed: tensors or arrays") from None


def _eight_bits(pixels: Tensor) -> tuple[Tensor, str]:
    """The pixels as uint8, and a note if that changed them."""
    low, high = (float(end) for end in (pixels.min(), pixels.max()))
    if pixels.dtype == torch.uint8:
        if 0 < high <= 1:
            raise UserError("images: uint8 with no value but 0 and 1; allowed: 0 to 255, or floats from 0 to 1")
        return pixels, ""
    if not pixels.is_floating_point():
        raise UserError(f"images: {_kind(pixels)}; allowed: uint8, or floats from 0 to 1")
    if not (low >= 0 and high <= 1):  # also false for values that are not finite
        raise UserError(
            f"images: floats from {low:g} to {high:g}; allowed: from 0 to 1 (a normalisation belongs into the network)"
        )
    levels = pixels.double() * 255
    whole = levels.round()
    change = float((levels - whole).abs().max())
    note = f"images were rounded to 8 bits, by up to {change:.3f}/255" if change > _FINE else ""
    return whole.to(torch.uint8), note


def _kind(values: Tensor) -> str:
    """Type and shape in words."""
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"
