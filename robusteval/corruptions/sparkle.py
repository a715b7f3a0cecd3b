"""Lights with rays, of CIFAR-10-C-bar: sparkles on an image, and an image that is lit in the middle only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream

_FEWEST, _MOST = 50, 199
"""Rays of a light."""

_LIGHTS = 5


def light(centre: Tensor, lengths: Tensor, count: Tensor, height: int, width: int, *, fall: float) -> Tensor:
    """The brightness of one light per image, float64 (B, H, W) in 0..1.

    Args:
        centre: row and column in pixels, float64 (B, 2).
        lengths: of its rays in pixels, float64 (B, 199), of which the first ones count.
        count: number of rays, int64 (B,).
        height: of the images.
        width: of the images.
        fall: exponent of the fall with the squared distance.
    """
    down = torch.arange(height, dtype=torch.float64, device=centre.device)[:, None] - centre[:, :1, None]
    across = torch.arange(width, dtype=torch.float64, device=centre.device) - centre[:, 1:, None]
    squared = (down.square() + across.square()).sqrt().square()
    rays = count.view(-1, 1, 1)
    turn = (torch.atan2(across, down) + math.pi) / (2 * math.pi) * rays
    ray = turn.long()
    part = turn - ray
    near, far = (lengths.gather(1, (some % rays).flatten(1)).view_as(part) for some in (ray, ray + 1))
    length = near + part * (far - near)
    bright = (length.square() / (squared + 1e-4)).pow(fall)
    return (1 - (part - 0.5).square()).mul_(bright).clamp_(0, 1)


def _lengths(rng: Stream, index: Tensor, lights: int, radius: float) -> Tensor:
    """Lengths of rays, a quarter of the radius around it; float64 (B, lights, 199)."""
    return rng.at("lengths").normal(index, lights, _MOST).double().mul_(25 / 100 * radius).add_(radius)


def _counts(rng: Stream, index: Tensor, lights: int) -> Tensor:
    """Numbers of rays, int64 (B, lights)."""
    return rng.at("rays").integers(index, _MOST + 1 - _FEWEST, lights) + _FEWEST


def sparkles(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images under five white lights with rays, uint8 (B, 3, H, W)."""
    height, width = images.shape[2:]
    size = torch.tensor([height, width], dtype=torch.float64, device=images.device)
    centres = rng.at("centres").uniform(index, _LIGHTS, 2).double() * size
    lengths = _lengths(rng, index, _LIGHTS, strength[0] * 0.1 / 10 * min(height, width)).clamp_(min=1)
    counts = _counts(rng, index, _LIGHTS)
    values = images.double()
    for one in range(_LIGHTS):
        bright = light(centres[:, one], lengths[:, one], counts[:, one], height, width, fall=1).unsqueeze(1)
        values = values.float().double()  # as published, before every light
        values = values + bright * (255 - values)
    return values.clamp_(0, 255).to(torch.uint8)


def inverse_sparkles(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images seen through one hole with rays in a white surface, uint8 (B, 3, H, W)."""
    height, width = images.shape[2:]
    size = torch.tensor([height, width], dtype=torch.float64, device=images.device)
    centre = rng.at("centre").uniform(index, 2).double().mul_(0.75 - 0.25).add_(0.25) * size
    lengths = _lengths(rng, index, 1, 0.25 * min(height, width)).squeeze(1)
    count = _counts(rng, index, 1).squeeze(1)
    bright = light(centre, lengths, count, height, width, fall=strength[0] * 65 / 10 / 50).unsqueeze(1)
    return (255 + bright * (images.double() - 255)).clamp_(0, 255).to(torch.uint8)
