"""All pairs of a table against one pair at a time; Holm against closed testing; what ranks promise, by simulation."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference

from robusteval.stats import Pairwise, compare_outcomes, compare_scores, compare_seeds, holm, paired, ranks

RNG = np.random.default_rng(6)
RIGHT = RNG.random((6, 300)) < np.linspace(0.6, 0.8, 6)[:, None]


def test_outcomes_are_compared_as_one_pair_would_be() -> None:
    found = compare_outcomes(RIGHT)
    for i, first in enumerate(RIGHT):
        for j, second in enumerate(RIGHT):
            one = paired(first, second)
            assert found.difference[i, j] == pytest.approx(one.difference, abs=1e-15)
            assert (found.low[i, j], found.high[i, j]) == pytest.approx(one.interval, abs=1e-15)
            assert found.p[i, j] == one.p
    middle = compare_outcomes(RIGHT, test="mid", level=0.5)
    one = paired(RIGHT[0], RIGHT[3], test="mid", level=0.5)
    assert (middle.p[0, 3], middle.low[0, 3]) == (one.p, one.interval.low)


def test_scores_are_compared_by_scipys_paired_t_test() -> None:
    scores = RNG.beta(2, 1, (5, 1)) + 0.1 * RNG.random((5, 40))
    scores[4] = scores[0]
    found = compare_scores(scores, level=0.9)
    for i in range(5):
        for j in range(5):
            if i == j or {i, j} == {0, 4}:
                assert (found.difference[i, j], found.p[i, j]) == (0, 1)
                assert np.isnan(found.low[i, j])
                assert np.isnan(found.high[i, j])
                continue
            peer = reference.ttest_rel(scores[i], scores[j])
            interval = peer.confidence_interval(0.9)
            assert found.p[i, j] == pytest.approx(peer.pvalue, rel=1e-9)
            assert (found.low[i, j], found.high[i, j]) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_without_a_level_there_are_the_tests_alone() -> None:
    found, whole = compare_outcomes(RIGHT, level=None), compare_outcomes(RIGHT)
    np.testing.assert_array_equal(found.p, whole.p)
    np.testing.assert_array_equal(found.difference, whole.difference)
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()


def seeds_and_images_drawn(
    rng: np.random.Generator, seeds: tuple[int, ...], n: int, by_seed: float, by_image: float, rest: float
) -> list[Any]:
    """Rows of (seeds, n) outcomes of equal accuracy: hard images are hard for all, and each row has its own."""
    shared = 0.8 + 1.2 * rng.normal(size=n)
    return [
        shared + by_image * rng.normal(size=n) + by_seed * rng.normal(size=(s, 1)) + rest * rng.normal(size=(s, n)) > 0
        for s in seeds
    ]


def check_seeds(compare: Callable[..., Any]) -> None:
    """One pair at a time, as it would be written down."""
    rows = seeds_and_images_drawn(np.random.default_rng(12), (3, 1, 5, 2), 80, 0.2, 0.4, 0.3)
    found = compare(rows, level=0.9)
    for i, first in enumerate(rows):
        for j, second in enumerate(rows):
            if i == j:
                assert (found.difference[i, i], found.p[i, i]) == (0, 1)
                assert np.isnan(found.low[i, i])
                continue
            differences = [float(np.mean(first[:, k])) - float(np.mean(second[:, k])) for k in range(80)]
            parts = [(np.var(differences, ddof=1) / 80, 79)]
            for row in (first, second):
                if len(row) > 1:
                    parts.append((np.var([one.mean() for one in row], ddof=1) / len(row), len(row) - 1))
            variance = sum(part for part, _ in parts)
            freedom = variance**2 / sum(part**2 / units for part, units in parts)
            difference = np.mean(differences)
            t = reference.t(freedom)
            half = t.ppf(0.95) * np.sqrt(variance)
            assert found.difference[i, j] == pytest.approx(difference, abs=1e-14)
            assert found.p[i, j] == pytest.approx(2 * t.sf(abs(difference) / np.sqrt(variance)), rel=1e-9)
            interval = (difference - half, difference + half)
            assert (found.low[i, j], found.high[i, j]) == pytest.approx(interval, abs=1e-12)


def test_seeds_are_compared_as_written_out() -> None:
    check_seeds(compare_seeds)


def test_a_mistake_in_comparing_seeds_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("of_images + of_seeds[:, None] + of_seeds[None, :]", "of_images + of_seeds[:, None]"),
        ("row.mean(axis=1).var(ddof=1) / len(row)", "row.mean(axis=1).var(ddof=1)"),
        ("row.mean(axis=1).var(ddof=1)", "row.mean(axis=1).var()"),
        ("of_seeds**2 / freedom", "of_seeds**2"),
        ("(images - 1) + squares", "images + squares"),
        ("variance**2 / spread, images, level)", "np.full_like(variance, 79.0), images, level)"),
    ):
        with pytest.raises(AssertionError):
            check_seeds(mutant(compare_seeds, old, new))


def by_signs(one: Any, two: Any) -> float:
    """The p-value of the signs of differences, by scipy's binomial test."""
    above = int((np.asarray(one) > np.asarray(two)).sum())
    return float(reference.binomtest(above, np.size(one)).pvalue)


