"""Two networks on the same images: the exact test of McNemar, and the difference of their shares with its interval."""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.stats.intervals import Interval

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

HALVINGS = 60
"""Bisections of an interval of length 2 at most: what is left is below the rounding of its ends."""


class Paired(NamedTuple):
    """The comparison of two vectors of outcomes of the same images.

    Attributes:
        n: images.
        first_only, second_only: images that only the first or only the second is right on.
        difference: the first's share of right outcomes less the second's.
        interval: of the difference (`difference_interval`).
        p: of the hypothesis that both are right equally often (`mcnemar`).
    """

    n: int
    first_only: int
    second_only: int
    difference: float
    interval: Interval
    p: float


def paired(
    first: npt.ArrayLike, second: npt.ArrayLike, *, test: Literal["exact", "mid"] = "exact", level: float = 0.95
) -> Paired:
    """The comparison of two networks by their outcomes on the same images.

    The test is exact and the interval is not, so where p is close to ``1 - level`` the one may exclude equality and
    the other not; the test decides.

    Args:
        first: (n,) booleans, n at least 1: which images it gets right.
        second: the other's, of the same images in the same order.
        test: see `mcnemar`.
        level: the coverage of the interval, in (0, 1).

    >>> found = paired([True] * 9 + [False], [True] * 3 + [False] * 7)
    >>> found.first_only, found.second_only, round(found.difference, 3), found.p
    (6, 0, 0.6, 0.03125)
    """
    one, two = np.asarray(first), np.asarray(second)
    assert one.dtype == two.dtype == np.bool_, "outcomes are right or wrong"
    assert one.ndim == 1, "one outcome an image"
    assert one.shape == two.shape, "the same images"
    n = len(one)
    b, c = int((one & ~two).sum()), int((~one & two).sum())
    low, high = difference_interval(b, c, n, level)
    return Paired(n, b, c, (b - c) / n, Interval(float(low), float(high)), float(mcnemar(b, c, test=test)))


def mcnemar(
    first_only: npt.ArrayLike, second_only: npt.ArrayLike, *, test: Literal["exact", "mid"] = "exact"
) -> Floats:
    """The p-value of equal shares, from the images on which exactly one of the two is right (McNemar, 1947).

    Under the hypothesis each such image is the first's with probability 1/2, so ``exact`` is the two-sided binomial
    test: never too often significant, whatever the number of images. ``mid`` counts half of the probability of the
    observed split; it keeps its level on average over the number of such images though not for each number, and is
    more powerful where they are few (Fagerland et al., 2013, doi:10.1186/1471-2288-13-91).

    Args:
        first_only: counts, any shape.
        second_only: counts of the same shape.
        test: ``exact`` or ``mid``.

    >>> float(mcnemar(1, 6)), float(mcnemar(1, 6, test="mid"))
    (0.125, 0.0703125)
    """
    from scipy.special import bdtr

    b, c = np.asarray(first_only, dtype=np.int64), np.asarray(second_only, dtype=np.int64)
    assert b.min() >= 0 <= c.min(), "counts"
    fewer, all_of_them = np.minimum(b, c), b + c
    upto = bdtr(fewer, all_of_them, 0.5)
    below = np.where(fewer > 0, bdtr(np.maximum(fewer - 1, 0), all_of_them, 0.5), 0.0) if test == "mid" else upto
    p: Floats = np.minimum(2 * upto if test == "exact" else upto + below, 1.0)
    return p


def difference_interval(
    first_only: npt.ArrayLike, second_only: npt.ArrayLike, n: int, level: float = 0.95
) -> tuple[Floats, Floats]:
    """The ends of the score interval of the difference of two paired shares (Tango, 1998, Stat. Med. 17:891-908).

    Like `wilson` it inverts the normal test with the variance under the hypothesis: lies in [-1, 1], is never empty
    of width, and of the images on which both are right or both wrong it needs only the number. It excludes 0 exactly
    where McNemar's statistic (b - c)^2 / (b + c) exceeds z^2. Simulated 95 % intervals cover 94.7 to 95.4 % of the
    time where six images or more are to be expected on which the two disagree, and more often where fewer are.

    Args:
        first_only: counts b, any shape.
        second_only: counts c of the same shape.
        n: images, at least b + c and 1.
        level: the coverage, in (0, 1).

    >>> [round(float(end), 4) for end in difference_interval(0, 0, 100)]
    [-0.037, 0.037]
    """
    b, c = np.asarray(first_only, dtype=np.float64), np.asarray(second_only, dtype=np.float64)
    assert n >= 1, "an interval needs an image"
    assert min(b.min(), c.min()) >= 0, "counts"
    assert (b + c).max() <= n, "more images than there are"
    z = NormalDist().inv_cdf((1 + level) / 2)
    return -_high(c, b, n, z), _high(b, c, n, z)


def _high(b: Floats, c: Floats, n: int, z: float) -> Floats:
    """The upper end: where the score statistic of the hypothesis that b / n - c / n estimates delta reaches -z."""
    estimate = (b - c) / n
    inside, outside = estimate, np.ones_like(estimate)
    for _ in range(HALVINGS):
        delta = (inside + outside) / 2
        beyond = n * (estimate - delta) ** 2 > z * z * _variance(b, c, n, delta)
        inside, outside = np.where(beyond, inside, delta), np.where(beyond, delta, outside)
    return outside


def _variance(b: Floats, c: Floats, n: int, delta: Floats) -> Floats:
    """The variance of one image's difference under the hypothesis, times 1; the shares are the likeliest under it.

    The share q of ``second_only`` that maximises the likelihood where that of ``first_only`` is q + delta solves
    2 n q^2 + u q = c delta (1 - delta).
    """
    u = (2 * n - b + c) * delta - b - c
    constant = c * delta * (1 - delta)
    root = np.sqrt(np.maximum(u * u + 8 * n * constant, 0.0))
    # Of the two forms of the same root, the one in which nothing cancels.
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(u > 0, 2 * constant / (u + root), (root - u) / (4 * n))
    variance: Floats = np.maximum(2 * q + delta * (1 - delta), 0.0)
    return variance
