"""JPEG files, written and read again, as the library of the Independent JPEG Group does it since its version 7.

That is the library behind the published images. (The usual one today, libjpeg-turbo, halves the colour channels by
averaging pixels; this one does it inside the cosine transform, with 16 x 16 pixels for 8 x 8 coefficients, and its
colours differ by about one grey level.) A file is then two colour matrices and four matrices of a cosine transform,
all of whole numbers, with a rounding after each; what is lossless in between is left out. Whole numbers below 2**53
are exact in float64 and in any order of summation, so that every device computes the same.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# The colour matrices of JFIF in units of 2**-16, and what is added before rounding down.
_TO_YCC = ((19595, 38470, 7471), (-11058, -21710, 32768), (32768, -27439, -5329))
_TO_YCC_ADD = (32768, (128 << 16) + 32767, (128 << 16) + 32767)
_TO_RGB = ((65536, 0, 91881), (65536, -22553, -46802), (65536, 116130, 0))
_TO_RGB_ADD = (32768, 32768, 32768)

# The tables of quantisation for brightness and colour (ITU-T T.81, annex K).
_BRIGHTNESS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_COLOUR = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)

# The library's transforms multiply with sums of rounded constants. Where such a sum is not the rounded cosine, it is
# one off: (frequency, sample, difference), in the first half of the samples.
_FORWARD_8 = ((1, 2, 1), (3, 1, 1), (3, 2, 1), (5, 0, 1), (5, 1, 1), (5, 2, 1), (6, 1, -1), (6, 2, 1))
_FORWARD_16 = ((1, 7, -1), (5, 2, 1), (6, 3, -1), (6, 4, 1), (7, 3, 1), (7, 4, 1))
_INVERSE_16 = ((2, 2, 1), (2, 5, -1), (3, 6, 1), (5, 2, 1), (5, 5, -1), (6, 0, -1), (6, 7, 1), (7, 3, 1))


def cosines(points: int, corrections: tuple[tuple[int, int, int], ...]) -> Tensor:
    """The lower 8 frequencies of a cosine transform, whole float64 (8, points), in units of 2**-13."""
    frequency = torch.arange(8, dtype=torch.float64)[:, None]
    sample = torch.arange(points, dtype=torch.float64)
    matrix = torch.cos((2 * sample + 1) * frequency * (math.pi / (2 * points))) * 2**13
    matrix[1:] *= math.sqrt(2)
    matrix = matrix.round()
    for row, column, difference in corrections:
        matrix[row, column] += difference
        matrix[row, points - 1 - column] += difference * (-1) ** row
    return matrix


def quantisation(table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """The steps of the coefficients at a quality of 1 to 100, float64 (8, 8)."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table) * percent + 50) // 100).clamp(1, 255).double()


@lru_cache(maxsize=16)
def _matrices(size: int, points: int) -> tuple[Tensor, Tensor]:
    """The transforms of ``size`` pixels in a line there (size * 8 / points, size) and back (transposed shape)."""
    forward = cosines(points, _FORWARD_8 if points == 8 else _FORWARD_16)
    inverse = forward if points == 8 else cosines(points, _INVERSE_16)
    one = torch.eye(size // points, dtype=torch.float64)
    return torch.kron(one, forward), torch.kron(one, inverse.T.contiguous())


def _rounded(values: Tensor, bits: int) -> Tensor:
    """The values divided by 2**bits, to the nearest whole number, halves upwards."""
    return values.add_(2.0 ** (bits - 1)).mul_(2.0**-bits).floor_()


def _rowwise(channels: Tensor, matrix: Tensor) -> Tensor:
    """The rows of channels (N, H, W), part by part, times a matrix (part, new part)."""
    return (channels.reshape(*channels.shape[:2], -1, len(matrix)) @ matrix).flatten(2)


def _columnwise(matrix: Tensor, channels: Tensor) -> Tensor:
    """A matrix (new part, part) times the columns of channels (N, H, W), part by part."""
    return (matrix @ channels.reshape(len(channels), -1, matrix.shape[1], channels.shape[2])).flatten(1, 2)


def _coded(channels: Tensor, points: int, steps: Tensor) -> Tensor:
    """Channels after transform, quantisation and back, float64 (N, H, W) of whole numbers 0..255."""
    # Lines are transformed in parts of at most 64 pixels: a matrix for a longer one is mostly empty.
    parts = [math.gcd(size, 64) for size in channels.shape[1:]]
    (down, up), (across, back) = ((m.to(channels.device) for m in _matrices(part, points)) for part in parts)
    coefficients = _rounded(_rowwise(channels - 128, across.T), 11)
    coefficients = _rounded(_columnwise(down, coefficients), 15 if points == 8 else 17)
    step = steps.to(channels.device).repeat(coefficients.shape[1] // 8, coefficients.shape[2] // 8)
    # The transform is 8 times too large; the size is rounded, not the signed number.
    size = coefficients.abs().add_(step * 4).div_(step * 8).floor_().mul_(step)
    coefficients = size.mul_(coefficients.sign_())
    lines = _rounded(_columnwise(up, coefficients), 11)
    return _rounded(_rowwise(lines, back.T), 18).add_(128).clamp_(0, 255)


def _mixed(images: Tensor, matrix: tuple[tuple[int, ...], ...], add: tuple[int, ...]) -> Tensor:
    """Images float64 (B, 3, H, W) through a colour matrix in units of 2**-16, rounded down."""
    channels = images.unbind(1)
    rows = [
        sum((channel * weight for channel, weight in zip(channels[1:], row[1:], strict=True)), channels[0] * row[0])
        for row in matrix
    ]
    return torch.stack([row.add_(more).mul_(2.0**-16).floor_() for row, more in zip(rows, add, strict=True)], dim=1)


def recoded(images: Tensor, quality: int) -> Tensor:
    """The images as they come out of a JPEG file, uint8 (B, 3, H, W).

    Args:
        images: uint8 (B, 3, H, W).
        quality: 1 to 100 on the library's scale; colour is stored at half the resolution, its default.
    """
    batch, _, height, width = images.shape
    # The library repeats the last row and column until whole blocks of 16 pixels are full.
    ycc = F.pad(_mixed(images.double(), _TO_YCC, _TO_YCC_ADD), (0, -width % 16, 0, -height % 16), mode="replicate")
    bright = _coded(ycc[:, 0], 8, quantisation(_BRIGHTNESS, quality))
    colour = _coded(ycc[:, 1:].flatten(0, 1), 16, quantisation(_COLOUR, quality)).view(batch, 2, *ycc.shape[2:])
    decoded = torch.cat([bright.unsqueeze(1), colour.sub_(128)], dim=1)[:, :, :height, :width]
    return _mixed(decoded, _TO_RGB, _TO_RGB_ADD).clamp_(0, 255).to(torch.uint8)