@pytest.mark.parametrize("images", [2, 5, 12, 400])
def test_a_difference_that_is_the_same_for_all_images_is_tested_by_its_sign(images: int) -> None:
    """t is infinite, which says 0 for two images as for a thousand; without the fallback p was 1."""
    hard = RNG.random(images) / 2
    rows = np.stack([hard + 0.25, hard, hard + 0.5, hard])
    found = compare_scores(rows)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        assert found.p[i, j] == pytest.approx(by_signs(rows[i], rows[j]), rel=1e-9)
        assert np.isnan(found.low[i, j])
    assert found.p[1, 3] == 1.0
    np.testing.assert_array_equal(found.p, compare_seeds([row[None] for row in rows]).p)


@pytest.mark.parametrize("images", [2, 7, 300])
def test_all_right_against_all_wrong_is_what_mcnemar_says(images: int) -> None:
    for seeds in (1, 2, 5):
        rows = np.ones((seeds, images), bool), np.zeros((seeds, images), bool)
        assert compare_seeds(rows).p[0, 1] == pytest.approx(paired(rows[0][0], rows[1][0]).p, rel=1e-9)
        assert compare_seeds(rows).p[0, 0] == 1.0


def test_a_mistake_where_differences_do_not_vary_is_noticed(mutant: Callable[..., Any]) -> None:
    right, wrong = np.ones((2, 7), bool), np.zeros((2, 7), bool)
    expected = paired(right[0], wrong[0]).p
    for old, new in (
        ("np.where(_differ(means), 2.0 ** (1 - images), 1.0)", "1.0"),
        ("np.where(_differ(means), 2.0 ** (1 - images), 1.0)", "np.where(_differ(means), 0.0, 1.0)"),
        ("2.0 ** (1 - images)", "2.0 ** (-images)"),
    ):
        assert mutant(compare_seeds, old, new)([right, wrong]).p[0, 1] != pytest.approx(expected)


def test_seeds_are_what_is_left_where_all_images_differ_by_the_same() -> None:
    """Welch's test of the seeds' means."""
    hard = RNG.random(30) / 2
    rows = [hard + np.array(by_seed)[:, None] for by_seed in ([0.3, 0.31, 0.35], [0.2, 0.24])]
    found, peer = compare_seeds(rows), reference.ttest_ind([0.3, 0.31, 0.35], [0.2, 0.24], equal_var=False)
    assert found.p[0, 1] == pytest.approx(peer.pvalue, rel=1e-6)
    interval = peer.confidence_interval(0.95)
    assert (found.low[0, 1], found.high[0, 1]) == pytest.approx((interval.low, interval.high), rel=1e-6)


def test_equal_means_of_seeds_by_chance_leave_the_images() -> None:
    """Both seeds of both rows have the same mean, on other images: the test is that of the images' mean differences."""
    first = np.zeros((2, 40), bool)
    first[0, :20] = first[1, 15:35] = True
    second = np.zeros((2, 40), bool)
    second[0, 5:16] = second[1, 25:36] = True
    peer = reference.ttest_rel(first.mean(axis=0), second.mean(axis=0))
    assert compare_seeds([first, second]).p[0, 1] == pytest.approx(peer.pvalue, rel=1e-9)
    assert peer.pvalue > 1e-4  # a t test of the two seeds alone would say 0


def test_differences_by_rounding_are_none() -> None:
    ones = np.full((2, 50), 0.1 + 0.2)
    ones[1] = 0.3
    assert (compare_scores(ones).p == 1).all()
    assert (compare_seeds([ones[:1], ones[1:]]).p == 1).all()


def test_single_seeds_are_compared_as_scores() -> None:
    scores = RNG.beta(2, 1, (4, 60))
    found, expected = compare_seeds([row[None] for row in scores], level=0.8), compare_scores(scores, level=0.8)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("seeds", "most"), [((3, 3), 0.05), ((5, 5), 0.05), ((2, 5), 0.08), ((2, 2), 0.08)])
