"""The ball holds for hostile floats, and random points fill it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats as reference
from torch import Tensor

from robusteval.attacks.geometry import L2Ball, LinfBall, distance, random_start
from robusteval.options import Norm
from robusteval.randomness import Stream

RADII = [0.0, 1e-9, 1e-3, 1 / 255, 8 / 255, 0.1, 0.5, 1.0]


def hostile() -> Tensor:
    """Values in [0, 1] that round badly: grey levels, their neighbours, subnormals, ends, random ones (4, 3, 16, 16)"""
    grey = torch.arange(256) / 255
    near = torch.cat([torch.nextafter(grey, torch.tensor(0.0)), torch.nextafter(grey, torch.tensor(1.0))])
    odd = torch.tensor([0.0, 1.0, 1e-45, 1e-38, 2.0**-24, 1 - 2.0**-24, 0.5, 1 / 3, 8 / 255, 16 / 255])
    drawn = Stream.of(1).uniform(torch.arange(1), 4 * 3 * 16 * 16 - 768 - len(odd))[0]
    return torch.cat([grey, near, odd, drawn]).clamp(0, 1).view(4, 3, 16, 16)


def exact_distance(x: Tensor, y: Tensor) -> Fraction:
    """The largest difference in rational arithmetic."""
    pairs = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
    return max(abs(Fraction(a) - Fraction(b)) for a, b in pairs)


@pytest.mark.parametrize("epsilon", RADII)
def test_linf_examples_are_in_the_ball_exactly(epsilon: float) -> None:
    x = hostile()
    ball = LinfBall(x, epsilon)
    signs = torch.where(torch.arange(x.numel()).view_as(x) % 2 == 0, 1.0, -1.0)
    for there in (
        ball.point(2 * epsilon * signs),
        ball.step(x, signs, 2 * epsilon + 1e-6),
        ball.point(-signs * epsilon),
    ):
        assert exact_distance(x, there) <= Fraction(epsilon)
        assert there.min() >= 0
        assert there.max() <= 1
        # ... and it reaches the border of the ball or of the pixel range, up to the rounding of an image's values.
        reached = (there - x).abs().double()
        assert ((reached > epsilon - 1.3e-7) | (there == 0) | (there == 1)).all()


@pytest.mark.parametrize("epsilon", RADII)
def test_l2_examples_are_in_the_ball(epsilon: float) -> None:
    x = torch.cat([hostile(), torch.full((1, 3, 16, 16), 0.5 + 2.0**-24)])  # the last is of one colour: errors add up
    ball = L2Ball(x, epsilon)
    delta = Stream.of(2).normal(torch.arange(5), 3, 16, 16)
    delta[4] = 1.0
    for there in (
        ball.point(delta),
        ball.step(x, delta, 2 * epsilon + 1e-6),
        ball.step(ball.point(delta), -delta, 0.3),
    ):
        assert (distance(x, there, "L2") <= epsilon * (1 + 1e-6)).all()
        assert there.min() >= 0
        assert there.max() <= 1


def test_l2_projection_is_the_nearest_point_of_the_ball() -> None:
    x = torch.full((2, 3, 4, 4), 0.5)
    delta = torch.zeros_like(x)
    delta[0, 0, 0, :2] = torch.tensor([0.3, -0.4])  # length 0.5: halved
    delta[1, 0, 0, :2] = torch.tensor([0.03, -0.04])  # inside: kept
    there = L2Ball(x, 0.25).point(delta)
    torch.testing.assert_close(there - x, torch.stack([delta[0] / 2, delta[1]]))


def test_samples_without_a_gradient_stay() -> None:
    x = hostile()
    gradient = torch.ones_like(x)
    gradient[1] = 0
    gradient[2] = torch.nan
    for ball in (LinfBall(x, 0.1), L2Ball(x, 0.1)):
        there = ball.step(x, gradient, 0.05)
        assert (there[0] != x[0]).any()
        assert (there[1:3] == x[1:3]).all()


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1e20, 1e38])
def test_l2_direction_survives_tiny_and_huge_gradients(scale: float) -> None:
    """The squares of these leave float32 (and those of subnormal ones float64 too)."""
    x = torch.full((1, 3, 4, 4), 0.5)
    pattern = torch.where(torch.arange(48).view_as(x) % 3 == 0, 1.0, -1.0)
    moved_by = L2Ball(x, 0.2).step(x, pattern * scale, 0.1) - x
    torch.testing.assert_close(moved_by, 0.1 * pattern / 48**0.5)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_random_starts_are_uniform_in_the_ball(norm: Norm) -> None:
    """Per coordinate (Linf) and in the d-th power of the radius (L2); both closed forms, by Kolmogorov and Smirnov."""
    x = torch.full((4000, 1, 2, 3), 0.5)
    epsilon = 8 / 255
    delta = random_start(x, epsilon=epsilon, norm=norm, rng=Stream.of(4), index=torch.arange(4000))
    assert (distance(torch.zeros_like(x), delta, norm) <= epsilon * (1 + 1e-6 * (norm == "L2"))).all()
    if norm == "Linf":
        share = (delta.flatten().double().numpy() / epsilon + 1) / 2
    else:
        share = (distance(torch.zeros_like(x), delta, norm).numpy() / epsilon) ** 6
        turned = delta.flatten(1)
        assert turned.mean(0).abs().max() < 4 * epsilon / 4000**0.5  # no preferred direction ...
        spread = np.corrcoef(turned.T.numpy())
        assert np.abs(spread - np.eye(6)).max() < 4 / 4000**0.5  # ... nor plane
    assert reference.kstest(share, "uniform").pvalue > 0.01


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_start_depends_on_the_sample_only(norm: Norm) -> None:
    x = hostile().contiguous(memory_format=torch.channels_last)
    index = torch.tensor([7, 2, 2**40, 0])
    whole = random_start(x, epsilon=0.1, norm=norm, rng=Stream.of(5), index=index)
    alone = random_start(x[1:2], epsilon=0.1, norm=norm, rng=Stream.of(5), index=index[1:2])
    assert (whole[1] == alone[0]).all()
    assert not (whole[0] == whole[1]).any()
    assert (whole != random_start(x, epsilon=0.1, norm=norm, rng=Stream.of(6), index=index)).any()
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert (random_start(x, epsilon=0.0, norm=norm, rng=Stream.of(5), index=index) == 0).all()


@pytest.mark.parametrize("epsilon", RADII)
def test_the_most_extreme_draw_is_in_the_ball(epsilon: float) -> None:
    """8/255 and 0.1 are nearer to a float32 above than to the one below."""

    class Least(Stream):
        def uniform(self, index: Tensor, *shape: int) -> Tensor:
            return torch.zeros(len(index), *shape)

    x = hostile()
    delta = random_start(x, epsilon=epsilon, norm="Linf", rng=Least(b""), index=torch.arange(4))
    assert (delta.double() >= -epsilon).all()
    torch.testing.assert_close(delta.double(), torch.full_like(x, -epsilon, dtype=torch.float64), rtol=2e-7, atol=0)
