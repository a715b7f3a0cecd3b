"""The bootstrap over images: intervals for what has no closed form.

Images are drawn with replacement, the same ones for all vectors of scores, so whatever is computed from several
vectors keeps their pairing. The draws of a resample depend on the seed, the number of images and the resample's
number alone: more resamples, other vectors or another call change none of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.stats.intervals import Interval, all_the_same
from robusteval.stats.pairs import Floats

Statistic = Callable[[Floats], Floats]
"""What is computed from means: (vectors, ...) to (...)."""

REPLICATES = 10_000
"""Resamples: they move an end of an interval by a fortieth of the standard error."""

DRAWS = 1 << 19
"""Draws at a time, for memory's sake."""


class Estimate(NamedTuple):
    """A number computed from scores, and its interval; None where the scores do not vary and tell nothing of it."""

    value: float
    interval: Interval | None


def bootstrap(
    scores: npt.ArrayLike,
    statistic: Statistic,
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Estimate:
    """A function of the means of paired vectors of scores, with its percentile interval (Efron, 1979).

    The percentile interval stays in the range of the statistic, does not depend on its scale (an accuracy or its
    logarithm) and needs nothing but the resamples. BCa, which corrects it for skewness, is worth its jackknife only for
    few images: simulated 95 % intervals of H-scores of 100, 300 and 1,000 images cover 94.4, 94.8 and 94.9 % of the
    time, with BCa 95.2, 94.9 and 94.9 %.

    Args:
        scores: (vectors, images); the same images in the same order.
        statistic: vectorised, e.g. ``lambda means: means[0] - means[1]``.
        seed: of the draws.
        replicates: resamples.
        level: the coverage, in (0, 1).

    >>> found = bootstrap([[1, 0, 1, 1] * 50, [0, 0, 1, 0] * 50], lambda means: means[0] - means[1])
    >>> found.value, [round(end, 2) for end in found.interval]
    (0.5, [0.43, 0.57])
    """
    values = np.asarray(scores, dtype=np.float64)
    value = float(statistic(values.mean(axis=1)))
    resampled = statistic(resampled_means(values, seed=seed, replicates=replicates))
    return Estimate(value, percentile_interval(resampled, level))


def percentile_interval(resampled: Floats, level: float = 0.95) -> Interval | None:
    """The quantiles of the resampled statistic (replicates,); None where it is always the same."""
    if all_the_same(resampled):
        return None
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def resampled_means(scores: npt.ArrayLike, *, seed: int = 0, replicates: int = REPLICATES) -> Floats:
    """The means of each vector of scores over the same resampled images: (vectors, replicates).

    Args:
        scores: (vectors, images), at least one image.
        seed: of the draws.
        replicates: resamples.
    """
    values = np.asarray(scores, dtype=np.float64)
    assert values.ndim == 2, "vectors of images"
    n = values.shape[1]
    assert n >= 1, "a resample needs an image"
    found = np.empty((len(values), replicates))
    for start, counts in resampled_counts(n, replicates=replicates, seed=seed, of="images"):
        found[:, start : start + len(counts)] = values @ counts.T / n
    return found


def resampled_counts(n: int, *, replicates: int, seed: int, of: str) -> Iterator[tuple[int, Floats]]:
    """How often each of n units is drawn in each resample: chunks of float64 (resamples, n), and the first's number.

    Args:
        n: units to draw from, and draws; each is uniform but for a bias below n / 2^32.
        replicates: resamples.
        seed: of the draws.
        of: what is drawn; different things are drawn independently.
    """
    # Not `randomness.Stream`: statistics are computed where torch is not imported. Philox too is counter-based.
    key = int.from_bytes(hashlib.sha256(f"robusteval-bootstrap-1:{seed}:{of}".encode()).digest()[:16], "little")
    blocks = -(-n // 8)  # of a resample: four words each, two draws a word
    step = max(DRAWS // n, 1)
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        words = np.random.Philox(key=key, counter=start * blocks).random_raw(rows * blocks * 4).reshape(rows, -1)
        halves = np.concatenate([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], axis=1)[:, :n]
        drawn = (halves * np.uint64(n) >> np.uint64(32)).astype(np.int64) + n * np.arange(rows)[:, None]
        yield start, np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
