"""Intervals of shares and means."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ROUNDING = 1e-12
"""Numbers that differ by less than this share of them are the same: the order of a sum's terms makes as much."""


class Interval(NamedTuple):
    """A confidence interval, ends included."""

    low: float
    high: float


def wilson(k: float, n: int, level: float = 0.95) -> Interval:
    """The score interval of a proportion (Wilson, 1927, doi:10.1080/01621459.1927.10502953).

    It inverts the normal test of ``k / n`` with the variance under the hypothesis, so it lies in [0, 1],
    is never empty of width and is exact at its ends: the low end is 0 for k = 0, the high end 1 for k = n.

    At 95 % it covers 95 % of the time on average over shares, and at each share 94 to 96 % where 50 successes and 50
    failures are to be expected; at the worst share it covers 93 % where 5 are, 91 % where 1 is, 84 % where 0.18 is.

    Args:
        k: successes, in [0, n]; a sum of scores in [0, 1] need not be whole.
        n: trials, at least 1.
        level: the coverage, in (0, 1).

    >>> [round(end, 4) for end in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    assert n >= 1, "an interval needs a trial"
    assert 0 <= k <= n, "successes lie in [0, n]"
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, square = k / n, z * z / n
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # At k = n the high end is 1 in real arithmetic; rounding must not move it.
    return Interval(max(centre - half, 0.0), 1.0 if k == n else min(centre + half, 1.0))


def mean_interval(scores: npt.ArrayLike, level: float = 0.95) -> Interval:
    """The t interval of the mean of independent scores in [0, 1], clipped to [0, 1].

    For a mean over many cells of the same images, give each image's mean over the cells: images are the
    independent units, image-cell pairs are not. Where nearly all images have the same score it covers less than it
    says, as the t interval of right-or-wrong outcomes does; for these, `wilson`.

    Where all scores are equal (one score included) the t interval would have no width and claim certainty.
    The interval is then `wilson` of the mean with one trial an image: of all distributions on [0, 1] with
    that mean, right-or-wrong outcomes vary most.

    Args:
        scores: (n,), each in [0, 1], n at least 1.
        level: the coverage, in (0, 1).

    >>> [round(end, 4) for end in mean_interval([0.5, 0.7, 0.9])]
    [0.2032, 1.0]
    """
    from scipy.special import stdtrit

    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    assert values.ndim == 1, "one score an image"
    assert n >= 1, "an interval needs a score"
    assert values.min() >= 0, "scores are fractions"
    assert values.max() <= 1, "scores are fractions"
    if all_the_same(values):
        return wilson(float(values[0]) * n, n, level)
    mean = float(values.mean())
    half = float(stdtrit(n - 1, (1 + level) / 2)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(max(mean - half, 0.0), min(mean + half, 1.0))


def t_interval(
    values: npt.ArrayLike, *, low: float = -math.inf, high: float = math.inf, level: float = 0.95
) -> Interval | None:
    """The t interval of the mean of independent numbers, clipped to their range; None where they do not vary.

    Equal numbers (one number included) say nothing about their spread, and nothing else does: unlike scores in
    [0, 1] (`mean_interval`), numbers such as distances have no known bounds.

    Args:
        values: (n,), n at least 1.
        low: the least that such a number can be.
        high: the most.
        level: the coverage, in (0, 1).

    >>> [round(end, 4) for end in t_interval([5.0, 7.0, 9.0])], t_interval([5.0, 5.0])
    ([2.0317, 11.9683], None)
    """
    from scipy.special import stdtrit

    numbers = np.asarray(values, dtype=np.float64)
    n = len(numbers)
    assert numbers.ndim == 1, "one number a unit"
    assert n >= 1, "an interval needs a number"
    assert low <= numbers.min() <= numbers.max() <= high, "numbers outside their range"
    if all_the_same(numbers):
        return None
    mean = float(numbers.mean())
    half = float(stdtrit(n - 1, (1 + level) / 2)) * float(numbers.std(ddof=1)) / math.sqrt(n)
    return Interval(max(mean - half, low), min(mean + half, high))


def all_the_same(numbers: npt.NDArray[np.float64]) -> bool:
    """Whether the numbers differ by no more than rounding, and so tell nothing of their spread."""
    return bool(np.ptp(numbers) <= ROUNDING * np.abs(numbers).max())
