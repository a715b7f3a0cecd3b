"""Warps of CIFAR-10-C-bar: pinched and twirled patches, and ripples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream


def _pixels(values: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The pixels (B, 3, H, W) at places int64 (B, H, W), black where they are outside."""
    height, width = values.shape[2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    found = values.flatten(2).gather(2, place.flatten(1).unsqueeze(1).expand(-1, 3, -1)).view_as(values)
    return found * inside.unsqueeze(1)


def sampled(values: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The images at real coordinates, interpolated between four pixels, black outside; of the images' type.

    Weights are rounded to the images' type before they are used, and sums taken in the published order.

    Args:
        values: float32 or float64 (B, 3, H, W).
        down: rows in pixels, float64 (B, H, W).
        across: columns, of the same shape and type.
    """
    top, left = down.floor(), across.floor()
    near_left, near_right = (1 - across + left, 1 - (left + 1) + across)
    near_top, near_bottom = (1 - down + top, 1 - (top + 1) + down)
    weights = (part.to(values.dtype).unsqueeze(1) for part in (near_left, near_right, near_top, near_bottom))
    left_weight, right_weight, top_weight, bottom_weight = weights
    row, column = top.long(), left.long()
    above = _pixels(values, row, column) * left_weight + _pixels(values, row, column + 1) * right_weight
    below = _pixels(values, row + 1, column) * left_weight + _pixels(values, row + 1, column + 1) * right_weight
    return above * top_weight + below * bottom_weight


def rippled(images: Tensor, amplitude: float, wavelength: Tensor, phase: Tensor) -> Tensor:
    """The images with rows and columns shifted by sines, uint8 (B, 3, H, W).

    Args:
        images: uint8 (B, 3, H, W).
        amplitude: pixels.
        wavelength: of rows and of columns, pixels, float64 (B, 2).
        phase: radians, float64 (B, 2).
    """
    shape = (len(images), *images.shape[2:])
    waves = []
    for axis in (0, 1):
        point = torch.arange(shape[1 + axis], dtype=torch.float64, device=images.device)
        turn = 2 * math.pi * point / wavelength[:, axis : axis + 1] + phase[:, axis : axis + 1]
        waves.append((point + amplitude * turn.sin()).unsqueeze(2 - axis).expand(shape))
    return sampled(images.double(), *waves).clamp_(0, 255).to(torch.uint8)


def ripple(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images under moving water, uint8 (B, 3, H, W)."""
    side = min(images.shape[2:])
    wavelength = rng.at("wavelength").uniform(index, 2).double().mul_(0.3 - 0.1).add_(0.1).mul_(side)
    phase = rng.at("phase").uniform(index, 2).double().mul_(2 * math.pi)
    return rippled(images, strength[0] * 0.025 / 10 * side, wavelength, phase)


def twirled(images: Tensor, angle: Tensor, patch: int, pinch: float) -> Tensor:
    """The images with a disk in every square patch pinched and twirled, uint8 (B, 3, H, W).

    The published code warps one patch after another, in place. No pixel is taken from a patch that was warped before:
    every point stays in its disk, and beside it only the next row and column are used.

    Args:
        images: uint8 (B, 3, H, W).
        angle: radians, float64 (B, rows of patches, columns of patches).
        patch: side of a patch, pixels.
        pinch: exponent.
    """
    height, width = images.shape[2:]
    rows, columns = angle.shape[1:]
    row = torch.arange(height, dtype=torch.float64, device=images.device)[:, None].expand(height, width)
    column = torch.arange(width, dtype=torch.float64, device=images.device).expand(height, width)
    radius = patch / 2
    own_row, own_column = (row / patch).long(), (column / patch).long()
    centre_down, centre_across = own_row * patch + radius, own_column * patch + radius
    down, across = row - centre_down, column - centre_across
    distance = (down.square() + across.square()).sqrt()
    warped = (distance <= radius) & (distance >= 0.0005) & (own_row < rows) & (own_column < columns)
    share = distance / radius
    grown = (math.pi * 0.5 * share).sin().pow(-pinch)
    place = own_row.clamp(max=rows - 1) * columns + own_column.clamp(max=columns - 1)
    turn = angle.flatten(1)[:, place.flatten()].view(-1, height, width) * (1 - share).square()
    down, across = down * grown, across * grown
    sine, cosine = turn.sin(), turn.cos()
    at = (centre_down + (down * cosine - across * sine), centre_across + (down * sine + across * cosine))
    at_down, at_across = (torch.where(warped, to, stays) for to, stays in zip(at, (row, column), strict=True))
    return sampled(images.float(), at_down, at_across).clamp_(0, 255).to(torch.uint8)


def pinch_and_twirl(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with a grid of small whirls, 3 x 3 of them and 5 x 5 from 224 pixels on; uint8 (B, 3, H, W)."""
    height, width = images.shape[2:]
    side = min(height, width)
    patch = side // (5 if side >= 224 else 3)
    left = rng.at("direction").bits(index, height // patch, width // patch) & 1
    angle = (1 - 2 * left).double().mul_(strength[0] * (math.pi / 2) / 10)
    return twirled(images, angle, patch, strength[0] * 0.4 / 10 + 0.1)
