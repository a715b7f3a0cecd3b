"""The linear filters that several corruptions share, as scipy and ImageMagick compute them.

Except `motion_blur`, everything here works on *planes*: float64 (H, W, N), all channels of all images along
the last axis. A shift by a row or a column is then one contiguous block, and one operation serves every image.
Sums are taken in the order of scipy's own loops: with truncation to whole grey levels, a flat patch of an image
falls on one side or the other of a whole number by the last bit.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

Border = Literal["nearest", "reflect", "mirror"]


def planes(images: Tensor) -> Tensor:
    """The images (B, C, H, W) as planes (H, W, B * C) of the same type."""
    batch, channels, height, width = images.shape
    return images.permute(2, 3, 0, 1).reshape(height, width, batch * channels)


def unplanes(values: Tensor, channels: int) -> Tensor:
    """The planes (H, W, B * C) as images (B, C, H, W)."""
    height, width, count = values.shape
    return values.view(height, width, count // channels, channels).permute(2, 3, 0, 1).contiguous()


def truncated(values: Tensor) -> Tensor:
    """Floats on a scale of 0 to 1 as grey levels, uint8: clipped, and cut off, not rounded (as published)."""
    return values.clamp(0, 1).mul_(255).to(torch.uint8)


def padded(values: Tensor, axis: int, amount: int, border: Border) -> Tensor:
    """The planes with ``amount`` more rows (axis 0) or columns (axis 1) on both sides.

    Borders by scipy's names: ``nearest`` aaa|abcd, ``reflect`` cba|abcd, ``mirror`` dcb|abcd.
    """
    size = values.shape[axis]
    place = torch.arange(-amount, size + amount, device=values.device)
    if border == "nearest":
        place = place.clamp(0, size - 1)
    elif border == "reflect":
        place = place.remainder(2 * size)
        place = torch.minimum(place, 2 * size - 1 - place)
    else:
        place = place.remainder(2 * size - 2)
        place = torch.minimum(place, 2 * size - 2 - place)
    return values.index_select(axis, place)


_LONG = 32
"""Filters of more taps to a side become matrices; the corruptions of small images have none."""


@lru_cache(maxsize=16)
def _operator(size: int, sigma: float, truncate: float, border: Border) -> Tensor:
    """The Gaussian along one side as a matrix, float64 (size, size)."""
    one = np.eye(size)
    return torch.from_numpy(ndimage.gaussian_filter1d(one, sigma, axis=0, truncate=truncate, mode=border))


def gaussian(values: Tensor, sigma: float, *, truncate: float = 4.0, border: Border = "nearest") -> Tensor:
    """The planes blurred by a Gaussian of ``sigma`` pixels, cut off at ``truncate`` sigmas; float64 (H, W, N)."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return values
    if radius > _LONG:
        down, across = (_operator(size, sigma, truncate, border).to(values.device) for size in values.shape[:2])
        # Plane by plane: a product of several at once may be rounded otherwise than a product of one.
        return torch.stack([down @ plane.contiguous() @ across.T for plane in values.unbind(2)], dim=2)
    taps = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        size = values.shape[axis]
        wide = padded(values, axis, radius, border)
        values = wide.narrow(axis, radius, size) * float(taps[radius])
        for reach in range(radius, 0, -1):
            pair = wide.narrow(axis, radius - reach, size) + wide.narrow(axis, radius + reach, size)
            values.add_(pair.mul_(float(taps[radius - reach])))
    return values


@lru_cache(maxsize=32)
def motion_taps(radius: float, sigma: float) -> tuple[float, ...]:
    """The weights of ImageMagick's motion blur from the pixel itself backwards: half a Gaussian, of sum 1.

    The kernel has ``2 * radius + 1`` taps; those below 1e-9, far from one grey level, are left out at its end.
    """
    taps = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma * sigma))
    taps /= taps.sum()
    return tuple(taps[taps > 1e-9].tolist())


