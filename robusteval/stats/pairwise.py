"""All networks of a table against each other, and the ranks that the differences can bear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.stats.pairs import Flags, Floats, difference_interval, mcnemar

SAME = 1e-12
"""A variance of differences below this share of the scores' own is rounding."""


class Pairwise(NamedTuple):
    """Every row against every other; the entry [i, j] of each (rows, rows) matrix compares row i with row j.

    Attributes:
        difference: the mean of row i less that of row j.
        low, high: the ends of its interval, each for itself; NaN where the differences do not vary.
        p: of the hypothesis of equal means, each for itself (`holm` is for all together); 1 on the diagonal.
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats


def compare_outcomes(
    outcomes: npt.ArrayLike, *, test: Literal["exact", "mid"] = "exact", level: float | None = 0.95
) -> Pairwise:
    """McNemar's test and the interval of the difference for every pair of rows; see `robusteval.stats.pairs`.

    Args:
        outcomes: (rows, images) booleans: which images each network gets right.
        test: ``exact`` or ``mid`` (`mcnemar`).
        level: the coverage of an interval, in (0, 1); None: no intervals (NaN), which take most of the time.
    """
    right = np.asarray(outcomes)
    assert right.dtype == np.bool_, "outcomes are right or wrong"
    assert right.ndim == 2, "rows of images"
    n = right.shape[1]
    both = _products(right.astype(np.float64)).round().astype(np.int64)
    first_only = np.diag(both)[:, None] - both
    second_only = first_only.T
    nothing = np.full(both.shape, np.nan)
    low, high = (nothing, nothing) if level is None else difference_interval(first_only, second_only, n, level)
    return Pairwise((first_only - second_only) / n, low, high, mcnemar(first_only, second_only, test=test))


def compare_scores(scores: npt.ArrayLike, *, level: float = 0.95) -> Pairwise:
    """The paired t test and t interval of the difference of means for every pair of rows.

    For scores of images that are not just right or wrong: means over corruptions, or `linear_h_scores`. Where the
    differences of a pair do not vary, t is no test (`_t_tests`): p is that of the signs of the images' differences.

    Args:
        scores: (rows, images) numbers, two images or more; the same images in the same order in all rows.
        level: the coverage of an interval, in (0, 1).
    """
    values = np.asarray(scores, dtype=np.float64)
    assert values.ndim == 2, "rows of images"
    variance = _variance_of_differences(values)
    freedom = np.asarray(values.shape[1] - 1.0)
    return _t_tests(values.mean(axis=1), variance, freedom, values.shape[1], level)


def compare_seeds(scores: Sequence[npt.ArrayLike], *, level: float = 0.95) -> Pairwise:
    """The difference of the means of every pair of rows, each of which is a mean over trainings with several seeds.

    Images are the same for all rows, so their part of a difference's variance is that of the image by image
    differences of the rows' means over seeds; seeds were drawn apart for each row, so the variance of each row's mean
    over seeds adds to it. The degrees of freedom of the sum are Welch and Satterthwaite's. What is left between seeds
    and images counts in both parts, which makes the test the more careful the more of it there is: simulated 5 % tests
    of equal rows reject 1 to 5 % of the time for three seeds or more, whichever of seeds and images varies more. For
    two it is 1 to 8 %, most where seeds vary as much as images. A row of one seed has no variance over seeds: its
    comparison is with that one training, not with its method.

    Means of seeds are multiples of 1 / images, so a few of them are equal by chance now and then. That leaves the part
    of the images, in which what is left between seeds and images is. Where that is 0 as well, all images differ by
    the same, and p is that of the signs of their differences (`_t_tests`).

    Args:
        scores: a row's (seeds, images) numbers; the same images in the same order in all rows, two or more.
        level: the coverage of an interval, in (0, 1).
    """
    rows = [np.asarray(row, dtype=np.float64) for row in scores]
    assert all(row.ndim == 2 for row in rows), "seeds of images"
    over_seeds = np.stack([row.mean(axis=0) for row in rows])
    means, images = over_seeds.mean(axis=1), over_seeds.shape[1]
    of_images = _variance_of_differences(over_seeds)
    of_seeds = np.array([row.mean(axis=1).var(ddof=1) / len(row) if len(row) > 1 else 0.0 for row in rows])
    freedom = np.array([max(len(row) - 1, 1) for row in rows], dtype=np.float64)
    # Rows that are equal image by image are the same trainings, such as a row and itself: no draws of their own.
    differ = (of_images > 0) | _differ(means)
    variance = np.where(differ, of_images + of_seeds[:, None] + of_seeds[None, :], 0.0)
    squares = of_seeds**2 / freedom
    spread = of_images**2 / (images - 1) + squares[:, None] + squares[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        return _t_tests(means, variance, variance**2 / spread, images, level)


def _variance_of_differences(values: Floats) -> Floats:
    """The variance of the mean difference of every pair of rows (rows, images); 0 where it is but rounding."""
    n = values.shape[1]
    assert n > 1, "a spread needs two images"
    covariance = _products(values - values.mean(axis=1)[:, None]) / (n - 1)
    own = np.diag(covariance)[:, None] + np.diag(covariance)[None, :]
    variance = own - 2 * covariance
    found: Floats = np.where(variance > SAME * own, variance, 0.0) / n
    return found


def _t_tests(means: Floats, variance: Floats, freedom: Floats, images: int, level: float) -> Pairwise:
    """The t test of every difference of means, given its variance and that one's degrees of freedom.

    Where the variance is 0, t would be infinite and p 0, however few images there are, and the interval a point. Each
    of n images differs by the same then; were both rows equally good, so that the sign of each difference is a toss of
    a coin, all n would agree with probability 2^(1 - n). That is p, as it is McNemar's where all images are right
    in one row and wrong in the other.
    """
    from scipy.special import stdtr, stdtrit

    difference = means[:, None] - means[None, :]
    known = variance > 0
    error = np.sqrt(np.where(known, variance, np.nan))
    half = stdtrit(freedom, (1 + level) / 2) * error
    of_signs = np.where(_differ(means), 2.0 ** (1 - images), 1.0)
    p = np.where(known, 2 * stdtr(freedom, -np.abs(difference) / error), of_signs)
    return Pairwise(difference, difference - half, difference + half, p)


def _differ(means: Floats) -> Flags:
    """Whether each pair of means differs by more than rounding."""
    differ: Flags = np.abs(means[:, None] - means[None, :]) > SAME * np.abs(means).max()
    return differ


def holm(p: npt.ArrayLike) -> Floats:
    """The p-values of several tests, each raised so far that all together may be read at one level (Holm, 1979).

    Rejecting what is at most alpha here, the probability of even one false rejection is at most alpha, however the
    tests depend on each other.

    Args:
        p: any shape.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    raised = np.maximum.accumulate(flat[order] * np.arange(flat.size, 0, -1))
    found = np.empty_like(flat)
    found[order] = np.minimum(raised, 1.0)
    return found.reshape(values.shape)


