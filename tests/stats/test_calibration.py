"""Bins, calibration errors and their intervals against definitions written out and simulated populations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from robusteval.stats import resampled_means
from robusteval.stats.calibration import (
    calibration_error,
    equal_mass,
    equal_width,
    error_if_calibrated,
    error_interval,
)


def cut_into_equal_parts(confidences: list[float], right: list[bool], bins: int) -> float:
    """Every image cut into as many pieces as there are bins, so that each bin has a whole number of pieces."""
    pieces = sorted((c, r) for c, r in zip(confidences, right, strict=True) for _ in range(bins))
    size = len(confidences)
    total = 0.0
    for m in range(bins):
        part = pieces[m * size : (m + 1) * size]
        total += abs(sum(r - c for c, r in part)) / len(pieces)
    return total


def test_a_bin_has_its_upper_edge() -> None:
    confidence = np.array([1 / 5, 0.2000001, 2 / 5, 3 / 5, 4 / 5, 1.0, 1e-9, 0.999])
    places = equal_width(confidence, 5).argmax(axis=0)
    assert places.tolist() == [0, 1, 1, 2, 3, 4, 0, 4]
    assert (equal_width(confidence, 5).sum(axis=0) == 1).all()
    assert (equal_width(confidence, 1) == 1).all()


@pytest.mark.parametrize(("n", "bins"), [(30, 15), (31, 15), (7, 15), (1, 3), (100, 1)])
def test_bins_of_equal_mass(n: int, bins: int) -> None:
    rng = np.random.default_rng(n)
    confidence = rng.random(n).round(1)  # many are the same
    shares = equal_mass(confidence, bins)
    np.testing.assert_allclose(shares.sum(axis=1), n / bins)
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    assert shares.min() >= 0
    order = rng.permutation(n)
    np.testing.assert_array_equal(equal_mass(confidence[order], bins), shares[:, order])
    for one in np.unique(confidence):
        assert np.ptp(shares[:, confidence == one], axis=1).max() < 1e-12


def check_equal_mass(cut: Callable[..., Any]) -> None:
    rng = np.random.default_rng(29)
    for n, bins in ((30, 15), (31, 15), (7, 15), (1, 3), (50, 1)):
        confidence = (rng.permutation(n) + 1) / n
        right = rng.random(n) < confidence**2
        expected = cut_into_equal_parts(confidence.tolist(), right.tolist(), bins)
        assert calibration_error(cut(confidence, bins), right - confidence) == pytest.approx(expected, abs=1e-12)


def test_equal_parts_piece_by_piece() -> None:
    check_equal_mass(equal_mass)


def test_a_mistake_in_the_cuts_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("np.arange(bins + 1)[:, None] * n / bins", "np.arange(bins + 1)[:, None] * n // bins"),
        ("np.clip(cuts, ends - sizes, ends)", "np.clip(cuts, ends - 1, ends).round()"),
        ("(np.diff(filled, axis=0) / sizes)[:, group]", "np.diff(filled, axis=0) / sizes"),
    ):
        with pytest.raises(AssertionError):
            check_equal_mass(mutant(equal_mass, old, new))


def population(rng: np.random.Generator, n: int, count: int, gap: float) -> tuple[Any, Any]:
    """Confidences (count, n) like a network's, and outcomes that are right less often by ``gap``."""
    confidence = 1 - 0.7 * rng.beta(0.4, 1.6, (count, n))
    return confidence, rng.random((count, n)) < confidence - gap


def test_what_chance_alone_makes_of_calibrated_networks() -> None:
    """1,000 perfectly calibrated networks: the mean error is what is said to be expected, to a tenth of it."""
    for n in (500, 5000):
        confidence, right = population(np.random.default_rng(26), n, 1000, 0.0)
        shares = [equal_width(one, 15) for one in confidence]
        errors = [calibration_error(s, r - c) for s, c, r in zip(shares, confidence, right, strict=True)]
        expected = [error_if_calibrated(s, c) for s, c in zip(shares, confidence, strict=True)]
        assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.1)
        assert np.mean(errors) > 0.005  # though the truth is 0


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("bins", [equal_width, equal_mass])
def test_intervals_cover(gap: float, bins: Callable[..., Any]) -> None:
    """500 networks on 1,000 images. Every bin is off by the gap, so that is the true error."""
    confidence, right = population(np.random.default_rng(27), 1000, 500, gap)
    vectors = np.concatenate([bins(c, 15) * (r - c) for c, r in zip(confidence, right, strict=True)])
    means = np.split(vectors.mean(axis=1), 500)
    resampled = np.split(resampled_means(vectors, replicates=300), 500)
    ends = np.array([error_interval(*one) for one in zip(means, resampled, strict=True)])
    assert np.mean((ends[:, 0] <= gap) & (gap <= ends[:, 1])) >= 0.94
    above_nothing = np.mean(ends[:, 0] > 0)
    assert above_nothing < 0.06 or gap > 0
    assert above_nothing == 1 or gap < 0.1


def test_the_interval_holds_the_value_and_none_is_without_width() -> None:
    confidence, right = population(np.random.default_rng(28), 60, 20, 0.1)
    for c, r in zip(confidence, right, strict=True):
        shares = equal_width(c, 15)
        low, high = error_interval(shares @ (r - c) / 60, resampled_means(shares * (r - c), replicates=100)) or (1, 0)
        assert 0 <= low < calibration_error(shares, r - c) < high <= 1
    still = np.full((1, 5), -0.25)
    assert error_interval(still.mean(axis=1), resampled_means(still, replicates=10)) is None
