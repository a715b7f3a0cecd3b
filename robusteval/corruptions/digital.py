"""Digital: contrast, pixelate, jpeg_compression, saturate; the elastic transform is in `elastic`."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from robusteval.corruptions.filters import truncated
from robusteval.corruptions.hsv import rescale
from robusteval.corruptions.jpeg import recoded
from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream


def contrast(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images drawn towards their channels' means, uint8 (B, 3, H, W)."""
    values = images.double().div_(255)
    # The published mean adds pixel after pixel; a cumulative sum does too, a plain sum does not. On the CPU, because
    # that of a GPU adds in another order, which torch does not call deterministic.
    sums = values.flatten(2).cpu().cumsum(2)[:, :, -1].to(values.device)
    means = sums.div_(images.shape[2] * images.shape[3])[:, :, None, None]
    return truncated(values.sub_(means).mul_(strength[0]).add_(means))


def saturate(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with paler or stronger colours, uint8 (B, 3, H, W)."""
    return rescale(images, saturation=strength)


@lru_cache(maxsize=64)
def box_taps(size: int, target: int) -> tuple[Tensor, Tensor]:
    """Where each of ``target`` pixels comes from when ``size`` pixels are resized with Pillow's box filter.

    Returns:
        Source pixels int64 (target, K) and their weights int32 (target, K) in units of 2**-22, as Pillow rounds them.
    """
    scale = size / target
    wide = max(scale, 1.0)
    pixels, weights = [], []
    for place in range(target):
        centre = (place + 0.5) * scale
        low, high = max(int(centre - wide / 2 + 0.5), 0), min(int(centre + wide / 2 + 0.5), size)
        inside = [pixel for pixel in range(low, high) if -0.5 < (pixel - centre + 0.5) / wide <= 0.5]
        pixels.append(inside)
        weights.append([int(0.5 + (1 / len(inside)) * (1 << 22))] * len(inside))
    most = max(map(len, pixels))
    return (
        torch.tensor([row + row[:1] * (most - len(row)) for row in pixels]),
        torch.tensor([row + [0] * (most - len(row)) for row in weights], dtype=torch.int32),
    )


def _resized(images: Tensor, axis: int, target: int) -> Tensor:
    """The images (B, C, H, W) with one axis resized to ``target`` by Pillow's box filter, rounded to uint8."""
    pixels, weights = (taps.to(images.device) for taps in box_taps(images.shape[axis], target))
    if pixels.shape[1] == 1:
        return images.index_select(axis, pixels[:, 0])
    shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
    total = torch.full((), 1 << 21, dtype=torch.int32, device=images.device)
    for tap in range(pixels.shape[1]):
        chosen = images.index_select(axis, pixels[:, tap]).to(torch.int32)
        total = chosen.mul_(weights[:, tap].view(shape)).add_(total)
    return (total >> 22).to(torch.uint8)


def pixelate(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images shrunk and enlarged again in blocks, uint8 (B, 3, H, W), as Pillow's box filter does both."""
    height, width = images.shape[2:]
    small = _resized(_resized(images, 3, int(width * strength[0])), 2, int(height * strength[0]))
    return _resized(_resized(small, 3, width), 2, height)


def jpeg_compression(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images after a JPEG file of the given quality, uint8 (B, 3, H, W)."""
    return recoded(images, int(strength[0]))
