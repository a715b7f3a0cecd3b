"""What the Square Attack does in L2 (Andriushchenko et al., 2020, arXiv:1912.00049): bumps on perturbations."""

from __future__ import annotations

import torch
from torch import Tensor

from robusteval.randomness import Stream


def bump(side: int) -> Tensor:
    """A hill above a valley, float32 (side, side) of Euclidean norm 1, as in the paper."""
    upper = side // 2
    both = torch.empty(side, side)
    both[:upper], both[upper:] = _hill(upper, side), -_hill(side - upper, side)
    return both / length(both, (0, 1))


def _hill(height: int, width: int) -> Tensor:
    """Sums of 1 / k**2, fewer further from the middle in the maximum norm; of Euclidean norm 1."""
    most = max(height, width) // 2 + 1
    row, column = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    off = torch.maximum(row.abs()[:, None], column.abs()[None, :])
    tails = torch.arange(1, most + 1).double().pow(-2).flip(0).cumsum(0).flip(0)
    hill = tails[off].float()
    return hill / length(hill, (0, 1))


def grid(rng: Stream, index: Tensor, shape: torch.Size) -> Tensor:
    """Bumps side by side, each a fifth of the image wide, in the middle of it: float32, of the shape.

    Args:
        rng: of the bumps' signs and turns.
        index: int64 (B,) numbers of the images.
        shape: (B, C, H, W).
    """
    _, channels, height, width = shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    up = (rng.bits(index, channels, rows, columns) < 0)[..., None, None]
    hill = bump(side).to(index.device)
    hills = torch.stack([hill, hill.T])
    # The published code turns the bumps of all images alike.
    turned = rng.at("turn").bits(index, rows, columns) < 0
    tiles = hills[turned.long()].unsqueeze(1)
    tiles = torch.where(up, tiles, -tiles)
    delta = torch.zeros(len(index), *shape[1:], device=index.device)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    delta[:, :, top : top + rows * side, left : left + columns * side] = tiles.transpose(3, 4).reshape(
        len(index), channels, rows * side, columns * side
    )
    return delta


def moved(delta: Tensor, bumps: Tensor, to: Tensor, source: Tensor, epsilon: float) -> Tensor:
    """The perturbations after a second window's length has gone to a first, which a bump deforms.

    The share of the ball that clipping to the pixel range had left unused is divided among the channels.

    Args:
        delta: float32 (B, C, H, W) the perturbations.
        bumps: of its shape; what deforms the first window, 0 outside.
        to: bool (B, 1, H, W), the first window.
        source: bool, the second.
        epsilon: radius of the ball.
    """
    window = torch.where(to, delta, 0)
    both = length(torch.where(to | source, delta, 0), (2, 3)).square()
    unused = (epsilon**2 - length(delta, (1, 2, 3)).square()).clamp(min=0) / delta.shape[1]
    shape = bumps + window / (length(window, (2, 3)) + 1e-12)
    shape = shape / (length(shape, (2, 3)) + 1e-12) * (unused + both).sqrt()
    return torch.where(to, shape, torch.where(source, 0, delta))


def length(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The Euclidean norm along some axes, which stay."""
    euclidean: Tensor = torch.linalg.vector_norm(values, dim=dims, keepdim=True)
    return euclidean
