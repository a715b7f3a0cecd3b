"""All pairs of a table against one pair at a time; Holm against closed testing; what ranks promise, by simulation."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference

from robusteval.stats import Pairwise, compare_outcomes, compare_scores, holm, paired, ranks

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
