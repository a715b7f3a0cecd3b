"""Balls around images, cut with the pixel range [0, 1]: steps inside them, projections, random points.

Bounds hold for the numbers as stored, not up to rounding: an Linf example is nowhere further from its image
than epsilon (compared in float64), an L2 example not further than ``epsilon * (1 + 1e-6)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from robusteval.options import Norm
from robusteval.randomness import Stream

_ROUNDING = 2.0**-24
"""The most by which ``x + radius`` can miss a value in [0, 1] in float32: half a last place, twice (radius, sum)."""


class Ball(Protocol):
    """The images within epsilon of x (float32 (B, ...) in [0, 1]) whose values are in [0, 1]."""

    def __init__(self, x: Tensor, epsilon: float) -> None: ...

    def point(self, delta: Tensor) -> Tensor:
        """The projection of ``x + delta``."""

    def step(self, point: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The point moved by ``size`` in the norm's direction of steepest ascent, projected.

        The size is a number or (B, 1, ...). Samples whose gradient is zero stay; an entry that is not a number counts
        as zero.
        """


class LinfBall:
    """A `Ball` in the maximum norm."""

    def __init__(self, x: Tensor, epsilon: float) -> None:
        self.x = x
        radius = max(epsilon - _ROUNDING, 0.0)  # cheaper than exact rounding, and no attack misses 6e-8
        self.low, self.high = (x - radius).clamp_(min=0), (x + radius).clamp_(max=1)

    def point(self, delta: Tensor) -> Tensor:
        """See `Ball`."""
        return torch.clamp(self.x + delta, self.low, self.high)

    def step(self, point: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """See `Ball`; the direction is the gradient's sign."""
        return torch.clamp(point + size * gradient.sign(), self.low, self.high)


class L2Ball:
    """A `Ball` in the Euclidean norm. Clipping to [0, 1] follows the projection and only shortens."""

    def __init__(self, x: Tensor, epsilon: float) -> None:
        self.x = x
        self.epsilon = epsilon

    def point(self, delta: Tensor) -> Tensor:
        """See `Ball`."""
        scale = self.epsilon / _norm(delta).clamp(min=max(self.epsilon, torch.finfo(torch.float64).tiny))
        delta = delta * scale.to(delta.dtype)
        there = (self.x + delta).clamp_(0, 1)
        # Rounding may add 3e-8 a pixel, more than 1e-6 over an image of one colour: round towards x instead.
        return torch.where((there - self.x).abs_() > delta.abs(), torch.nextafter(there, self.x), there)

    def step(self, point: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """See `Ball`; the direction is the gradient scaled to length 1."""
        return self.point(point - self.x + size * _unit(gradient))


BALLS: Mapping[Norm, type[Ball]] = {"Linf": LinfBall, "L2": L2Ball}


def distance(x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """The distance of each sample of x from its counterpart in y, float64 (B,)."""
    return length((y.double() - x.double()).flatten(1), norm)


def length(rows: Tensor, norm: Norm) -> Tensor:
    """The norm of each row of a matrix (B, n); in Linf ten times as fast as torch's own on a CPU."""
    if norm == "Linf":
        return rows.abs().amax(dim=1)
    euclidean: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return euclidean


class OutsideTheBall(RuntimeError):
    """An attack handed back what its threat model does not allow: a mistake of the attack."""


def check_inside(x: Tensor, examples: Tensor, *, norm: Norm, epsilon: float) -> None:
    """Looks at every example.

    Args:
        x: float32 (B, ...) the images.
        examples: what an attack made of them.
        norm: the ball's norm.
        epsilon: its radius.

    Raises:
        OutsideTheBall: an example is further than epsilon from its image, or has values outside [0, 1] or no numbers.
    """
    far = distance(x, examples, norm)
    within = far <= epsilon * (1 + 1e-6 * (norm == "L2"))
    flat = examples.flatten(1)
    fine = within & ((flat >= 0) & (flat <= 1)).all(dim=1)  # a comparison with NaN is false
    if not bool(fine.all()):
        raise OutsideTheBall(
            f"{int((~fine).sum())} of {len(x)} examples are outside the {norm} ball of radius {epsilon:.6g} "
            f"or the pixel range (furthest: {float(far.max()):.6g})"
        )


def random_start(x: Tensor, *, epsilon: float, norm: Norm, rng: Stream, index: Tensor) -> Tensor:
    """A perturbation of each image, uniform in the ball of radius epsilon; shape and layout of x.

    The draw of a sample depends on the stream and on its index only. Whether ``x`` plus it is in [0, 1] is
    the attack's concern.

    Args:
        x: float32 (B, ...), unchanged.
        epsilon: the radius.
        norm: the ball's norm.
        rng: the stream.
        index: int64 (B,) numbers of the samples, on the device of x.
    """
    shape = x.shape[1:]
    if norm == "Linf":
        delta = (2 * rng.uniform(index, *shape) - 1) * _not_above(epsilon)
    else:
        # Uniform in a d-dimensional ball: an isotropic direction, and a radius whose d-th power is uniform.
        normal = rng.at("direction").normal(index, *shape)
        radius = epsilon * rng.at("radius").uniform(index).double() ** (1 / shape.numel())
        delta = normal * (radius.view(-1, *[1] * len(shape)) / _norm(normal)).to(normal.dtype)
    return torch.empty_like(x).copy_(delta)


def _not_above(epsilon: float) -> float:
    """The greatest float32 that is not above epsilon (the nearest one to 8/255 is)."""
    nearest = np.float32(epsilon)
    return float(nearest if float(nearest) <= epsilon else np.nextafter(nearest, np.float32(0)))


def _norm(delta: Tensor) -> Tensor:
    """The Euclidean norm of each sample, float64 (B, 1, ...): float32 sums over an image miss 1e-6."""
    dims = tuple(range(1, delta.ndim))
    length: Tensor = torch.linalg.vector_norm(delta, dim=dims, keepdim=True, dtype=torch.float64)
    return length


def _unit(gradient: Tensor) -> Tensor:
    """The gradient of each sample scaled to length 1, or 0 where it is zero.

    Divided by its peak first: squares of the tiny gradients of saturated logits underflow.
    """
    finite = torch.nan_to_num(gradient, nan=0.0)
    tiny = torch.finfo(finite.dtype).tiny
    finite = finite / finite.abs().amax(dim=tuple(range(1, finite.ndim)), keepdim=True).clamp(min=tiny)
    return finite / _norm(finite).clamp(min=tiny).to(finite.dtype)
