"""Bilinear enlargement as scipy computes it, and the mean of many of them, fast and to the last bit."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_TILE = 8

_SMALL = 64
"""The longest side for tiles: their matrices grow with the fourth power of it."""


class Samples(NamedTuple):
    """Where the pixels of a line of the enlarged middle come from: two places int64 (side,), two weights float64."""

    first: Tensor
    second: Tensor
    near: Tensor
    far: Tensor


@lru_cache(maxsize=64)
def samples(side: int, factor: float) -> Samples:
    """The bilinear samples along one side of ``clipped_zoom``: crop the middle, enlarge it, trim to the old size."""
    crop = math.ceil(side / factor)
    top = (side - crop) // 2
    large = round(crop * factor)
    trim = (large - side) // 2
    # Corner to corner, as scipy.ndimage.zoom does.
    at = np.arange(trim, trim + side) * ((crop - 1) / (large - 1))
    low = np.floor(at)
    first = low.astype(np.int64)
    second = np.minimum(first + 1, crop - 1)
    return Samples(*map(torch.from_numpy, (first + top, second + top, 1 - (at - low), at - low)))


def zoomed(values: Tensor, factor: float) -> Tensor:
    """The middle of planes enlarged by ``factor`` >= 1 to the full size; float64 (H, W, N), as the input."""
    for axis, shape in ((0, (-1, 1, 1)), (1, (1, -1, 1))):
        taps = Samples(*(part.to(values.device) for part in samples(values.shape[axis], factor)))
        near = values.index_select(axis, taps.first).mul_(taps.near.view(shape))
        values = near.add_(values.index_select(axis, taps.second).mul_(taps.far.view(shape)))
    return values


class _Tiles(NamedTuple):
    """The mean of a picture and its enlargements as one small matrix for every 8 x 8 tile of the result."""

    matrices: Tensor  # float64 (tiles, 64, patch * patch)
    patches: Tensor  # int64 (tiles * patch * patch,): the pixels that each tile depends on
    order: Tensor  # int64 (side * side,): pixel -> place in the tiles


@lru_cache(maxsize=16)
def _tiles(side: int, factors: tuple[float, ...]) -> _Tiles:
    """The tiles for square pictures whose side is a multiple of 8."""
    lines = np.zeros((len(factors) + 1, side, side))
    lines[0] = np.eye(side)
    place = np.arange(side)
    for line, factor in zip(lines[1:], factors, strict=True):
        taps = samples(side, factor)
        np.add.at(line, (place, taps.first.numpy()), taps.near.numpy())
        np.add.at(line, (place, taps.second.numpy()), taps.far.numpy())
    used = [np.nonzero(lines[:, start : start + _TILE].any(axis=(0, 1)))[0] for start in range(0, side, _TILE)]
    patch = max(int(pixels[-1] - pixels[0]) + 1 for pixels in used)
    starts = [min(int(pixels[0]), side - patch) for pixels in used]
    parts = [lines[:, tile * _TILE : (tile + 1) * _TILE, start : start + patch] for tile, start in enumerate(starts)]
    matrices = [
        np.einsum("zab,zcd->acbd", rows, columns).reshape(_TILE * _TILE, patch * patch) / len(lines)
        for rows in parts
        for columns in parts
    ]
    area = np.arange(patch)
    patches = [(row + area)[:, None] * side + column + area for row in starts for column in starts]
    tiles = side // _TILE
    order = np.arange(side * side).reshape(tiles, tiles, _TILE, _TILE).transpose(0, 2, 1, 3)
    return _Tiles(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (matrices, np.ravel(patches), order.ravel())))


def mean_zoomed(values: Tensor, factors: tuple[float, ...]) -> Tensor:
    """The mean of planes and their enlargements, uint8 (H, W, N) as the input.

    The published code adds float32 pictures one by one. For small squares, the sum is one matrix product in float64;
    only where it comes so near to a whole grey level that float32 rounding could have crossed it is the sum done
    again in the published order.
    """
    side, width, count = values.shape
    if side != width or side % _TILE or side > _SMALL:
        return mean_one_by_one(values, factors)
    tiles = _Tiles(*(part.to(values.device) for part in _tiles(side, factors)))
    patches = values.view(side * side, count).index_select(0, tiles.patches).double()
    mean = torch.bmm(tiles.matrices, patches.view(len(tiles.matrices), -1, count))
    mean = mean.view(side * side, count).index_select(0, tiles.order)
    # n partial sums of up to n, each rounded by 2**-24 of itself, divided by n + 1, in grey levels; and the ends.
    doubt = 255 * 2.0**-24 * (len(factors) / 2 + 5)
    unsure = ((mean - mean.round()).abs_() < doubt).flatten().nonzero().squeeze(1)
    # Where everything around is black or white, which is common, float32 sums are exact.
    level = mean.flatten()[unsure]
    unsure = unsure[(level > 0) & (level < 255 - 1e-9)]
    result = (mean + 1e-9).clamp_(0, 255).to(torch.uint8).flatten()
    for piece in torch.split(unsure, 1 << 13):
        result[piece] = _one_by_one(values, piece, factors)
    return result.view_as(values)


def mean_one_by_one(values: Tensor, factors: tuple[float, ...]) -> Tensor:
    """The same mean of planes of any size, uint8 (H, W, N), summed in float32 in the published order."""
    own = values.float().div_(255)
    exact = own.double()
    total = torch.zeros_like(own)
    for factor in factors:
        total += zoomed(exact, factor).float()
    return own.add_(total).div_(len(factors) + 1).clamp_(0, 1).mul_(255).to(torch.uint8)


def _one_by_one(values: Tensor, where: Tensor, factors: tuple[float, ...]) -> Tensor:
    """The same mean for some pixels only, uint8 (K,), summed in float32 in the published order.

    Args:
        values: uint8 planes (H, H, N).
        where: places in the flattened planes, int64 (K,).
        factors: the enlargements.
    """
    side, _, count = values.shape
    pixel, plane = where // count, where % count
    stacked = [torch.stack(part).to(values.device) for part in zip(*(samples(side, f) for f in factors), strict=True)]
    rows, columns = (Samples(*(part[:, at] for part in stacked)) for at in (pixel // side, pixel % side))
    flat = values.flatten()

    def at(row: Tensor, column: Tensor) -> Tensor:
        place = (row * side + column) * count + plane
        return flat[place].float().div_(255).double()

    left = at(rows.first, columns.first) * rows.near + at(rows.second, columns.first) * rows.far
    right = at(rows.first, columns.second) * rows.near + at(rows.second, columns.second) * rows.far
    terms = (left * columns.near + right * columns.far).float()
    total = torch.zeros_like(terms[0])
    for term in terms:
        total += term
    own = flat[where].float().div_(255)
    return own.add_(total).div_(len(factors) + 1).clamp_(0, 1).mul_(255).to(torch.uint8)
