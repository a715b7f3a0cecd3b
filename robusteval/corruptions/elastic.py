"""The elastic transform: a random affine map, then a random smooth displacement."""

from __future__ import annotations

import torch
from torch import Tensor

from robusteval.corruptions.filters import Border, gaussian, planes, truncated
from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream


def _beside(
    at: Tensor, size: int, border: Border, *, near: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two pixels beside real coordinates, each as its place in 0..size-1 (int32) and its weight.

    ``near`` promises that nothing lies more than a side outside.
    """
    low = at.floor()
    part = at - low
    last = size - 1
    edge = 0 if border == "mirror" else 1
    left = low.to(torch.int32)
    places = [left, left + 1]
    for turn, place in enumerate(places):
        # One fold at each end, or all that it takes.
        place = torch.maximum(place, -edge - place) if near else place.remainder(2 * (last + edge))
        places[turn] = torch.minimum(place, 2 * last + edge - place)
    return (places[0], 1 - part), (places[1], part)


def bilinear(values: Tensor, down: Tensor, across: Tensor, border: Border, *, near: bool = False) -> Tensor:
    """The values at real coordinates, interpolated from the four pixels around, in the coordinates' float type.

    Args:
        values: float32 (C, B, H, W).
        down: rows in pixels (B, H, W), float32 or float64.
        across: columns, of the same type.
        border: ``mirror`` or ``reflect`` as in `filters.padded`.
        near: whether no coordinate lies more than a side outside, which is faster.
    """
    channels, batch, height, width = values.shape
    flat = values.reshape(channels, -1)
    start = torch.arange(batch, device=values.device, dtype=torch.int32).view(-1, 1, 1) * (height * width)
    total = torch.zeros_like(flat, dtype=down.dtype)
    columns = _beside(across, width, border, near=near)
    for row, row_weight in _beside(down, height, border, near=near):
        line = row * width + start
        for column, column_weight in columns:
            part = flat.index_select(1, (line + column).flatten())
            total += part * (row_weight * column_weight).flatten()
    return total.view_as(values)


def affine(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of a picture come from, whose three fixed points moved; float32 (B, H, W) down and across.

    Coordinates are multiples of 1/32 pixel, rounded as OpenCV 3 and 4 do.

    Args:
        points: by how much the points move, float64 (B, 3, 2) in (x, y).
        height: of the picture.
        width: of the picture.
    """
    # The published code takes the centre from (rows, columns) and uses it as (x, y).
    third = min(height, width) // 3
    centre = torch.tensor([height // 2, width // 2], dtype=torch.float64, device=points.device)
    signs = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64, device=points.device)
    to = centre + third * signs + points
    a, c = ((to[:, 1] - to[:, 2]) / (2 * third)).unbind(1)
    b, d = ((to[:, 0] - to[:, 1]) / (2 * third)).unbind(1)
    left, top = (centre - third).tolist()
    # Where the picture is square, the last terms are zero and change no bit.
    x = to[:, 2, 0] - ((a + b) * left + b * (top - left))
    y = to[:, 2, 1] - ((c + d) * top + c * (left - top))
    determinant = a * d - b * c
    # Three points on a line have no inverse; the matrix is then zero, as in OpenCV.
    one = torch.where(determinant == 0, 0, 1 / determinant)
    column = torch.arange(width, dtype=torch.float64, device=points.device)
    row = torch.arange(height, dtype=torch.float64, device=points.device)

    def fixed(coordinates: Tensor) -> Tensor:
        # Three points near a line lead beyond what a whole number holds.
        return coordinates.mul_(1024).round_().clamp_(-(2**29), 2**29).to(torch.int32)

    def source(along: Tensor, over: Tensor, start: Tensor) -> Tensor:
        lines = fixed(over[:, None] * row + start[:, None]) + 16
        steps = fixed(along[:, None] * column)
        return ((lines[:, :, None] + steps[:, None, :]) >> 5).float().div_(32)

    across = source(d * one, -b * one, (b * y - d * x) * one)
    down = source(-c * one, a * one, (c * x - a * y) * one)
    return down, across


def elastic_transform(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images sheared by a random affine map and stretched like rubber, uint8 (B, 3, H, W)."""
    batch, _, height, width = images.shape
    alpha, sigma, shift = (min(height, width) * share for share in strength)
    # Checked for CIFAR's strengths at its size; stronger ones, and pictures that are not square, may lead anywhere.
    near = height == width >= 32 and strength[0] <= 0.1 and strength[2] <= 0.08
    points = rng.at("points").uniform(index, 3, 2).double().mul_(2).sub_(1).mul_(shift)
    values = images.transpose(0, 1).float().div_(255)
    values = bilinear(values, *affine(points, height, width), border="mirror", near=near)
    if alpha > 0:
        noise = rng.at("displacement").uniform(index, 2, height, width).double().mul_(2).sub_(1)
        smooth = gaussian(planes(noise), sigma, truncate=3, border="reflect").mul_(alpha).float().double()
        across, down = smooth.view(height, width, batch, 2).permute(3, 2, 0, 1).contiguous()
        down += torch.arange(height, device=images.device)[:, None]
        across += torch.arange(width, device=images.device)
        values = bilinear(values, down, across, border="reflect", near=near).float()
    return truncated(values).transpose(0, 1).contiguous()
