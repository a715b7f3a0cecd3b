"""Rotation, shear and translation with a strength per image, to the last bit as PIL's bilinear affine transform.

PIL maps the centre of every output pixel back into the input, gives 0 where it falls outside, interpolates between
the four nearest centres in double precision, and cuts off to whole grey levels (it does not round).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class _Taps(NamedTuple):
    """The pixels before and after a coordinate, int64, the way between them, and 1 where it is inside, else 0."""

    before: Tensor
    after: Tensor
    way: Tensor
    inside: Tensor


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """The images turned counter-clockwise about their centres by degrees (B,).

    Equal to PIL for whole degrees up to 44; where a cosine lies half-way between two of PIL's 15 decimals (45), and
    on a GPU with a cosine of its own, single pixels can differ by one level.
    """
    count, channels, height, width = images.shape
    angle = (degrees.double().remainder(360) * (math.pi / 180)).neg_().view(count, 1, 1)
    cos, sin = angle.cos().round(decimals=15), angle.sin().round(decimals=15)
    # The sums are in PIL's order: a last bit can decide about a level that is cut off.
    x, y = _centres(width, images), _centres(height, images).unsqueeze(1)
    from_left, from_top = width / 2, height / 2
    column = _taps(cos * x + sin * y + (cos * -from_left + sin * -from_top + from_left), width)
    row = _taps(-sin * x + cos * y + (-sin * -from_left + cos * -from_top + from_top), height)
    flat = images.reshape(count, channels, -1)

    def level(rows: Tensor, columns: Tensor) -> Tensor:
        place = (rows * width + columns).view(count, 1, -1)
        return flat.gather(2, place.expand(-1, channels, -1)).double()

    across, down = column.way.view(count, 1, -1), row.way.view(count, 1, -1)
    upper = _between(level(row.before, column.before), level(row.before, column.after), across)
    lower = _between(level(row.after, column.before), level(row.after, column.after), across)
    inside = (row.inside & column.inside).view(count, 1, -1)
    return _between(upper, lower, down).to(torch.uint8).mul_(inside).view_as(images)


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """The images with every row y, in pixels from the top, shifted to the left by slope * y; slope (B,)."""
    count, channels, height, width = images.shape
    shift = slope.double().view(count, 1, 1) * _centres(height, images).unsqueeze(1)
    taps = _taps(_centres(width, images) + shift, width)
    before, after = (
        images.gather(3, place.unsqueeze(1).expand(-1, channels, -1, -1)).double()
        for place in (taps.before, taps.after)
    )
    return _between(before, after, taps.way.unsqueeze(1)).to(torch.uint8).mul_(taps.inside.unsqueeze(1))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """The images with every column x, in pixels from the left, shifted upwards by slope * x; slope (B,)."""
    return shear_x(images.transpose(2, 3), slope).transpose(2, 3)


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """The images shifted to the left by whole pixels (B,)."""
    count, channels, height, width = images.shape
    place = torch.arange(width, device=images.device) + pixels.long().unsqueeze(1)
    inside = (place >= 0) & (place < width)
    place = place.clamp_(0, width - 1).view(count, 1, 1, width).expand(-1, channels, height, -1)
    return images.gather(3, place).mul_(inside.view(count, 1, 1, width))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """The images shifted upwards by whole pixels (B,)."""
    return translate_x(images.transpose(2, 3), pixels).transpose(2, 3)


def _centres(size: int, images: Tensor) -> Tensor:
    return torch.arange(size, dtype=torch.float64, device=images.device) + 0.5


def _taps(place: Tensor, size: int) -> _Taps:
    """What coordinates fall between; pixels beyond the border repeat it."""
    inside = (place >= 0) & (place < size)
    place = place.sub_(0.5)
    floor = place.floor()
    before = floor.long()
    return _Taps(before.clamp(0, size - 1), (before + 1).clamp_(0, size - 1), place.sub_(floor), inside)


def _between(before: Tensor, after: Tensor, way: Tensor) -> Tensor:
    """``before + (after - before) * way``; both are used up."""
    return before.add_(after.sub_(before).mul_(way))
