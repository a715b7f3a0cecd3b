"""Means over seeds: closed forms, a two-way analysis of variance written out, and simulated coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference

from robusteval.stats import (
    bootstrap,
    harmonics,
    hierarchical,
    over_seeds,
    percentile_interval,
    seed_replicates,
    seeds_and_images,
)


def mean_of(means: Any) -> Any:
    return means[0]


def test_the_mean_over_seeds() -> None:
    values = [0.81, 0.84, 0.80, 0.83]
    found = over_seeds(values, level=0.9)
    peer = reference.t.interval(0.9, 3, loc=np.mean(values), scale=reference.sem(values))
    assert (found.mean, found.sd, found.n) == pytest.approx((np.mean(values), np.std(values, ddof=1), 4))
    assert found.interval == pytest.approx(peer)
    alone = over_seeds([0.5])
    assert (alone.mean, alone.sd, alone.n, alone.interval) == (0.5, None, 1, None)
    assert over_seeds([0.1, 0.9]).interval == (0.0, 1.0)
    assert over_seeds([2.0, 4.0], low=0, high=np.inf).interval.high > 4  # type: ignore[union-attr]  # they vary


def tables(
    rng: np.random.Generator, *, seeds: int, n: int, sd_seed: float, sd_image: float, sd_rest: float, count: int
) -> Any:
    """Scores (count, seeds, n) of mean 0: an effect of the seed, one of the image, and what is left."""
    return (
        sd_seed * rng.normal(size=(count, seeds, 1))
        + sd_image * rng.normal(size=(count, 1, n))
        + sd_rest * rng.normal(size=(count, seeds, n))
    )


def check_analysis(interval: Callable[..., Any]) -> None:
    """Cell by cell, with sums of squares about the means of rows and columns."""
    (scores,) = tables(np.random.default_rng(19), seeds=3, n=20, sd_seed=0.3, sd_image=1, sd_rest=0.5, count=1)
    grand = sum(scores[s][i] for s in range(3) for i in range(20)) / 60
    rows = [sum(scores[s]) / 20 for s in range(3)]
    columns = [sum(scores[s][i] for s in range(3)) / 3 for i in range(20)]
    a = 20 * sum((row - grand) ** 2 for row in rows) / 2
    b = 3 * sum((column - grand) ** 2 for column in columns) / 19
    r = sum((scores[s][i] - rows[s] - columns[i] + grand) ** 2 for s in range(3) for i in range(20)) / 38
    assert b > r
    half = ((reference.t.ppf(0.975, 2) ** 2 * a + reference.t.ppf(0.975, 19) ** 2 * (b - r)) / 60) ** 0.5
    found = interval(scores, low=-9, high=9)
    assert found.value == pytest.approx(grand)
    assert found.interval == pytest.approx((grand - half, grand + half))


def test_the_analysis_of_variance_written_out() -> None:
    check_analysis(seeds_and_images)


def test_a_mistake_in_the_analysis_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("by_image.var(ddof=1)) - of_rest", "by_image.var(ddof=1))"),
        ("of_seeds = n * ", "of_seeds = seeds * "),
        ("values - by_seed[:, None] - by_image + mean", "values - by_seed[:, None]"),
        ("for units in (seeds, n)", "for units in (n, n)"),
    ):
        with pytest.raises(AssertionError):
            check_analysis(mutant(seeds_and_images, old, new))


def test_without_images_it_is_the_t_interval_of_seeds() -> None:
    by_seed = [0.5, 0.6, 0.8]
    found = seeds_and_images(np.repeat(np.array(by_seed)[:, None], 7, axis=1))
    assert found.interval == pytest.approx(over_seeds(by_seed).interval)
    assert found.interval is not None
    assert found.interval.high == 1.0


def test_equal_scores_have_no_interval() -> None:
    assert seeds_and_images(np.full((3, 5), 0.25)).interval is None
    assert hierarchical(np.full((1, 3, 5), 0.25), mean_of).interval is None


def test_equal_seeds_by_chance_are_not_certain() -> None:
    """Two networks that are right on one rare image in a hundred each, but not the same: far from a mean of 1 %."""
    scores = np.zeros((2, 1000))
    scores[0, :10] = scores[1, 500:510] = 1
    found = seeds_and_images(scores).interval
    rest = float(((scores - scores.mean(axis=0)) ** 2).sum() / 999)
    half = reference.t(999).ppf(0.975) * np.sqrt(rest / 2000)
    assert found == pytest.approx((0.01 - half, 0.01 + half))
    assert half > 0.004


SETTINGS = {
    "images vary most": {"sd_seed": 0.001, "sd_image": 0.4, "sd_rest": 0.2},
    "both vary": {"sd_seed": 0.02, "sd_image": 0.4, "sd_rest": 0.2},
    "seeds vary most": {"sd_seed": 0.2, "sd_image": 0.4, "sd_rest": 0.2},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seeds", [3, 5])
def test_few_seeds_are_covered(setting: str, seeds: int) -> None:
    """10,000 tables of 100 images: not less than promised, nor much more."""
    rng, covered = np.random.default_rng(20), 0
    for _ in range(20):
        for scores in tables(rng, seeds=seeds, n=100, count=500, **SETTINGS[setting]):
            low, high = seeds_and_images(scores, low=-9, high=9).interval or (0, 0)
            covered += low <= 0 <= high
    assert 0.945 <= covered / 10_000 <= 0.98


def test_the_hierarchical_variance_is_that_of_the_closed_form() -> None:
    """Crossed resampling of S seeds and n images: a part of the seeds, of the images, and of what is left."""
    (scores,) = tables(np.random.default_rng(21), seeds=4, n=50, sd_seed=0.3, sd_image=1, sd_rest=0.5, count=1)
    found = seed_replicates(scores[None], mean_of, replicates=20_000)
    by_seed, by_image = scores.mean(axis=1), scores.mean(axis=0)
    rest = scores - by_seed[:, None] - by_image + scores.mean()
    # With weights of mean 1 drawn independently, the parts do not correlate.
    expected = by_seed.var() / 4 + by_image.var() / 50 + (rest**2).mean() / (4 * 50)
    assert found.var() == pytest.approx(expected, rel=0.03)
    assert found.mean() == pytest.approx(scores.mean(), abs=0.005)
    # Images drawn apart for each seed would average out.
    assert by_image.var() / 50 > 3 * (scores - by_seed[:, None]).var() / 200


def test_few_seeds_cannot_be_covered_by_resampling() -> None:
    """No resampled mean lies outside the seeds' own, and all S lie on one side of the truth with 2^(1 - S)."""
    for scores in np.random.default_rng(22).normal(size=(5, 1, 3, 1)):
        low, high = hierarchical(scores, mean_of, replicates=2000).interval or (0, 0)
        assert (low, high) == pytest.approx((scores.min(), scores.max()))


