"""Blur: defocus, glass, motion, zoom, gaussian."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from robusteval.corruptions.filters import gaussian, motion_blur, padded, planes, truncated, unplanes
from robusteval.corruptions.strengths import Strength
from robusteval.corruptions.zoom import mean_zoomed
from robusteval.randomness import Stream


def gaussian_blur(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images blurred by a Gaussian, uint8 (B, 3, H, W)."""
    blurred = gaussian(planes(images).double().div_(255), strength[0])
    return unplanes(truncated(blurred), 3)


def disk(radius: float, sigma: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The kernel of an unfocused lens: a disk with a smoothed edge, float32 (2 * R + 1, 2 * R + 1).

    Its sum is 1 but for roundings; where a disk comes near to the border of its square, up to 1.014, as published.

    Args:
        radius: in pixels; R is 8, or the radius where that is more.
        sigma: of the Gaussian that smooths the edge, with 3 x 3 taps, on a disk of a radius above 8 with 5 x 5.
    """
    reach, around = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    line = np.arange(-reach, reach + 1)
    flat = (line[:, None] ** 2 + line[None, :] ** 2 <= radius**2).astype(np.float32)
    flat /= flat.sum()
    sides = np.exp(-(np.arange(1, around + 1) ** 2) / (2 * sigma * sigma))
    taps = (np.array([1.0, *sides]) / (1 + 2 * sides.sum())).astype(np.float32)
    for axis in (1, 0):
        # A disk may touch the border of its square, which mirrors it.
        wide = np.pad(flat, [(around, around) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
        moved = [np.take(wide, line + reach + around + by, axis=axis) for by in range(-around, around + 1)]
        flat = moved[around] * taps[0]
        for by in range(1, around + 1):
            flat += (moved[around - by] + moved[around + by]) * taps[by]
    return flat


def defocus_blur(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images out of focus, uint8 (B, 3, H, W)."""
    kernel = disk(*strength)
    # The weights lie so near to simple fractions that even one of 3e-12 decides some pixels; below that, none does.
    rows, columns = np.nonzero(kernel > 1e-12)
    middle = len(kernel) // 2
    reach = int(max(rows.max(), columns.max())) - middle
    values = planes(images).float()
    height, width, _ = values.shape
    wide = padded(padded(values, 0, reach, "mirror"), 1, reach, "mirror")
    total = torch.zeros_like(values, dtype=torch.float64)
    for weight in np.unique(kernel[rows, columns]):
        # Equal weights share one product; a sum of a few hundred grey levels is exact in float32.
        same = torch.zeros_like(values)
        for row, column in zip(*np.nonzero(kernel == weight), strict=True):
            same += wide[row - middle + reach :, column - middle + reach :][:height, :width]
        total += same.double().mul_(float(weight))
    return unplanes(total.clamp_(0, 255).to(torch.uint8), 3)


def glass_blur(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images behind frosted glass, uint8 (B, 3, H, W).

    The published loop means to swap neighbouring pixels while it walks from the lower right to the upper left.
    Its tuple assignment works on views, so that every pixel is overwritten by a neighbour and the neighbour stays
    as it was. One pass is therefore one gather, and two passes are the gather of a gather. Displacements are from
    -reach to reach - 1: at a reach of 1, a neighbour is always above or to the left, where the walk has not been;
    with more, it may hold what the walk brought there before, see `_followed`.
    """
    sigma, reach, passes = strength[0], int(strength[1]), int(strength[2])
    batch, channels, height, width = images.shape
    blurred = unplanes(truncated(gaussian(planes(images).double().div_(255), sigma)), channels)
    source = torch.arange(height * width, dtype=torch.int32, device=images.device).expand(batch, -1)
    first = torch.arange(batch, dtype=torch.int32, device=images.device).unsqueeze(1) * (height * width)
    rows, columns = (slice(reach + 1, size - reach + 1) for size in (height, width))
    word = rng.bits(index, height - 2 * reach, width - 2 * reach)
    for turn in range(passes):
        if reach == 1:
            # A displacement is 0 or -1 in each direction, by one bit.
            across, down = (word >> 2 * turn) & 1, (word >> 2 * turn + 1) & 1
        else:
            word = rng.at("pass", turn).bits(index, height - 2 * reach, width - 2 * reach)
            across, down = (reach - ((half & 0xFFFF) * (2 * reach) >> 16) for half in (word, word >> 16))
        step = torch.zeros(batch, height, width, dtype=torch.int32, device=images.device)
        step[:, rows, columns] = across + down * width
        place = torch.arange(height * width, dtype=torch.int32, device=images.device) - step.flatten(1) + first
        if reach > 1:
            place = _followed(place)
        source = source.reshape(-1).index_select(0, place.flatten()).view(batch, -1)
    start = torch.arange(batch * channels, dtype=torch.int32, device=images.device) * (height * width)
    everywhere = source.unsqueeze(1) + start.view(batch, channels, 1)
    shuffled = blurred.flatten().index_select(0, everywhere.flatten()).view_as(images)
    return unplanes(truncated(gaussian(planes(shuffled).double().div_(255), sigma)), channels)


def _followed(place: Tensor) -> Tensor:
    """Where the walk's pixels come from in the picture before it, int32 (B, H * W), counted through all pictures.

    The walk goes backwards: a pixel that takes from a later one takes what that one has taken before. Chains of such
    pixels are followed by leaps of twice the length, until all have come to a pixel that takes from an earlier one
    or, where the walk does not pass, from itself.

    Args:
        place: where each takes from, of the same shape, type and count.
    """
    takes = place.flatten()
    leap = torch.maximum(takes, torch.arange(len(takes), dtype=torch.int32, device=place.device))
    while True:
        twice = leap.index_select(0, leap)
        if torch.equal(twice, leap):
            return takes.index_select(0, leap).view_as(place)
        leap = twice


def motion(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images moved during the exposure, to the right within 45 degrees, uint8 (B, 3, H, W)."""
    angle = rng.at("angle").uniform(index, 1).squeeze(1) * 90 - 45
    return motion_blur(images, angle, radius=strength[0], sigma=strength[1], heading="right")


def zoom_blur(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The mean of the images zoomed in by a range of factors, uint8 (B, 3, H, W)."""
    factors = tuple(np.arange(1, strength[0], strength[1]).tolist())
    return unplanes(mean_zoomed(planes(images), factors), 3)
