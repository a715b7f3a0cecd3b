"""The calibration error of confidences: bins, the error, what chance makes of it, and an interval that allows for that.

Bins are matrices of shares (M, n): which share of each image each of M bins holds. A *surprise* is 1 or 0, whether a
prediction is right, less its confidence.
"""

from __future__ import annotations

import math

import numpy as np

from robusteval.stats.intervals import ROUNDING, Interval
from robusteval.stats.pairs import Floats

SURE = 4
"""Standard errors from 0 beyond which the sign of a bin's mean surprise is no longer a matter of chance."""


def equal_width(confidence: Floats, bins: int) -> Floats:
    """Bins ((m - 1) / M, m / M], m = 1 to M, of the confidence; an image is in one of them.

    >>> equal_width(np.array([0.5, 0.6]), 2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    edges = np.arange(1, bins) / bins
    place = np.searchsorted(edges, confidence, side="left")  # a confidence on an edge belongs to the bin below it
    shares: Floats = (place == np.arange(bins)[:, None]).astype(np.float64)
    return shares


def equal_mass(confidence: Floats, bins: int) -> Floats:
    """Bins of n / M images each, from the least confident on.

    An image on a cut is shared between the bins. Images of one confidence are alike in this: each has the share that
    all of them together have. So neither n nor the order of the images matters.

    >>> equal_mass(np.array([0.9, 0.5, 0.7]), 2).tolist()
    [[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]]
    """
    n = len(confidence)
    _, group, sizes = np.unique(confidence, return_inverse=True, return_counts=True)
    ends = sizes.cumsum()
    cuts = np.arange(bins + 1)[:, None] * n / bins
    # A group fills the places from its first to its last; of these, a bin has those between its cuts.
    filled = np.clip(cuts, ends - sizes, ends)
    shares: Floats = (np.diff(filled, axis=0) / sizes)[:, group]
    return shares


def calibration_error(shares: Floats, surprise: Floats) -> float:
    """The sum over bins of |accuracy - mean confidence|, each weighted by its share of the images.

    Args:
        shares: (M, n), the bins.
        surprise: (n,).
    """
    return float(np.abs(shares @ surprise).sum() / len(surprise))


def error_if_calibrated(shares: Floats, confidence: Floats) -> float:
    """The calibration error to expect of so many images where predictions are right as often as their confidence says.

    By the normal approximation of each bin: the sum over bins of sqrt(2 / pi times the sum of c (1 - c)), over n.

    Args:
        shares: (M, n), the bins.
        confidence: c (n,).
    """
    variances = shares**2 @ (confidence * (1 - confidence))
    return float(np.sqrt(2 / math.pi * variances).sum() / len(confidence))


def error_interval(means: Floats, resampled: Floats, level: float = 0.95) -> Interval | None:
    """An interval of a calibration error with the bins as they are; None where no resample differs.

    The error is the sum over bins of |m|, with m the mean over images of share times surprise. Its estimate is too
    high on average, as chance too gives m a size. So the lower end is the estimate less the upper quantile of what it
    can be off by: the sum of |m* - m|, without the bars and with the sign of m where that is beyond doubt. It is
    above 0 only where calibration is rejected. The upper end is the bootstrap's, the upper quantile of the sum of |m*|,
    which is too high by as much again. Simulated, 95 % intervals cover 94 to 100 % of the time.

    Args:
        means: m (M,).
        resampled: m* (M, replicates), from `resampled_means`.
        level: the coverage, in (0, 1).
    """
    off = resampled - means[:, None]
    if np.abs(off).max() < ROUNDING:
        return None
    sure = np.abs(means) > SURE * off.std(axis=1)
    off = np.where(sure[:, None], off * np.sign(means)[:, None], np.abs(off)).sum(axis=0)
    value, upper = float(np.abs(means).sum()), (1 + level) / 2
    high = float(np.quantile(np.abs(resampled).sum(axis=0), upper))
    return Interval(max(value - float(np.quantile(off, upper)), 0.0), min(max(high, value), 1.0))
