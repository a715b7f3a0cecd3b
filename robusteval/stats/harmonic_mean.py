"""The H-score: the harmonic mean of clean accuracy and accuracy under shift."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robusteval.stats.pairs import Floats
from robusteval.stats.resampling import REPLICATES, Estimate, bootstrap


def harmonic(clean: float, shifted: float) -> float:
    """The H-score of two accuracies, 0 when either is 0.

    >>> round(harmonic(0.9, 0.6), 4), harmonic(0.9, 0.0)
    (0.72, 0.0)
    """
    if clean == 0 or shifted == 0:
        return 0.0
    return 2 * clean * shifted / (clean + shifted)


def harmonics(means: Floats) -> Floats:
    """The H-scores of accuracies (2, ...), clean and shifted: a statistic to resample."""
    clean, shifted = means
    both = np.where(clean * shifted > 0, clean + shifted, 1.0)
    scores: Floats = 2 * clean * shifted / both
    return scores


def h_score(
    clean: npt.ArrayLike, shifted: npt.ArrayLike, *, seed: int = 0, replicates: int = REPLICATES, level: float = 0.95
) -> Estimate:
    """The H-score with its bootstrap interval, which knows that both accuracies are of the same images.

    Args:
        clean: (n,): which images are right unchanged.
        shifted: (n,): the share of the shifted versions of each image that are right, the same images.
        seed: of the draws.
        replicates: resamples.
        level: the coverage, in (0, 1).
    """
    both = np.stack([np.asarray(one, dtype=np.float64) for one in (clean, shifted)])
    return bootstrap(both, harmonics, seed=seed, replicates=replicates, level=level)


def linear_h_scores(clean: npt.ArrayLike, shifted: npt.ArrayLike) -> Floats:
    """The share of each image in the H-score, to first order: numbers whose mean is the H-score.

    The harmonic mean is homogeneous, so h = (dh/dc) c + (dh/ds) s, and the same with an image's own outcomes in place
    of the accuracies has mean h and the variance of the delta method. `compare_scores` tests H-scores by them.

    Args:
        clean: (rows, images): which images are right unchanged.
        shifted: (rows, images): the share of each image's shifted versions that are right.
    """
    of_clean, of_shifted = np.asarray(clean, dtype=np.float64), np.asarray(shifted, dtype=np.float64)
    c, s = of_clean.mean(axis=-1, keepdims=True), of_shifted.mean(axis=-1, keepdims=True)
    both = np.where(c + s > 0, c + s, 1.0)
    numbers: Floats = 2 * (s / both) ** 2 * of_clean + 2 * (c / both) ** 2 * of_shifted
    return numbers