def test_many_seeds_are_covered_by_resampling() -> None:
    """1,000 tables of 40 seeds whose effects are as large as the images'."""
    rng = np.random.default_rng(26)
    scores = tables(rng, seeds=40, n=60, sd_seed=0.1, sd_image=0.12, sd_rest=0.1, count=1000)
    low, high = np.quantile(seed_replicates(scores, lambda means: means, replicates=400), [0.025, 0.975], axis=-1)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.95, abs=0.02)


def test_one_seed_is_the_bootstrap_over_images() -> None:
    scores = np.random.default_rng(23).random((2, 1, 100))
    assert hierarchical(scores, harmonics) == bootstrap(scores[:, 0], harmonics)


def test_the_statistic_is_taken_of_each_seed() -> None:
    scores = np.random.default_rng(24).random((2, 3, 100)) * np.array([0.2, 1.0, 1.0])[:, None]
    expected = np.mean([harmonics(scores[:, s].mean(axis=-1)) for s in range(3)])
    assert hierarchical(scores, harmonics, replicates=50).value == pytest.approx(float(expected))


def test_two_methods_share_the_images_and_not_the_seeds() -> None:
    """The images' effect cancels in the difference; the seeds' effects add."""
    rng = np.random.default_rng(25)
    image = rng.normal(size=200)
    one, two = (image + 0.05 * rng.normal(size=(4, 1)) for _ in "ab")
    a, b = (seed_replicates(scores[None], mean_of, group=group) for scores, group in ((one, "a"), (two, "b")))
    expected = one.mean(axis=1).var() / 4 + two.mean(axis=1).var() / 4
    assert (a - b).var() == pytest.approx(expected, rel=0.05)
    assert a.var() > 4 * expected
    same = seed_replicates(one[None], mean_of, group="a")
    np.testing.assert_array_equal(a, same)
    interval = percentile_interval(a - b)
    assert interval is not None
    assert interval.low < one.mean() - two.mean() < interval.high
