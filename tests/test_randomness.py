import math

import pytest
import torch
from scipy import stats

from robusteval.randomness import Stream

STREAM = Stream.of(7).at("test")
INDEX = torch.arange(4000)


def reference_bits(stream, index, position):
    """One draw in plain Python integers."""

    def mix(x):
        x &= 0xFFFFFFFF
        x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
        x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
        return x ^ (x >> 16)

    w = [int.from_bytes(stream.key[i : i + 4], "little") for i in range(0, 16, 4)]
    low, high = index & 0xFFFFFFFF, index >> 32
    first = mix(mix(low ^ w[0]) + (high ^ w[1]))
    second = mix(mix(low + w[2]) ^ (high + w[3]))
    return mix(mix(position ^ first) + second)


def test_bits_against_plain_integers():
    index = torch.tensor([0, 1, 49_999, 2**31 + 5, 2**40 + 3])
    drawn = STREAM.bits(index, 3, 2).reshape(5, 6) & 0xFFFFFFFF
    expected = [[reference_bits(STREAM, i, p) for p in range(6)] for i in index.tolist()]
    assert (drawn.to(torch.int64) % 2**32).tolist() == [[v % 2**32 for v in row] for row in expected]


def test_a_draw_depends_on_its_sample_only():
    whole = STREAM.uniform(INDEX[:64], 3, 4)
    shuffled = torch.randperm(64)
    assert torch.equal(STREAM.uniform(shuffled, 3, 4), whole[shuffled])
    assert torch.equal(STREAM.normal(torch.tensor([9]), 5)[0], STREAM.normal(INDEX[:64], 5)[9])


def test_purposes_seeds_and_orders_give_other_draws():
    streams = [Stream.of(0), Stream.of(1), Stream.of(0).at("a"), Stream.of(0).at("a", 1), Stream.of(0).at(1, "a")]
    streams += [Stream.of(0).at("a1"), Stream.of(0).at("1"), Stream.of(0).at(1)]
    draws = {tuple(s.bits(INDEX[:2], 2).flatten().tolist()) for s in streams}
    assert len(draws) == len(streams)


def test_uniform_is_uniform_and_uncorrelated():
    u = STREAM.uniform(INDEX, 500)
    assert 0 <= u.min() < 1e-5
    assert 1 - 1e-5 < u.max() < 1
    assert stats.kstest(u.flatten()[::7].double().numpy(), "uniform").pvalue > 1e-3
    for a, b in ((u[:-1], u[1:]), (u[:, :-1], u[:, 1:])):  # neighbouring samples, neighbouring positions
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 4 / math.sqrt(a.numel())


def test_normal_is_normal():
    z = STREAM.normal(INDEX[:1000], 300).flatten().double()
    assert stats.kstest(z[::3].numpy(), "norm").pvalue > 1e-3
    assert z.isfinite().all()


@pytest.mark.parametrize("high", [1, 2, 9, 1000])
def test_integers_cover_their_range_evenly(high):
    drawn = STREAM.integers(INDEX, high, 20).flatten()
    counts = torch.bincount(drawn, minlength=high)
    assert len(counts) == high
    if high > 1:
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_permutation_and_beta_repeat():
    assert sorted(STREAM.permutation(50).tolist()) == list(range(50))
    assert STREAM.permutation(50).tolist() == STREAM.permutation(50).tolist() != STREAM.at(1).permutation(50).tolist()
    drawn = [Stream.of(i).beta(0.2) for i in range(2000)]
    assert stats.kstest(drawn, stats.beta(0.2, 0.2).cdf).pvalue > 1e-3
