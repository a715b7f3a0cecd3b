"""McNemar's test and the interval of a paired difference: scipy, published numbers, the likelihood, enumeration."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as reference

from robusteval.stats import difference_interval, mcnemar, paired

Z = float(reference.norm.ppf(0.975))


def check_mcnemar(test: Callable[..., Any]) -> None:
    """Scipy's binomial test, and half of the observed split's probability less on each side."""
    for b, c in [*product(range(8), repeat=2), (500, 420), (5000, 5000), (1, 3000), (0, 10_000)]:
        n = b + c
        expected = reference.binomtest(b, n).pvalue if n else 1.0
        assert float(test(b, c)) == pytest.approx(expected, rel=1e-9)
        middle = min(1.0, 2 * reference.binom.cdf(min(b, c), n, 0.5) - reference.binom.pmf(min(b, c), n, 0.5))
        assert float(test(b, c, test="mid")) == pytest.approx(middle, rel=1e-9)


def test_mcnemar_is_scipys_binomial_test() -> None:
    check_mcnemar(mcnemar)


def test_a_mistake_in_mcnemar_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (("2 * upto if", "upto if"), ("upto + below", "2 * below"), ("fewer > 0", "fewer > 1")):
        with pytest.raises(AssertionError):
            check_mcnemar(mutant(mcnemar, old, new))


def test_a_published_table() -> None:
    """Complete response before and after consolidation (Fagerland et al., 2017, Contingency Tables, ch. 8): n = 161."""
    assert float(mcnemar(6, 16)) == pytest.approx(0.052479, abs=5e-7)
    assert float(mcnemar(6, 16, test="mid")) == pytest.approx(0.034690, abs=5e-7)
    assert [float(end) for end in difference_interval(6, 16, 161)] == pytest.approx([-0.1240, -0.0054], abs=5e-5)


def level_of_mcnemar(n: int, p: float, discordant: float, test: str) -> float:
    """How often equal shares are found to differ: the exact sum over all tables."""
    m = np.arange(n + 1)
    b = np.arange(n + 1)[:, None]
    weight = reference.binom.pmf(m, n, discordant) * reference.binom.pmf(b, m, 0.5)
    significant = (b <= m) & (mcnemar(np.minimum(b, m), np.maximum(m - b, 0), test=test) <= p)  # type: ignore[arg-type]  # one of two words
    return float(weight[significant].sum())


def test_mcnemar_keeps_its_level() -> None:
    """Fagerland et al. (2013): the exact test is far below 5 % for few images, the mid-p test near it and not above."""
    found = {
        test: [
            level_of_mcnemar(n, 0.05, discordant, test) for n in (20, 50, 100) for discordant in (0.05, 0.1, 0.2, 0.4)
        ]
        for test in ("exact", "mid")
    }
    assert max(found["exact"]) < 0.04
    assert max(found["mid"]) < 0.05
    assert all(middle >= exact for middle, exact in zip(found["mid"], found["exact"], strict=True))
    assert found["mid"][-1] > 0.045


def score_statistic(b: int, c: int, n: int, delta: float) -> float:
    """The square of the score statistic, the likelihood maximised numerically under the difference delta."""

    def loss(q: float) -> float:
        shares = np.array([q + delta, q, 1 - 2 * q - delta])
        counts = np.array([b, c, n - b - c])
        return -float((counts[counts > 0] * np.log(np.maximum(shares[counts > 0], 1e-300))).sum())

    least, most = max(0.0, -delta), (1 - delta) / 2
    q = optimize.minimize_scalar(loss, bounds=(least, most), method="bounded", options={"xatol": 1e-13}).x
    return float((b - c - n * delta) ** 2 / (n * (2 * q + delta - delta**2)))


def check_difference_interval(interval: Callable[..., Any]) -> None:
    for b, c, n in ((6, 16, 161), (1, 7, 21), (3, 3, 30), (0, 5, 40), (12, 0, 15), (400, 350, 10_000), (9, 1, 12)):
        low, high = (float(end) for end in interval(b, c, n))
        assert -1 < low < (b - c) / n < high < 1
        for end in (low, high):
            assert score_statistic(b, c, n, end) == pytest.approx(Z * Z, rel=1e-4)


def test_the_ends_solve_the_score_equation() -> None:
    check_difference_interval(difference_interval)


def test_a_mistake_in_the_interval_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("(2 * n - b + c) * delta", "(2 * n + b - c) * delta"),
        ("2 * q + delta * (1 - delta)", "2 * q + delta"),
        ("return -_high(c, b, n, z)", "return -_high(b, c, n, z)"),
        ("(1 + level) / 2", "level"),
    ):
        with pytest.raises(AssertionError):
            check_difference_interval(mutant(difference_interval, old, new))


def test_the_interval_in_closed_form() -> None:
    """Without a disagreement (n Z^-2 + 1)^-1; if all disagree one way, Wilson's for the difference 2 k / n - 1."""
    for n in (1, 10, 10_000):
        low, high = difference_interval(0, 0, n)
        assert float(high) == -float(low) == pytest.approx(Z * Z / (n + Z * Z), rel=1e-9)
        assert [float(end) for end in difference_interval(n, 0, n)] == pytest.approx(
            [(n - Z * Z) / (n + Z * Z), 1.0], abs=1e-9
        )
    b = np.arange(51)
    low, high = difference_interval(b, 50 - b, 50)
    peers = [reference.binomtest(int(k), 50).proportion_ci(method="wilson") for k in b]
    np.testing.assert_allclose(low, [2 * peer.low - 1 for peer in peers], atol=1e-9)
    np.testing.assert_allclose(high, [2 * peer.high - 1 for peer in peers], atol=1e-9)


