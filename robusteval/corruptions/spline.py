"""Corruptions of CIFAR-10-C-bar that resample with cubic B-splines: circular motion blur, chromatic aberration.

Everything here works on planes float64 (H, W, N), see `filters`, and on one pixel after another in the order of
scipy's own loops, because levels are cut off or rounded to bytes afterwards.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from robusteval.corruptions.filters import planes, unplanes
from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream

_POLE = math.sqrt(3) - 2

_TURNS = 21
"""Rotated images of which a circular motion blur is the mean."""


class Taps(NamedTuple):
    """The four pixels that each of n real coordinates along a side depends on: int64 (4, n), weights float64 (4, n)."""

    place: NDArray[np.int64]
    weight: NDArray[np.float64]


def taps(at: NDArray[np.float64], side: int) -> Taps:
    """The taps of a cubic B-spline, mirrored at the ends of a side."""
    low = np.floor(at)
    part = at - low
    rest = 1 - part
    second = (part * part * (part - 2) * 3 + 4) / 6
    third = (rest * rest * (rest - 2) * 3 + 4) / 6
    first = rest * rest * rest / 6
    place = np.abs(low.astype(np.int64) + np.arange(-1, 3).reshape(-1, *[1] * at.ndim))
    place = np.where(place >= side, 2 * side - 2 - place, place)
    return Taps(place, np.stack([first, second, third, 1 - first - second - third]))


def _filtered(lines: Tensor) -> Tensor:
    """The spline coefficients along the first axis, mirrored at its ends; float64, a new tensor."""
    lines = lines * ((1 - _POLE) * (1 - 1 / _POLE))
    last = len(lines) - 1
    far, power = _POLE**last, _POLE
    lines[0] += far * lines[last]
    for place in range(1, last):
        lines[0] += power * (lines[place] + far * lines[last - place])
        power *= _POLE
    lines[0] /= 1 - far * far
    for place in range(1, last + 1):
        lines[place] += _POLE * lines[place - 1]
    lines[last] = (_POLE * lines[last - 1] + lines[last]) * (_POLE / (_POLE * _POLE - 1))
    for place in range(last - 1, -1, -1):
        lines[place] = _POLE * (lines[place + 1] - lines[place])
    return lines


def coefficients(values: Tensor) -> Tensor:
    """The coefficients of the cubic splines through the pixels of planes, float64 (H, W, N)."""
    return _filtered(_filtered(values).transpose(0, 1).contiguous()).transpose(0, 1).contiguous()


@lru_cache(maxsize=_TURNS)
def _rotation(height: int, width: int, angle: float) -> tuple[Tensor, Tensor]:
    """The 16 pixels that each pixel of a turned plane depends on: int32 (16, H * W), weights float64 (16, H * W)."""
    cosine, sine = float(special.cosdg(angle)), float(special.sindg(angle))
    middle = np.array([height - 1, width - 1]) / 2
    offset = middle - np.array([[cosine, sine], [-sine, cosine]]) @ middle
    rows, columns = np.indices((height, width)).reshape(2, -1).astype(np.float64)
    down = offset[0] + rows * cosine + columns * sine
    across = offset[1] - rows * sine + columns * cosine
    inside = (down >= 0) & (down <= height - 1) & (across >= 0) & (across <= width - 1)
    tall, wide = taps(down, height), taps(across, width)
    pairs = [*itertools.product(range(4), repeat=2)]
    place = np.stack([tall.place[one] * width + wide.place[other] for one, other in pairs])
    weight = np.stack([tall.weight[one] * wide.weight[other] for one, other in pairs])
    return torch.from_numpy(np.where(inside, place, 0).astype(np.int32)), torch.from_numpy(np.where(inside, weight, 0))


def rotated(splines: Tensor, angle: float) -> Tensor:
    """The planes turned about their middle, black outside, float32 (H, W, N), from their `coefficients`."""
    place, weight = (part.to(splines.device) for part in _rotation(*splines.shape[:2], angle))
    flat = splines.flatten(0, 1)
    total = torch.zeros_like(flat)
    for where, share in zip(place, weight, strict=True):
        total.addcmul_(flat.index_select(0, where), share.unsqueeze(1))
    return total.float().view_as(splines)


def circular_motion_blur(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images turned during the exposure, uint8 (B, 3, H, W); without a random draw."""
    splines = coefficients(planes(images).float().div_(255).double())
    total = torch.zeros_like(splines, dtype=torch.float32)
    factors = []
    for turn in range(_TURNS):
        share = 2 * turn / (_TURNS - 1) - 1
        factors.append(math.exp(-2 * share**2))
        total += rotated(splines, share * (strength[0] * 15 / 10)).mul_(factors[-1])
    return unplanes(total.div_(sum(factors)).mul_(255).clamp_(0, 255).to(torch.uint8), 3)


def enlarged(values: Tensor, factor: float) -> Tensor:
    """The middle of smoothed and enlarged planes, uint8 (H, W, N) as the input.

    The pixels are taken for the coefficients of splines, so that a factor of 1 smooths too.
    """
    lines = []
    for side in values.shape[:2]:
        large = round(side * factor)
        start = (large - side) // 2
        at = np.arange(start, start + side, dtype=np.float64) * ((side - 1) / (large - 1))
        lines.append(tuple(torch.from_numpy(part).to(values.device) for part in taps(at, side)))
    (rows, tall), (columns, wide) = lines
    exact = values.double()
    total = torch.zeros_like(exact)
    for one, other in itertools.product(range(4), repeat=2):
        pixels = exact.index_select(0, rows[one]).index_select(1, columns[other])
        total += pixels.mul_(tall[one].view(-1, 1, 1)).mul_(wide[other].view(1, -1, 1))
    return total.add_(0.5).clamp_(0, 255).to(torch.uint8)


def transverse_chromatic_abberation(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with their channels enlarged by different factors, uint8 (B, 3, H, W).

    Which channel stays, which is enlarged and which is enlarged by half as much is drawn.
    """
    scale = strength[0] * 0.5 / 10
    orders = torch.tensor([*itertools.permutations(range(3))], device=images.device)
    order = orders[rng.at("order").integers(index, len(orders), 1).squeeze(1)]
    result = torch.empty_like(images)
    each = torch.arange(len(images), device=images.device)
    for place, factor in enumerate((1.0, 1.0 + scale / 2, 1.0 + scale)):
        channel = order[:, place]
        result[each, channel] = enlarged(images[each, channel].permute(1, 2, 0), factor).permute(2, 0, 1)
    return result
