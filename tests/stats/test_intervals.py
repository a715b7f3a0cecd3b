"""Intervals against scipy, closed forms, simulated coverage and the defining equation."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as reference

from robusteval.stats import Interval, mean_interval, t_interval, wilson


@pytest.mark.parametrize("n", [1, 2, 7, 100, 10_000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.937, 1.0])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(n: int, share: float, level: float) -> None:
    k = round(share * n)
    peer = reference.binomtest(k, n).proportion_ci(level, method="wilson")
    assert wilson(k, n, level) == pytest.approx((peer.low, peer.high), abs=1e-12)


def test_wilson_ends_solve_the_score_equation() -> None:
    """(share - p)^2 = z^2 p (1 - p) / n at both ends, for scores that are not whole too."""
    z = reference.norm.ppf(0.975)
    for k, n in ((3, 10), (55.34, 100), (1, 10_000)):
        for p in wilson(k, n):
            assert (k / n - p) ** 2 == pytest.approx(z * z * p * (1 - p) / n, rel=1e-9)


def test_wilson_is_exact_at_its_ends() -> None:
    z = reference.norm.ppf(0.975)
    for n in (1, 3, 999, 10_000):
        assert wilson(0, n).low == wilson(1e-18, n).low == 0.0
        assert wilson(n, n).high == 1.0
        assert wilson(n, n).low == pytest.approx(n / (n + z * z))  # the closed form at k = n
        assert wilson(0, n).high == pytest.approx(z * z / (n + z * z))


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(k: int, n: int) -> None:
    with pytest.raises(AssertionError):
        wilson(k, n)


def test_mean_interval_is_scipys_t_interval() -> None:
    values = np.random.default_rng(0).uniform(0.2, 0.8, 50)
    peer = reference.t.interval(0.95, 49, loc=values.mean(), scale=reference.sem(values))
    assert mean_interval(values) == pytest.approx(peer, abs=1e-12)


def test_mean_interval_stays_in_the_unit_interval() -> None:
    assert mean_interval([1.0, 1.0, 0.4]).high == 1.0
    assert mean_interval([0.0, 0.0, 0.6]).low == 0.0


def test_equal_scores_are_no_certainty() -> None:
    assert mean_interval([1.0] * 20) == wilson(20, 20)
    assert mean_interval([0.0] * 20) == wilson(0, 20)
    assert mean_interval([0.25] * 20) == wilson(5, 20)
    assert mean_interval([0.3]) == wilson(0.3, 1)


@pytest.mark.parametrize("scores", [[], [0.5, 1.2], [-0.1, 0.5], [[0.5, 0.5]], [0.5, math.nan]])
def test_mean_interval_refuses_what_are_no_scores(scores: list[float]) -> None:
    with pytest.raises(AssertionError):
        mean_interval(scores)


def test_mean_interval_covers_the_mean_of_clustered_scores() -> None:
    """Cells of one image share its difficulty: clustered by image the interval covers, by pair it would not."""
    rng = np.random.default_rng(1)
    clustered = pairwise = 0
    for _ in range(2000):
        difficulty = rng.beta(2, 1, 200)
        right = rng.random((200, 75)) < difficulty[:, None]
        low, high = mean_interval(right.mean(axis=1))
        clustered += low <= 2 / 3 <= high
        low, high = wilson(int(right.sum()), right.size)
        pairwise += low <= 2 / 3 <= high
    assert clustered / 2000 == pytest.approx(0.95, abs=0.015)
    assert pairwise / 2000 < 0.5


def test_an_interval_has_names() -> None:
    assert wilson(5, 10)._fields == Interval._fields == ("low", "high")


def coverage_of_wilson(n: int, p: float) -> float:
    """The exact coverage: the probability of the counts whose interval holds p."""
    counts = np.arange(n + 1)
    ends = np.array([wilson(int(k), n) for k in counts])
    return float(reference.binom.pmf(counts[(ends[:, 0] <= p) & (p <= ends[:, 1])], n, p).sum())


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_wilson_covers_95_of_100_tables(n: int) -> None:
    """10,000 tables, each with a share of its own."""
    rng = np.random.default_rng(2)
    shares = rng.uniform(0.02, 0.98, 10_000)
    counts = rng.binomial(n, shares)
    ends = np.array([wilson(int(k), n) for k in np.unique(counts)])[np.unique(counts, return_inverse=True)[1]]
    assert np.mean((ends[:, 0] <= shares) & (shares <= ends[:, 1])) == pytest.approx(0.95, abs=0.01)


def test_wilson_covers_any_one_share_that_is_not_extreme() -> None:
    """Where 50 right and 50 wrong images are to be expected."""
    for n in (500, 1000):
        for p in np.linspace(50 / n, 0.5, 40):
            assert coverage_of_wilson(n, p) == pytest.approx(0.95, abs=0.01)


def test_wilson_covers_extreme_shares_less() -> None:
    """The worst share is just below the low end of a single success: only no success covers it, e^-0.1765 of the time.

    At five expected successes the coverage is within two points.
    """
    n = 1000
    low = wilson(1, n).low
    assert coverage_of_wilson(n, low - 1e-9) == pytest.approx(math.exp(-0.1765), abs=1e-3)
    assert all(coverage_of_wilson(n, expected / n) == pytest.approx(0.95, abs=0.02) for expected in range(5, 21))


def test_mean_interval_covers_95_of_100_tables() -> None:
    """Means over 75 cells of images of all difficulties, 10,000 tables of 500 images."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        difficulty = rng.beta(0.8, 0.3, (100, 500))
        scores = rng.binomial(75, difficulty) / 75
        covered += sum(low <= 0.8 / 1.1 <= high for low, high in map(mean_interval, scores))
    assert covered / 10_000 == pytest.approx(0.95, abs=0.01)


def test_t_interval_is_scipys_and_keeps_to_its_range() -> None:
    values = np.random.default_rng(4).normal(3, 1, 20)
    peer = reference.t.interval(0.9, 19, loc=values.mean(), scale=reference.sem(values))
    assert t_interval(values, level=0.9) == pytest.approx(peer, abs=1e-12)
    assert t_interval([0.0, 0.1, 0.9], low=0.0, high=1.0) == (0.0, 1.0)
    assert t_interval([0.5, 0.5]) is None
    assert t_interval([0.3, 0.1 + 0.2]) is None  # 0.30000000000000004
    assert t_interval([0.3, 0.3 + 1e-9]) is not None


def test_statistics_need_no_torch_and_no_scipy_stats() -> None:
    code = (
        "import sys, robusteval.stats as s\n"
        "s.mean_interval([0.1, 0.2]), s.paired([True], [False]), s.over_seeds([0.1, 0.2])\n"
        "s.ranks(s.compare_outcomes([[True, False], [True, True]]))\n"
        "s.ranks(s.compare_scores([[0.5, 0.1], [0.3, 0.1]]))\n"
        "s.h_score([True, False], [0.5, 0.7], replicates=10)\n"
        "s.seeds_and_images([[0.5, 0.7], [0.4, 0.7]])\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'scipy.stats' not in sys.modules  # slow to import\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