def test_the_interval_excludes_equality_where_mcnemars_statistic_does() -> None:
    b, c = np.meshgrid(np.arange(60), np.arange(60))
    low, high = difference_interval(b, c, 200)
    np.testing.assert_array_equal((low > 0) | (high < 0), (b - c) ** 2 > Z * Z * (b + c))
    np.testing.assert_allclose(low, -high.T, atol=1e-15)


def tables(n: int, shares: Any, rng: np.random.Generator) -> Any:
    """Counts b and c of tables with these shares (tables, 3): first only, second only, both or none."""
    return np.moveaxis(rng.multinomial(n, shares), -1, 0)[:2]


@pytest.mark.parametrize("n", [200, 1000, 10_000])
def test_the_interval_covers_95_of_100_tables(n: int) -> None:
    """10,000 tables whose networks disagree on 3 to 30 % of the images."""
    rng = np.random.default_rng(5)
    disagree, of_first = rng.uniform(0.03, 0.3, 10_000), rng.uniform(0.1, 0.9, 10_000)
    shares = np.stack([disagree * of_first, disagree * (1 - of_first), 1 - disagree], axis=1)
    low, high = difference_interval(*tables(n, shares, rng), n)
    truth = shares[:, 0] - shares[:, 1]
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.01)


def test_paired_counts_images() -> None:
    first = np.array([True, True, False, False, True])
    second = np.array([True, False, True, False, False])
    found = paired(first, second)
    assert (found.n, found.first_only, found.second_only) == (5, 2, 1)
    assert found.difference == pytest.approx(0.2)
    assert found.interval == tuple(float(end) for end in difference_interval(2, 1, 5))
    assert found.p == 1.0
    assert paired(second, first).interval == pytest.approx((-found.interval.high, -found.interval.low))


@pytest.mark.parametrize(
    ("first", "second"), [([True], [True, False]), ([1, 0], [0, 1]), ([], []), ([[True]], [[False]])]
)
def test_what_are_no_outcomes_of_the_same_images_is_refused(first: Any, second: Any) -> None:
    with pytest.raises(AssertionError):
        paired(first, second)
