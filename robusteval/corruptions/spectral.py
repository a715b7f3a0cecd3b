"""Noise of CIFAR-10-C-bar that is made in Fourier space: samples of blue noise, and brownish noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream


def phases(rng: Stream, index: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Random phases, float64 (B, C, H, W) in 0..2 pi; the right half is the left one turned by 180 degrees.

    That is the published symmetry; noise without imaginary part would have the opposite phases there.
    """
    half = rng.at("phases").uniform(index, channels, height, width // 2).double()
    middle = half.new_zeros(len(index), channels, height, 0)
    if width % 2:
        upper = rng.at("middle").uniform(index, channels, height // 2, 1).double()
        centre = upper.new_zeros(len(index), channels, height % 2, 1)
        middle = torch.cat([upper, centre, upper.flip(2)], dim=2)
    return torch.cat([half, middle, half.flip(2, 3)], dim=3).mul_(2 * math.pi)


def distances(height: int, width: int, device: torch.device) -> Tensor:
    """The distance of every frequency from zero, float64 (H, W), zero in the middle; in cycles along the shorter side.

    The published code has squares only.
    """
    side = min(height, width)
    down = (torch.arange(height, dtype=torch.float64, device=device) - height / 2) * (side / height)
    across = (torch.arange(width, dtype=torch.float64, device=device) - width / 2) * (side / width)
    return (across.square() + down.square()[:, None]).sqrt()


def fields(phase: Tensor, power: Tensor) -> Tensor:
    """Noise of standard deviation 1 with these phases and powers, float64 (B, C, H, W).

    Args:
        phase: float64 (B, C, H, W), the frequency zero in the middle.
        power: float64 (H, W), likewise.
    """
    height, width = power.shape
    spectrum = torch.polar(power.expand_as(phase).contiguous(), phase).roll((height // 2, width // 2), (2, 3))
    # One at a time: a transform of several at once may be rounded otherwise than a transform of one.
    made = [torch.fft.ifft2(one).real for one in spectrum.flatten(0, 1)]
    return torch.stack([one / one.std(correction=0) for one in made]).view_as(phase)


def blue_noise_sample(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with the pixels black where blue noise lies below a threshold, uint8 (B, 3, H, W)."""
    height, width = images.shape[2:]
    noise = fields(phases(rng, index, 1, height, width), distances(height, width, images.device))
    return images * (noise > strength[0] * 3 / 10 - 2.5)


def brownish_noise(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with noise that is stronger the larger its blotches are, uint8 (B, 3, H, W)."""
    height, width = images.shape[2:]
    power = 1 / (distances(height, width, images.device).square() + 1)
    noise = fields(phases(rng, index, 3, height, width), power)
    return noise.mul_(strength[0] * 64 / 10).add_(images).clamp_(0, 255).to(torch.uint8)
