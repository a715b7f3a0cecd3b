"""What hides parts of an image in CIFAR-10-C-bar: grey squares of a board, grey lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream

_GREY = 128

_CELLS = 40
"""The most squares along a board's side: it is four times as long as the image's, its squares at least a tenth."""


def covered(angle: Tensor, square: Tensor, cells: Tensor, height: int, width: int) -> Tensor:
    """Where the squares of turned boards lie on an image, bool (B, H, W).

    Args:
        angle: by which each board is turned, radians, float64 (B,).
        square: the side of its squares in pixels, float64 (B,).
        cells: which of its squares hide what is below them, bool (B, 40, 40); of these, those that are black.
        height: of the images.
        width: of the images.
    """
    row = torch.arange(height, dtype=torch.float64, device=angle.device)[:, None]
    column = torch.arange(width, dtype=torch.float64, device=angle.device)
    sine, cosine, size = (part.view(-1, 1, 1) for part in (angle.sin(), angle.cos(), square))
    down = (cosine * row + sine * column) / size
    across = (-sine * row + cosine * column) / size
    black = down.remainder(2).long() == across.remainder(2).long()
    # The published code cuts coordinates off towards zero, and counts negative ones from the board's other end.
    count = torch.full_like(size, 4 * min(height, width)).floor_divide(size).long()
    place = down.long().remainder(count) * _CELLS + across.long().remainder(count)
    return cells.flatten(1).gather(1, place.flatten(1)).view_as(black) & black


def checkerboard_cutout(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with some squares of a turned board made grey, uint8 (B, 3, H, W)."""
    height, width = images.shape[2:]
    angle = rng.at("angle").uniform(index, 1).squeeze(1).double().mul_(2 * math.pi)
    square = rng.at("square").uniform(index, 1).squeeze(1).double().mul_(0.25 - 0.1).add_(0.1)
    square = square.mul_(min(height, width)).clamp_(min=1)
    cells = rng.at("cells").uniform(index, _CELLS, _CELLS).double() < strength[0] / 10
    hidden = covered(angle, square, cells, height, width).unsqueeze(1)
    return images.masked_fill(hidden, _GREY)


def strokes(start: Tensor, end: Tensor, height: int, width: int) -> Tensor:
    """How much of each pixel a line covers, float64 (N, H, W): the anti-aliased lines of Zingl (2012).

    A line goes on outside of the picture, and a pixel that it meets twice is covered as it was the second time, as in
    scikit-image's ``line_aa``.

    Args:
        start: rows and columns, int64 (N, 2).
        end: the same.
        height: of the picture.
        width: of the picture.
    """
    (row, column), (last_row, last_column) = start.unbind(1), end.unbind(1)
    tall, wide = (row - last_row).abs(), (column - last_column).abs()
    down, right = (torch.where(end > start, 1, -1)).unbind(1)
    length = (tall * tall + wide * wide).double().sqrt()
    length = torch.where(tall + wide == 0, 1, length)
    error = wide - tall
    # What lies outside of the picture is drawn on one more pixel at the end.
    canvas = torch.zeros(len(start), height * width + 1, dtype=torch.float64, device=start.device)

    def draw(where: Tensor, at_row: Tensor, at_column: Tensor, distance: Tensor) -> None:
        inside = where & (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        place = torch.where(inside, at_row * width + at_column, height * width)
        canvas.scatter_(1, place[:, None], (1 - distance.abs() / length)[:, None])

    going = torch.ones_like(row, dtype=torch.bool)
    while bool(going.any()):
        draw(going, row, column, error - wide + tall)
        before, beside = error, column + right
        step = going & (2 * before >= -wide)
        going = going & ~(step & (column == last_column))
        step &= going
        draw(step & (before + tall < length), row + down, column, before + tall)
        error, column = error - tall * step, column + right * step
        step = going & (2 * before <= tall)
        going = going & ~(step & (row == last_row))
        step &= going
        draw(step & (wide - before < length), row, beside, wide - before)
        error, row = error + wide * step, row + down * step
    return canvas[:, :-1].view(-1, height, width)


def drawn_over(images: Tensor, ends: Tensor) -> Tensor:
    """The images with grey lines over them, one after another, uint8 (B, 3, H, W).

    Args:
        images: uint8 (B, 3, H, W).
        ends: rows and columns of both ends of each line, int64 (B, lines, 2, 2).
    """
    batch, lines_, height, width = *ends.shape[:2], *images.shape[2:]
    flat = ends.flatten(0, 1)
    cover = strokes(flat[:, 0], flat[:, 1], height, width).view(batch, lines_, 1, height, width)
    values = images.double()
    for stroke in cover.unbind(1):
        values = ((1 - stroke) * values + stroke * _GREY).floor_()  # to bytes after every line
    return values.to(torch.uint8)


def lines(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images scratched by grey lines of similar directions, uint8 (B, 3, H, W)."""
    height, width = images.shape[2:]
    side = min(height, width)
    count = int(strength[0] / 10 * side)
    angle = rng.at("angle").uniform(index, 1).double().mul_(2 * math.pi)
    spread = rng.at("spread").uniform(index, 1).double().mul_(1 - 0.1).add_(0.1)
    middle = rng.at("middle").uniform(index, count, 2).double() * torch.tensor([height, width], device=images.device)
    turned = angle + 2 * math.pi * spread * (rng.at("turn").uniform(index, count).double() - 0.5)
    # As published, the cosine counts along the rows' axis.
    reach = torch.stack((turned.cos(), turned.sin()), dim=2).mul_(side)
    return drawn_over(images, torch.stack((middle - reach, middle + reach), dim=2).long())
