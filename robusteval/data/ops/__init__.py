"""Image operations of augmentation policies, batched: another operation and another strength for every image.

Each equals PIL's, which the policies were published with, so that a policy can be checked image by image.
All take and return uint8 (B, 3, H, W) on any device, and never change their input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from robusteval.data.ops.colour import (
    autocontrast,
    brightness,
    color,
    contrast,
    equalize,
    posterize,
    sharpness,
    solarize,
)
from robusteval.data.ops.geometry import rotate, shear_x, shear_y, translate_x, translate_y

__all__ = ["OPERATIONS", "apply", "as_levels"]

Operation = Callable[[Tensor, Tensor], Tensor]

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "identity": lambda images, _: images,
        "autocontrast": lambda images, _: autocontrast(images),
        "equalize": lambda images, _: equalize(images),
        "posterize": posterize,
        "solarize": solarize,
        "color": color,
        "contrast": contrast,
        "brightness": brightness,
        "sharpness": sharpness,
        "rotate": rotate,
        "shear_x": shear_x,
        "shear_y": shear_y,
        "translate_x": translate_x,
        "translate_y": translate_y,
    }
)
"""Every operation by name, as a function of images and strengths (B,); the first three ignore the strength."""


def apply(images: Tensor, names: Sequence[str], which: Tensor, strength: Tensor) -> Tensor:
    """The images after one operation each.

    Args:
        images: uint8 (B, 3, H, W).
        names: the operations to choose from.
        which: int64 (B,), position in ``names``; where it is -1, the image stays.
        strength: float64 (B,), what the image's operation takes.
    """
    # How many images an operation has is not known on the host; to ask would wait for the GPU.
    way = _all_on_all if images.is_cuda else _grouped
    return way(images, names, which, strength)


def _grouped(images: Tensor, names: Sequence[str], which: Tensor, strength: Tensor) -> Tensor:
    """`apply` by sorting the images by operation."""
    order = which.argsort()
    counts = (which + 1).bincount(minlength=len(names) + 1).tolist()
    first, *parts = images.index_select(0, order).split_with_sizes(counts)
    _, *strengths = strength.index_select(0, order).split_with_sizes(counts)
    done = [OPERATIONS[n](x, s) if len(x) else x for n, x, s in zip(names, parts, strengths, strict=True)]
    return torch.cat([first, *done]).index_select(0, order.argsort())


def _all_on_all(images: Tensor, names: Sequence[str], which: Tensor, strength: Tensor) -> Tensor:
    """`apply` by every operation on every image, of which one is kept."""
    out = images
    for number, name in enumerate(names):
        out = torch.where((which == number).view(-1, 1, 1, 1), OPERATIONS[name](images, strength), out)
    return out


def as_levels(x: Tensor) -> Tensor:
    """Images in [0, 1] as grey levels uint8, rounded: the inverse of `robusteval.data.augment.as_float`."""
    return x.mul(255).round_().to(torch.uint8)
