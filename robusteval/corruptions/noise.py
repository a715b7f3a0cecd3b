"""Noise of single values: gaussian, shot, impulse, speckle.

Each of the four changes every value independently, by a law that depends on the value alone. On 256 grey
levels such a noise *is* a 256 x 256 matrix of probabilities, which has a closed form (truncation to whole
grey levels and clipping included). Values are drawn from its rows with Walker's alias method (Walker, 1977,
doi:10.1145/355744.355749): one word of random bits and one table look-up per value, exact to 2**-24, and whole
numbers only, so that every device draws the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, pdtr
from torch import Tensor

from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream

Matrix = NDArray[np.float64]

_LEVELS = np.arange(256)


def _additive(sigma: Matrix) -> Matrix:
    """P(out | value) of value + sigma[value] * z, truncated to a whole grey level and clipped to 0..255."""
    upper = np.arange(1.0, 256.0)[None, :] - _LEVELS[:, None]
    # Without any noise, a value is below every larger one for certain: at an infinite quantile.
    quantile = np.where(upper > 0, np.inf, -np.inf)
    np.divide(upper, sigma[:, None], out=quantile, where=sigma[:, None] > 0)
    return np.diff(ndtr(quantile), axis=1, prepend=0.0, append=1.0)


def gaussian_matrix(strength: Strength) -> Matrix:
    """P(out | value), float64 (256, 256), of Gaussian noise with standard deviation ``255 * strength[0]``."""
    return _additive(np.full(256, 255.0 * strength[0]))


def speckle_matrix(strength: Strength) -> Matrix:
    """P(out | value), float64 (256, 256), of Gaussian noise with standard deviation ``value * strength[0]``."""
    return _additive(_LEVELS.astype(np.float64) * strength[0])


def shot_matrix(strength: Strength) -> Matrix:
    """P(out | value), float64 (256, 256), of photon counts with ``strength[0]`` photons at full brightness."""
    full = strength[0]
    rate = _LEVELS / 255 * full
    matrix = np.zeros((256, 256))
    below = np.zeros(256)
    for count in range(math.ceil(full)):
        upto = pdtr(count, rate)
        matrix[:, int(count / full * 255)] += upto - below
        below = upto
    matrix[:, 255] += 1 - below
    return matrix


def impulse_matrix(strength: Strength) -> Matrix:
    """P(out | value), float64 (256, 256), of salt and pepper on the share ``strength[0]`` of the values."""
    matrix = np.eye(256) * (1 - strength[0])
    matrix[:, [0, 255]] += strength[0] / 2
    return matrix


def alias_table(matrix: Matrix) -> NDArray[np.int32]:
    """The alias table of a (256, 256) matrix of probabilities, flat, by row and column.

    Probabilities are rounded to multiples of 2**-24. An entry holds in its low 8 bits the other outcome of the
    column, and above them how many of the column's 65536 parts belong to the column's own outcome.
    """
    parts = np.rint(matrix * 2**24).astype(np.int64)
    row = np.arange(256)
    parts[row, parts.argmax(axis=1)] += 2**24 - parts.sum(axis=1)
    own, other = np.full((256, 256), 65536), np.tile(_LEVELS, (256, 1))
    closed = np.zeros((256, 256), dtype=bool)
    for _ in range(255):
        # The poorest column is filled up from the richest; each step closes one column of every row.
        poor = np.where(closed, 2**25, parts).argmin(axis=1)
        rich = np.where(closed, -1, parts).argmax(axis=1)
        own[row, poor], other[row, poor] = parts[row, poor], rich
        parts[row, rich] -= 65536 - parts[row, poor]
        closed[row, poor] = True
    return ((own << 8) | other).astype(np.int32).ravel()


@lru_cache(maxsize=32)
def _table(matrix: Callable[[Strength], Matrix], strength: Strength) -> Tensor:
    """The alias table as a tensor on the CPU."""
    return torch.from_numpy(alias_table(matrix(strength)))


def transition(images: Tensor, table: Tensor, rng: Stream, index: Tensor) -> Tensor:
    """Every value replaced by a draw from its row of an alias table: uint8, shape of ``images``.

    Args:
        images: uint8 (B, ...).
        table: int32 (65536,) of `alias_table`, on the device of the images.
        rng: the stream of the draws.
        index: the images' indices, integers (B,).
    """
    word = rng.bits(index, *images.shape[1:])
    column = word & 255
    entry = table.index_select(0, images.to(torch.int32).mul_(256).add_(column).flatten()).view_as(word)
    other = entry & 255
    mine = ((word >> 8) & 0xFFFF) < (entry >> 8)
    return column.sub_(other).mul_(mine).add_(other).to(torch.uint8)


def gaussian_noise(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with Gaussian noise of equal size everywhere, uint8 (B, 3, H, W)."""
    return transition(images, _table(gaussian_matrix, strength).to(images.device), rng, index)


def shot_noise(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images as counts of photons (Poisson), uint8 (B, 3, H, W)."""
    return transition(images, _table(shot_matrix, strength).to(images.device), rng, index)


def impulse_noise(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with single values replaced by 0 or 255, uint8 (B, 3, H, W)."""
    return transition(images, _table(impulse_matrix, strength).to(images.device), rng, index)


def speckle_noise(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with Gaussian noise in proportion to the value, uint8 (B, 3, H, W)."""
    return transition(images, _table(speckle_matrix, strength).to(images.device), rng, index)
