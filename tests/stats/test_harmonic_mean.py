"""The H-score and its interval against closed forms, the delta method and simulated coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference
from scipy.special import beta

from robusteval.stats import (
    compare_scores,
    h_interval,
    h_score,
    harmonic,
    harmonics,
    linear_h_scores,
    resampled_means,
    t_interval,
)


def images(rng: np.random.Generator, *shape: int) -> tuple[Any, Any]:
    """Clean outcomes and shares of 75 corrupted versions that are right: hard images are hard in both."""
    difficulty = rng.beta(0.8, 0.3, shape)
    return rng.random(shape) < difficulty**0.5, rng.binomial(75, difficulty) / 75


def truth() -> float:
    return harmonic(beta(0.8 + 0.5, 0.3) / beta(0.8, 0.3), 0.8 / 1.1)


def test_harmonic() -> None:
    assert harmonic(0.5, 0.5) == 0.5
    assert harmonic(0.9, 0.6) == pytest.approx(1 / ((1 / 0.9 + 1 / 0.6) / 2))
    assert harmonic(0.0, 0.7) == harmonic(0.7, 0.0) == harmonic(0.0, 0.0) == 0.0


def test_harmonics_are_harmonic_everywhere() -> None:
    grid = np.array(np.meshgrid([0.0, 0.1, 0.5, 1.0], [0.0, 0.3, 1.0]))
    expected = [[harmonic(float(c), float(s)) for c, s in zip(*row, strict=True)] for row in np.moveaxis(grid, 0, 1)]
    np.testing.assert_allclose(harmonics(grid), expected, atol=1e-15)


def check_interval(interval: Callable[..., Any]) -> None:
    """The delta method, to 5 % of the standard error at 2,000 images; wrong by far if the pairing were lost."""
    clean, shifted = images(np.random.default_rng(16), 2000)
    found = interval(clean, shifted)
    c, s = clean.mean(), shifted.mean()
    gradient = np.array([2 * s * s, 2 * c * c]) / (c + s) ** 2
    error = np.sqrt(gradient @ np.cov(clean, shifted) @ gradient / 2000)
    assert found.value == pytest.approx(harmonic(c, s), rel=1e-12)
    assert found.interval.high - found.value == pytest.approx(1.96 * error, abs=0.1 * error)
    assert found.value - found.interval.low == pytest.approx(1.96 * error, abs=0.1 * error)
    unpaired = np.sqrt(gradient**2 @ np.var([clean, shifted], axis=1, ddof=1) / 2000)
    assert abs(unpaired - error) > 0.2 * error  # the comparison would notice


def test_the_interval_is_that_of_the_delta_method() -> None:
    check_interval(h_score)


def test_a_mistake_in_the_score_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("scores: Floats = 2 * clean * shifted / both", "scores: Floats = (clean + shifted) / 2"),
        ("for one in (clean, shifted)])", "for one in (clean, np.sort(shifted))])"),
    ):
        with pytest.raises(AssertionError):
            check_interval(mutant(h_score, old, new))


def test_nothing_right_says_nothing_of_the_spread() -> None:
    found = h_score([False] * 5, [0.2] * 5)
    assert (found.value, found.interval) == (0.0, None)


def test_it_covers_95_of_100_tables() -> None:
    """10,000 tables of 300 images."""
    rng, covered, true = np.random.default_rng(17), [], truth()
    for _ in range(10):
        clean, shifted = images(rng, 1000, 300)
        means = resampled_means(np.concatenate([clean, shifted]), replicates=500).reshape(2, 1000, 500)
        low, high = np.quantile(harmonics(means), [0.025, 0.975], axis=1)
        covered.append(np.mean((low <= true) & (true <= high)))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


def test_shares_of_images_have_the_score_as_their_mean_and_test_it() -> None:
    clean, shifted = images(np.random.default_rng(18), 3, 2000)
    shifted[1] = shifted[0] * 0.9
    clean[1] = clean[0]
    numbers = linear_h_scores(clean, shifted)
    expected = [harmonic(float(c), float(s)) for c, s in zip(clean.mean(axis=1), shifted.mean(axis=1), strict=True)]
    np.testing.assert_allclose(numbers.mean(axis=1), expected, rtol=1e-12)
    table = compare_scores(numbers)
    resampled = harmonics(resampled_means(np.concatenate([clean, shifted])).reshape(2, 3, -1))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        ends = np.quantile(resampled[i] - resampled[j], [0.025, 0.975])
        width = ends[1] - ends[0]
        assert (table.low[i, j], table.high[i, j]) == pytest.approx(ends, abs=0.04 * width)
    assert (linear_h_scores(np.zeros((1, 4), bool), np.zeros((1, 4))) == 0).all()


def drawn(rng: np.random.Generator, n: int, m: int) -> tuple[Any, Any]:
    """Clean outcomes of n images and shares of ten shifted versions of the first m, both by one difficulty."""
    difficulty = rng.normal(size=n)
    shifted = (difficulty[:m, None] + rng.normal(size=(m, 10)) < 0.2).mean(axis=1)
    return difficulty + 0.7 * rng.normal(size=n) < 0.8, shifted


def check_delta(interval: Callable[..., Any]) -> None:
    """The delta method on the table of means: gradient, covariance of the two means, gradient."""
    rng = np.random.default_rng(40)
    for n, m in ((200, 200), (300, 120)):
        clean, shifted = drawn(rng, n, m)
        c, s = clean.mean(), shifted.mean()
        gradient = np.array([2 * s**2, 2 * c**2]) / (c + s) ** 2
        shared = np.sum((clean[:m] - clean[:m].mean()) * (shifted - s)) / (m - 1)
        covariance = np.array([[clean.var(ddof=1) / n, shared / n], [shared / n, shifted.var(ddof=1) / m]])
        half = reference.t(m - 1).ppf(0.9) * np.sqrt(gradient @ covariance @ gradient)
        assert interval(clean, shifted, level=0.8) == pytest.approx((harmonic(c, s) - half, harmonic(c, s) + half))


def test_the_interval_is_the_delta_methods() -> None:
    check_delta(h_interval)


def test_a_mistake_in_the_interval_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("2 * by_clean * by_shifted * shared / n", "2 * by_clean * by_shifted * shared / m"),
        ("2 * (s / (c + s)) ** 2, 2 * (c / (c + s)) ** 2", "2 * (c / (c + s)) ** 2, 2 * (s / (c + s)) ** 2"),
        ("stdtrit(m - 1, (1 + level) / 2)", "stdtrit(m - 1, level)"),
        ("of_shifted.var(ddof=1)) / m", "of_shifted.var(ddof=1)) / n"),
    ):
        with pytest.raises(AssertionError):
            check_delta(mutant(h_interval, old, new))


def test_the_interval_is_that_of_linear_scores_and_close_to_the_bootstraps() -> None:
    rng = np.random.default_rng(41)
    for n in (500, 1000, 5000):
        clean, shifted = drawn(rng, n, n)
        found, boot = h_interval(clean, shifted), h_score(clean, shifted, replicates=4000).interval
        assert found == pytest.approx(t_interval(linear_h_scores(clean, shifted)), abs=1e-12)
        assert found is not None
        assert boot is not None
        assert found == pytest.approx(boot, abs=0.002)


@pytest.mark.parametrize(("n", "m"), [(400, 400), (1000, 200)])
def test_the_interval_covers(n: int, m: int) -> None:
    """1,500 test sets; the truth from a million images."""
    rng = np.random.default_rng(42)
    clean, shifted = drawn(rng, 1_000_000, 1_000_000)
    truth = harmonic(clean.mean(), shifted.mean())
    found = [h_interval(*drawn(rng, n, m)) for _ in range(1500)]
    covered = np.mean([one is not None and one.low <= truth <= one.high for one in found])
    assert 0.935 < covered < 0.967


def test_scores_that_do_not_vary_have_no_interval() -> None:
    assert h_interval([True] * 5, [1.0] * 5) is None
    assert h_interval([False] * 5, [0.0] * 5) is None
    assert h_interval([True] * 5, [0.0, 1.0, 1.0, 1.0, 1.0]) is not None
    high = h_interval([True] * 9 + [False], [1.0] * 9 + [0.0])
    assert high is not None
    assert high.high == 1.0
