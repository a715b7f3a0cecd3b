"""Operations on colours with a strength per image, to the last bit as PIL's ImageOps and ImageEnhance."""

from __future__ import annotations

import torch
from torch import Tensor


def autocontrast(images: Tensor) -> Tensor:
    """The images with every channel stretched to the full range; a channel of one level stays."""
    low, high = (end.double().unsqueeze(2) for end in images.flatten(2).aminmax(dim=2))
    level = torch.arange(256, dtype=torch.float64, device=images.device)
    # A quotient of tensors: a Python number over a tensor would be its reciprocal times the number, rounded twice.
    scale = torch.full_like(low, 255) / (high - low)
    table = (level * scale + -low * scale).clamp_(0, 255)
    return _looked_up(images, torch.where(high > low, table, level))


def equalize(images: Tensor) -> Tensor:
    """The images with the levels of every channel spread evenly; where 255 levels are too many for that, unchanged."""
    count, channels, height, width = images.shape
    flat = images.reshape(count, channels, -1).long()
    counts = torch.zeros(count, channels, 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    up_to = counts.cumsum(2)
    of_highest = counts.gather(2, flat.amax(2, keepdim=True))
    step = (height * width - of_highest) // 255
    table = ((up_to - counts + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return _looked_up(images, torch.where(step > 0, table, torch.arange(256, device=images.device)))


def _looked_up(images: Tensor, table: Tensor) -> Tensor:
    """Every level replaced by the channel's table (B, C, 256)."""
    return table.to(torch.uint8).gather(2, images.flatten(2).long()).view_as(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """The images with the highest bits (B,) of each level, 1 to 8; the others 0."""
    mask = 256 - (1 << (8 - bits.long()))
    return images & mask.to(torch.uint8).view(-1, 1, 1, 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """The images with the levels from threshold (B,) on inverted."""
    return torch.where(images >= threshold.view(-1, 1, 1, 1), 255 - images, images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """The images moved away from black, factor (B,): 0 is black, 1 the image."""
    return _blend(torch.zeros_like(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """The images moved away from their mean grey, factor (B,): 0 is that grey, 1 the image."""
    mean = _grey(images).flatten(1).double().mean(1).add_(0.5).floor_()
    return _blend(mean.view(-1, 1, 1, 1), images, factor)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """The images moved away from their grey versions, factor (B,): 0 is grey, 1 the image."""
    return _blend(_grey(images).unsqueeze(1), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """The images moved away from their smoothed versions, factor (B,): 0 is smooth, 1 the image.

    The smoothing is a mean over 3 x 3 pixels in which the middle counts five times; it leaves the border alone.
    """
    level = images.to(torch.int16)
    height, width = images.shape[2:]
    column = level[:, :, : height - 2] + level[:, :, 1 : height - 1] + level[:, :, 2:]
    total = column[..., : width - 2] + column[..., 1 : width - 1] + column[..., 2:]
    total += 4 * level[:, :, 1:-1, 1:-1]
    smooth = level.clone()
    smooth[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26  # to the nearest: a 13th is never half a level
    return _blend(smooth, images, factor)


def _grey(images: Tensor) -> Tensor:
    """The luma of ITU-R 601 in PIL's 16-bit weights, int32 (B, H, W)."""
    red, green, blue = images.to(torch.int32).unbind(1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _blend(start: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """``start + factor * (images - start)`` in float32 as PIL's, clipped and cut off to whole levels."""
    start = start.float()
    way = (images.float() - start).mul_(factor.float().view(-1, 1, 1, 1))
    return way.add_(start).clamp_(0, 255).to(torch.uint8)
