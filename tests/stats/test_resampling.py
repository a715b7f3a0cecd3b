"""The bootstrap against scipy's, enumeration, closed forms and simulated coverage."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference
from scipy.special import beta

from robusteval.stats import Estimate, bootstrap, percentile_interval, resampled_means
from robusteval.stats.resampling import resampled_counts


def first(means: Any) -> Any:
    return means[0]


def difference(means: Any) -> Any:
    return means[0] - means[1]


def test_it_is_scipys_percentile_bootstrap() -> None:
    """Up to the Monte Carlo error of 10,000 resamples on either side."""
    rng = np.random.default_rng(12)
    one = rng.beta(2, 1, 150)
    two = np.clip(one + rng.normal(0, 0.2, 150), 0, 1)

    def ratio(a: Any, b: Any, axis: int = -1) -> Any:
        return a.mean(axis=axis) / b.mean(axis=axis)

    peer = reference.bootstrap(
        (one, two), ratio, paired=True, method="percentile", n_resamples=9999, rng=np.random.default_rng(0)
    )
    found = bootstrap([one, two], lambda means: means[0] / means[1])
    assert found.value == one.mean() / two.mean()
    assert found.interval == pytest.approx(peer.confidence_interval, abs=0.06 * peer.standard_error)


def test_three_images_by_enumeration() -> None:
    """All 27 resamples, in their proportions."""
    scores = np.array([[0.0, 0.25, 1.0], [1.0, 0.5, 0.5]])
    every = np.array([difference(scores[:, list(drawn)].mean(axis=1)) for drawn in product(range(3), repeat=3)])
    found = difference(resampled_means(scores, replicates=40_000))
    values, counts = np.unique(every.round(12), return_counts=True)
    seen = np.array([(np.abs(found - value) < 1e-9).mean() for value in values])
    assert seen.sum() == pytest.approx(1)
    np.testing.assert_allclose(seen, counts / 27, atol=0.01)


def check_moments(means: Callable[..., Any]) -> None:
    """The covariance of resampled means is that of the scores (over n) by n, whatever the vectors."""
    scores = np.random.default_rng(13).random((3, 400)) ** np.array([[1], [2], [3]])
    scores[2] += scores[0]
    found = means(scores, replicates=8000)
    np.testing.assert_allclose(found.mean(axis=1), scores.mean(axis=1), atol=5e-4)
    np.testing.assert_allclose(np.cov(found), np.cov(scores, ddof=0) / 400, atol=4e-5)


def test_moments_are_those_of_the_closed_form() -> None:
    check_moments(resampled_means)


def test_a_mistake_in_the_draws_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("values @ counts.T / n", "values @ counts.T / (n - 1)"),
        ("np.uint64(n) >> np.uint64(32)", "np.uint64(n - 1) >> np.uint64(32)"),
        ("words >> np.uint64(32)]", "words & np.uint64(0xFFFFFFFF)]"),
    ):
        with pytest.raises((AssertionError, NameError)):
            check_moments(mutant(resampled_means, old, new))


def test_a_resample_depends_on_seed_images_and_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robusteval.stats.resampling.DRAWS", 1000)
    in_chunks = [*resampled_counts(101, replicates=150, seed=3, of="images")]
    assert [start for start, _ in in_chunks] == list(range(0, 150, 9))
    many = np.concatenate([counts for _, counts in in_chunks])
    monkeypatch.undo()
    ((start, few),) = resampled_counts(101, replicates=70, seed=3, of="images")
    assert start == 0
    np.testing.assert_array_equal(few, many[:70])
    assert (few.sum(axis=1) == 101).all()
    assert len(np.unique(many, axis=0)) == 150
    for other in ({"seed": 4, "of": "images"}, {"seed": 3, "of": "seeds"}):
        ((_, counts),) = resampled_counts(101, replicates=70, **other)
        assert not (counts == few).all(axis=1).any()
    scores = np.random.default_rng(14).random((2, 101))
    np.testing.assert_allclose(resampled_means(scores)[1], resampled_means(scores[1:])[0], rtol=1e-12)


def test_the_draws_are_these_forever() -> None:
    """Philox's words are the same in all versions of numpy (NEP 19), and so are intervals in a report."""
    (_, counts), *_ = resampled_counts(10, replicates=2, seed=0, of="images")
    assert counts.tolist() == [[1, 2, 2, 0, 0, 2, 1, 1, 1, 0], [1, 1, 1, 1, 0, 1, 3, 1, 0, 1]]


def test_what_does_not_vary_has_no_interval() -> None:
    assert bootstrap([[1.0] * 10, [1.0] * 10], difference) == Estimate(0.0, None)
    assert percentile_interval(np.array([0.5, 0.5])) is None
    assert bootstrap([[0.3]], first, replicates=5).interval is None
    assert bootstrap([[0.3] * 57, [0.1] * 57], difference).interval is None  # but for rounding


@pytest.mark.parametrize("scores", [[0.1, 0.2], [[]], np.zeros((2, 0))])
def test_what_are_no_vectors_of_images_is_refused(scores: Any) -> None:
    with pytest.raises(AssertionError):
        resampled_means(scores)


def covered(values: Any, truth: float) -> float:
    """How often the percentile interval of the resampled statistic (tables, replicates) covers."""
    low, high = np.quantile(values, [0.025, 0.975], axis=1)
    return float(np.mean((low <= truth) & (truth <= high)))


def test_it_covers_95_of_100_tables() -> None:
    """Means of scores and their paired differences, 10,000 tables of 300 images; one resampling serves a thousand."""
    rng = np.random.default_rng(15)
    mean = 0.8 / 1.1
    harder = mean - beta(0.8 + 1.5, 0.3) / beta(0.8, 0.3)  # the moment of order 1.5 is what is left
    of_means, of_differences = [], []
    for _ in range(10):
        difficulty = rng.beta(0.8, 0.3, (1000, 300))
        scores = np.concatenate([rng.binomial(75, difficulty), rng.binomial(75, difficulty**1.5)]) / 75
        one, two = np.split(resampled_means(scores, replicates=500), 2)
        of_means.append(covered(one, mean))
        of_differences.append(covered(one - two, harder))
    assert np.mean(of_means) == pytest.approx(0.95, abs=0.01)
    assert np.mean(of_differences) == pytest.approx(0.95, abs=0.01)