class Ranks(NamedTuple):
    """The ranks that a table can bear; 1 is the best.

    Attributes:
        best: int64 (rows,): 1 + the number of rows that are significantly better. The rank to show; rows may share it.
        worst: int64 (rows,): the number of rows less that of those that are significantly worse.
    """

    best: npt.NDArray[np.int64]
    worst: npt.NDArray[np.int64]


def ranks(compared: Pairwise, *, level: float = 0.95) -> Ranks:
    """The best and the worst rank of each row that its differences from the others leave open.

    A row is better than another if the one-sided test says so after `holm` over all ordered pairs, or if it is better
    than a third that is better than the other. All that is said to be better is truly so with probability ``level`` at
    least, and then so is what follows from it. Hence

    - better rows have lower ranks, so rows of one rank do not differ significantly;
    - with probability ``level`` the true ranks of all rows lie between their ``best`` and ``worst``
      (Mogstad et al., 2024, Rev. Econ. Stud. 91:476-518);
    - the row of the highest mean has rank 1, and so has every row that none is better than;
    - ranks say less than means: a row may pass one of a higher mean, if the leader is better than that one, while the
      test against the lower one, which differs from the leader on more images, is undecided.

    Args:
        compared: from `compare_outcomes` or `compare_scores`.
        level: the probability, in (0, 1).
    """
    rows = len(compared.p)
    others = ~np.eye(rows, dtype=np.bool_)
    one_sided = np.where(compared.difference > 0, compared.p / 2, 1.0)
    better = np.zeros((rows, rows), dtype=np.bool_)
    better[others] = holm(one_sided[others]) <= 1 - level
    better = _closed(better)
    return Ranks(1 + better.sum(axis=0), rows - better.sum(axis=1))


def _closed(better: Flags) -> Flags:
    """The transitive closure; each product doubles the length of the chains."""
    for _ in range(max(math.ceil(math.log2(max(len(better), 2))), 1)):
        before, steps = better, better.astype(np.float32)  # whether a sum of them is 0 does not depend on rounding
        better = better | (steps @ steps > 0)
        if np.array_equal(better, before):  # mostly after the first
            break
    return better


def _products(rows: Floats) -> Floats:
    """The scalar products of all pairs of rows."""
    products: Floats = rows @ rows.T
    return products