@pytest.mark.parametrize(("by_seed", "rest"), [(0.0, 0.5), (0.02, 0.1), (0.1, 0.3), (0.4, 0.1)])
def test_equal_rows_are_seldom_told_apart(seeds: tuple[int, int], most: float, by_seed: float, rest: float) -> None:
    """600 pairs of equally good methods, for no, little and much variance of seeds beside that of images."""
    rng = np.random.default_rng(13)
    told = [compare_seeds(seeds_and_images_drawn(rng, seeds, 300, by_seed, 0.3, rest)).p[0, 1] for _ in range(600)]
    share = float(np.mean(np.array(told) <= 0.05))
    assert share <= most + 2 * np.sqrt(most * (1 - most) / 600)


def test_a_test_that_forgets_seeds_tells_equal_rows_apart() -> None:
    """What the variance over seeds is for: without it, every third pair of equal methods differs."""
    rng = np.random.default_rng(14)
    pairs = [seeds_and_images_drawn(rng, (3, 3), 300, 0.4, 0.3, 0.1) for _ in range(300)]
    forgetful = [compare_scores(np.array([one.mean(axis=0) for one in rows])).p[0, 1] for rows in pairs]
    assert np.mean(np.array(forgetful) <= 0.05) > 0.3
    assert np.mean([compare_seeds(rows).p[0, 1] <= 0.05 for rows in pairs]) < 0.08


def test_a_real_difference_is_told_with_seeds() -> None:
    rng = np.random.default_rng(15)
    rows = seeds_and_images_drawn(rng, (3, 3), 1000, 0.02, 0.3, 0.3)
    rows[1] &= rng.random(rows[1].shape) < 0.8
    assert compare_seeds(rows).p[0, 1] < 1e-3
    assert ranks(compare_seeds(rows)).best.tolist() == [1, 2]


def test_a_hundred_networks_take_no_time() -> None:
    right = np.random.default_rng(7).random((100, 10_000)) < 0.8
    start = time.process_time()
    ranks(compare_outcomes(right))
    ranks(compare_scores(right))
    assert time.process_time() - start < 5


def closed_testing(p: Any) -> list[float]:
    """The least level at which Bonferroni rejects every intersection of hypotheses that one is in."""
    subsets = [*chain.from_iterable(combinations(range(len(p)), size) for size in range(1, len(p) + 1))]
    return [max(min(1.0, len(s) * min(p[i] for i in s)) for s in subsets if one in s) for one in range(len(p))]


def check_holm(adjust: Callable[..., Any]) -> None:
    rng = np.random.default_rng(8)
    for size in (1, 2, 5, 8):
        for _ in range(5):
            p = rng.beta(0.3, 2, size).round(2)  # with ties
            np.testing.assert_allclose(adjust(p), closed_testing(p), atol=1e-12)
    p = rng.random((3, 4))
    np.testing.assert_array_equal(adjust(p), adjust(p.ravel()).reshape(3, 4))


def test_holm_is_closed_testing_by_bonferroni() -> None:
    check_holm(holm)


def test_a_mistake_in_holm_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("np.maximum.accumulate(flat[order]", "(flat[order]"),
        ("np.arange(flat.size, 0, -1)", "flat.size"),
        ("found[order] =", "found[:] ="),
    ):
        with pytest.raises(AssertionError):
            check_holm(mutant(holm, old, new))


def test_holm_bounds_the_probability_of_one_false_rejection() -> None:
    """10,000 families of ten dependent tests of true hypotheses."""
    rng = np.random.default_rng(9)
    shared = rng.normal(size=(10_000, 1)) * 0.5
    z = shared + rng.normal(size=(10_000, 10)) * np.sqrt(0.75)
    p = 2 * reference.norm.sf(np.abs(z))
    false = np.mean([holm(one).min() <= 0.05 for one in p])
    assert 0.03 < false < 0.056


def compared(difference: list[float], significant: list[tuple[int, int]]) -> Pairwise:
    """Rows of these means, of which these pairs differ beyond doubt and no other."""
    means = np.array(difference)
    p = np.ones((len(means), len(means)))
    for i, j in significant:
        p[i, j] = p[j, i] = 1e-9
    gaps = means[:, None] - means[None, :]
    return Pairwise(gaps, gaps, gaps, p)