def motion_kernels(angle: Tensor, taps: tuple[float, ...], heading: Literal["right", "up"]) -> tuple[Tensor, Tensor]:
    """One kernel of motion blur per angle, and where the pixel itself is in it.

    Args:
        angle: degrees (B,), clockwise from the right, within 45 of the heading (``right`` 0, ``up`` -90).
        taps: `motion_taps`.
        heading: the middle of the angles, which decides the kernels' common size.

    Returns:
        Kernels float64 (B, 1, height, width) and the pixel's place in them, (row, column), int64 (2,).
    """
    reach = len(taps) - 1
    side = math.ceil(reach * math.sqrt(0.5))
    box = (2 * side + 1, reach + 1) if heading == "right" else (reach + 1, 2 * side + 1)
    row, column = (side, 0) if heading == "right" else (reach, side)
    radians = angle.double().mul(math.pi / 180).unsqueeze(1)
    step = torch.arange(reach + 1, dtype=torch.float64, device=angle.device)
    across = torch.ceil(step * torch.cos(radians) - 0.5).to(torch.int64)
    down = torch.ceil(step * torch.sin(radians) - 0.5).to(torch.int64)
    weights = torch.tensor(taps, dtype=torch.float64, device=angle.device).expand(len(angle), -1)
    kernels = torch.zeros(len(angle), box[0] * box[1], dtype=torch.float64, device=angle.device)
    kernels.scatter_add_(1, (down + row) * box[1] + across + column, weights)
    return kernels.view(len(angle), 1, *box), torch.tensor([row, column])


def _correlated(wide: Tensor, kernel: Tensor) -> Tensor:
    """Channels (C, H + h - 1, W + w - 1) under a kernel (h, w) that is mostly empty, float64 (C, H, W)."""
    channels, height, width = wide.shape[0], wide.shape[1] - len(kernel) + 1, wide.shape[2] - kernel.shape[1] + 1
    exact = wide.double()
    total = torch.zeros(channels, height, width, dtype=torch.float64, device=wide.device)
    for row, column in kernel.nonzero().tolist():
        total.add_(exact[:, row : row + height, column : column + width], alpha=float(kernel[row, column]))
    return total


def motion_blur(
    images: Tensor, angle: Tensor, *, radius: float, sigma: float, heading: Literal["right", "up"]
) -> Tensor:
    """The images blurred along one angle each, as ImageMagick 6 does it; uint8 (B, C, H, W).

    The taps lie on whole pixels along the direction, and pixels outside repeat the border. ImageMagick sums in
    16 bits a channel (257 for every grey level), rounds there, and cuts off to 8 bits.

    Args:
        images: uint8 (B, C, H, W).
        angle: degrees (B,), see `motion_kernels`.
        radius: half the length of the kernel in pixels.
        sigma: the width of its half Gaussian in pixels.
        heading: the middle of the range of angles.
    """
    taps = motion_taps(radius, sigma)
    kernels, place = motion_kernels(angle, taps, heading)
    row, column = place.tolist()
    # Every image is one channel of a depth-wise convolution with a kernel of its own. Weights of 16 bits make a
    # float32 sum of grey levels exact, in any order; what they leave is so small that its own error does not count.
    # A GPU may round float32 convolutions to TF32, but never float64.
    border = (column, kernels.shape[3] - 1 - column, row, kernels.shape[2] - 1 - row)
    wide = F.pad(images.transpose(0, 1).float(), border, mode="replicate")
    if images.device.type == "cpu" and images.shape[2] * images.shape[3] > 1024:
        pairs = zip(wide.unbind(1), kernels.squeeze(1), strict=True)
        blurred = torch.stack([_correlated(one, kernel) for one, kernel in pairs])
        return blurred.add_(0.5 / 257).to(torch.uint8)
    if images.device.type == "cpu":
        coarse = kernels.mul(2**16).round_().div_(2**16)
        fine = F.conv2d(wide, (kernels - coarse).float(), groups=len(images))
        blurred = F.conv2d(wide, coarse.float(), groups=len(images)).double().add_(fine)
    else:
        blurred = F.conv2d(wide.double(), kernels, groups=len(images))
    return blurred.add_(0.5 / 257).transpose(0, 1).to(torch.uint8).contiguous()
