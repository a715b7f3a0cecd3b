"""Blur: defocus, glass, motion, zoom, gaussian."""

from __future__ import annotations

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
    """The kernel of an unfocused lens: a disk with a smoothed edge, float32 (17, 17), of sum about 1.

    Args:
        radius: in pixels, at most 7.
        sigma: of the 3 x 3 Gaussian that smooths the edge.
    """
    line = np.arange(-8, 9)
    flat = (line[:, None] ** 2 + line[None, :] ** 2 <= radius**2).astype(np.float32)
    flat /= flat.sum()
    side = np.exp(-1 / (2 * sigma * sigma))
    taps = (np.array([side, 1.0, side]) / (1 + 2 * side)).astype(np.float32)
    for axis in (1, 0):
        inner = np.pad(flat, [(1, 1) if a == axis else (0, 0) for a in (0, 1)])
        first, middle, last = (np.take(inner, range(s, s + 17), axis=axis) for s in (0, 1, 2))
        flat = middle * taps[1] + (first + last) * taps[0]
    return flat


def defocus_blur(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images out of focus, uint8 (B, 3, H, W)."""
    kernel = disk(*strength)
    # The weights lie so near to simple fractions that even one of 3e-12 decides some pixels; below that, none does.
    rows, columns = np.nonzero(kernel > 1e-12)
    reach = int(max(rows.max(), columns.max())) - 8
    values = planes(images).float()
    height, width, _ = values.shape
    wide = padded(padded(values, 0, reach, "mirror"), 1, reach, "mirror")
    total = torch.zeros_like(values, dtype=torch.float64)
    for weight in np.unique(kernel[rows, columns]):
        # Equal weights share one product; a sum of up to 25 grey levels is exact in float32.
        same = torch.zeros_like(values)
        for row, column in zip(*np.nonzero(kernel == weight), strict=True):
            same += wide[row - 8 + reach :, column - 8 + reach :][:height, :width]
        total += same.double().mul_(float(weight))
    return unplanes(total.clamp_(0, 255).to(torch.uint8), 3)


def glass_blur(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images behind frosted glass, uint8 (B, 3, H, W).

    The published loop means to swap neighbouring pixels while it walks from the lower right to the upper left.
    Its tuple assignment works on views, so that every pixel is overwritten by a neighbour and the neighbour stays
    as it was; and a neighbour is always above or to the left, where the walk has not been. One pass is therefore
    one gather, and two passes are the gather of a gather.
    """
    sigma, reach, passes = strength[0], int(strength[1]), int(strength[2])
    batch, channels, height, width = images.shape
    assert reach == 1, "a larger displacement reads pixels that the walk has already changed"
    blurred = unplanes(truncated(gaussian(planes(images).double().div_(255), sigma)), channels)
    source = torch.arange(height * width, dtype=torch.int32, device=images.device).expand(batch, -1)
    word = rng.bits(index, height - 2, width - 2)
    for turn in range(passes):
        # A displacement is 0 or -1 in each direction, by one bit.
        step = torch.zeros(batch, height, width, dtype=torch.int32, device=images.device)
        step[:, 2:, 2:] = ((word >> 2 * turn) & 1) + ((word >> 2 * turn + 1) & 1) * width
        place = torch.arange(height * width, dtype=torch.int32, device=images.device) - step.flatten(1)
        place += torch.arange(batch, dtype=torch.int32, device=images.device).unsqueeze(1) * (height * width)
        source = source.reshape(-1).index_select(0, place.flatten()).view(batch, -1)
    start = torch.arange(batch * channels, dtype=torch.int32, device=images.device) * (height * width)
    everywhere = source.unsqueeze(1) + start.view(batch, channels, 1)
    shuffled = blurred.flatten().index_select(0, everywhere.flatten()).view_as(images)
    return unplanes(truncated(gaussian(planes(shuffled).double().div_(255), sigma)), channels)


def motion(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images moved during the exposure, to the right within 45 degrees, uint8 (B, 3, H, W)."""
    angle = rng.at("angle").uniform(index, 1).squeeze(1) * 90 - 45
    return motion_blur(images, angle, radius=strength[0], sigma=strength[1], heading="right")


def zoom_blur(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The mean of the images zoomed in by a range of factors, uint8 (B, 3, H, W)."""
    factors = tuple(np.arange(1, strength[0], strength[1]).tolist())
    return unplanes(mean_zoomed(planes(images), factors), 3)