def test_ranks_count_the_better_rows() -> None:
    alone = ranks(compared([0.5], []))
    assert (alone.best.tolist(), alone.worst.tolist()) == ([1], [1])
    tied = ranks(compared([0.7, 0.9, 0.8], []))
    assert (tied.best.tolist(), tied.worst.tolist()) == ([1, 1, 1], [3, 3, 3])
    clear = ranks(compared([0.7, 0.9, 0.8], [(0, 1), (0, 2), (1, 2)]))
    assert clear.best.tolist() == clear.worst.tolist() == [3, 1, 2]
    top_two = ranks(compared([0.9, 0.89, 0.5], [(0, 2), (1, 2)]))
    assert (top_two.best.tolist(), top_two.worst.tolist()) == ([1, 1, 3], [2, 2, 3])


def test_what_follows_from_two_differences_needs_no_third_test() -> None:
    chain_of_four = ranks(compared([0.9, 0.8, 0.7, 0.6], [(0, 1), (1, 2), (2, 3)]))
    assert chain_of_four.best.tolist() == chain_of_four.worst.tolist() == [1, 2, 3, 4]


def test_a_row_may_pass_one_of_a_higher_score() -> None:
    found = ranks(compared([0.9, 0.8, 0.79], [(0, 1)]))
    assert found.best.tolist() == [1, 2, 1]


def ranks_written_out(table: Pairwise) -> tuple[list[int], list[int]]:
    """Holm's procedure step by step over the one-sided tests, then every chain of them."""
    rows = range(len(table.p))
    claims = sorted(
        (table.p[i, j] / 2 if table.difference[i, j] > 0 else 1.0, i, j) for i in rows for j in rows if i != j
    )
    better = set()
    for step, (p, i, j) in enumerate(claims):
        if p > 0.05 / (len(claims) - step):
            break
        better.add((i, j))
    for k in rows:
        better |= {(i, j) for i in rows for j in rows if (i, k) in better and (k, j) in better}
    best = [1 + sum((i, j) in better for i in rows) for j in rows]
    return best, [len(rows) - sum((i, j) in better for j in rows) for i in rows]


def random_tables() -> list[Any]:
    rng = np.random.default_rng(10)
    return [rng.random((8, 150)) < rng.uniform(0.3, 0.9, 8)[:, None] for _ in range(20)]


def check_ranks(rank: Callable[..., Any]) -> None:
    for right in random_tables():
        table = compare_outcomes(right)
        found = rank(table)
        assert (found.best.tolist(), found.worst.tolist()) == ranks_written_out(table)


def test_ranks_written_out() -> None:
    check_ranks(ranks)


def test_a_mistake_in_ranks_is_noticed(mutant: Callable[..., Any]) -> None:
    for old, new in (
        ("compared.p / 2, 1.0", "compared.p, 1.0"),
        ("holm(one_sided[others])", "one_sided[others]"),
        ("compared.difference > 0", "compared.difference < 0"),
        ("better.sum(axis=0), rows", "better.sum(axis=1), rows"),
    ):
        with pytest.raises(AssertionError):
            check_ranks(mutant(ranks, old, new))


def test_properties_of_ranks() -> None:
    """Better rows have lower ranks, the leader has the first, and the order of the rows does not matter."""
    rng = np.random.default_rng(30)
    for right in random_tables():
        table = compare_outcomes(right)
        found = ranks(table)
        for i, j in zip(*np.nonzero((table.p * 28 <= 0.05) & (table.difference > 0)), strict=True):
            assert found.best[i] < found.best[j]  # Bonferroni is enough
            assert found.worst[i] < found.worst[j]
        assert (found.best <= found.worst).all()
        assert found.best[right.mean(axis=1).argmax()] == 1
        assert found.worst[right.mean(axis=1).argmin()] == 8
        order = rng.permutation(8)
        again = ranks(compare_outcomes(right[order]))
        np.testing.assert_array_equal(again.best, found.best[order])
        np.testing.assert_array_equal(again.worst, found.worst[order])


def test_true_ranks_lie_between_best_and_worst() -> None:
    """400 tables of five networks, two of them equally good: all ranks of a table hold together, 95 of 100 times."""
    rng = np.random.default_rng(11)
    accuracy = np.array([0.70, 0.74, 0.74, 0.80, 0.83])
    first, last = np.array([5, 3, 3, 2, 1]), np.array([5, 4, 4, 2, 1])  # equals have both ranks
    held = told = 0
    for _ in range(400):
        found = ranks(compare_outcomes(rng.random((5, 500)) < accuracy[:, None]))
        held += bool((found.best <= first).all() and (found.worst >= last).all())
        told += int((found.worst - found.best < 4).sum())
    assert held / 400 > 0.95 - 0.01
    assert told / 400 > 3  # and they do say something
