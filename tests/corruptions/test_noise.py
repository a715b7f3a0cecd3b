"""The laws of the four noises against the published recipe, and the sampler against its own table."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm
from torch import Tensor

from robusteval.corruptions import CIFAR, TABLES, Table, noise, strengths
from robusteval.randomness import Stream

MATRICES = {
    "gaussian_noise": noise.gaussian_matrix,
    "shot_noise": noise.shot_matrix,
    "impulse_noise": noise.impulse_matrix,
    "speckle_noise": noise.speckle_matrix,
}
FUNCTIONS = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "speckle_noise": noise.speckle_noise,
}


def published(name: str, values: np.ndarray, c: float, rng: np.random.Generator) -> np.ndarray:
    """The recipe of the published generator, as it is written down."""
    x = values / 255.0
    if name == "gaussian_noise":
        out = x + rng.normal(size=x.shape, scale=c)
    elif name == "speckle_noise":
        out = x + x * rng.normal(size=x.shape, scale=c)
    elif name == "shot_noise":
        out = rng.poisson(x * c) / c
    else:
        hit, salt = rng.random(x.shape) < c, rng.random(x.shape) < 0.5
        out = np.where(hit, salt.astype(float), x)
    return np.uint8(np.clip(out, 0, 1) * 255)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", [1, 2.5, 5])
@pytest.mark.parametrize("name", MATRICES)
def test_the_matrix_is_the_law_of_the_published_recipe(name: str, severity: float, table: Table) -> None:
    strength = strengths.strength(table, name, severity)
    matrix = MATRICES[name](strength)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    rng = np.random.default_rng(0)
    n = 40_000
    for value in (0, 1, 100, 200, 254, 255):
        counts = np.bincount(published(name, np.full(n, value), strength[0], rng), minlength=256)
        law = matrix[value] * n
        assert counts[law == 0].sum() == 0
        few = law < 10
        grouped, expected = np.append(counts[~few], counts[few].sum()), np.append(law[~few], law[few].sum())
        if expected[-1] == 0:
            grouped, expected = grouped[:-1], expected[:-1]
        # 144 tests: a right law fails one of them in a thousand runs of different seeds.
        assert len(expected) == 1 or chisquare(grouped, expected * counts.sum() / expected.sum()).pvalue > 7e-6


def test_gaussian_noise_has_the_moments_of_a_clipped_and_truncated_normal() -> None:
    sigma = 255 * 0.08
    matrix = noise.gaussian_matrix((0.08,))
    levels = np.arange(256)
    # In the middle nothing is clipped: truncation takes half a level and adds the variance of a uniform.
    mean = matrix[128] @ levels
    assert mean == pytest.approx(127.5, abs=1e-6)
    assert matrix[128] @ (levels - mean) ** 2 == pytest.approx(sigma**2 + 1 / 12, rel=1e-4)
    assert matrix[255, 255] == pytest.approx(0.5)
    assert matrix[0, 0] == pytest.approx(norm.cdf(1 / sigma))


def test_shot_noise_keeps_mean_and_variance_of_photon_counts() -> None:
    # 255 photons at full brightness: one photon is one grey level, and nothing is truncated.
    matrix = noise.shot_matrix((255,))
    levels = np.arange(256)
    np.testing.assert_allclose(matrix[:200] @ levels, levels[:200], rtol=1e-3)
    np.testing.assert_allclose([row @ (levels - v) ** 2 for v, row in enumerate(matrix[:150])], levels[:150], rtol=1e-2)


@pytest.mark.parametrize("name", MATRICES)
def test_the_alias_table_holds_the_matrix(name: str) -> None:
    matrix = MATRICES[name](CIFAR[name][2])
    table = noise.alias_table(matrix).reshape(256, 256)
    own, other = (table >> 8) / 65536, table & 255
    held = own / 256
    np.add.at(held, (np.arange(256)[:, None], other), (1 - own) / 256)
    # The largest of a row also takes what the rounding of the others leaves.
    difference = np.sort(np.abs(held - matrix), axis=1)
    assert difference[:, :-1].max() <= 2.0**-25 + 1e-15
    assert difference.max() < 128 * 2.0**-24


def test_transition_reads_the_table_as_walker_says(photos: Tensor, index: Tensor) -> None:
    table = noise.alias_table(noise.gaussian_matrix((0.1,)))
    rng = Stream.of(5)
    got = noise.transition(photos[:2], torch.from_numpy(table), rng, index[:2])
    words = rng.bits(index[:2], 3, 32, 32).numpy().view(np.uint32)
    for place in [(0, 0, 0, 0), (0, 1, 7, 31), (1, 2, 31, 0), (1, 0, 16, 16), (1, 1, 2, 30)]:
        word, value = int(words[place]), int(photos[place])
        entry = int(table[value * 256 + word % 256])
        assert got[place] == (word % 256 if word // 256 % 65536 < entry // 256 else entry % 256)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_drawn_values_follow_the_law(name: str) -> None:
    strength = CIFAR[name][4]
    images = torch.full((40, 3, 32, 32), 90, dtype=torch.uint8)
    out = FUNCTIONS[name](images, strength, Stream.of(1), torch.arange(40))
    law = MATRICES[name](strength)[90] * out.numel()
    counts = np.bincount(out.flatten().numpy(), minlength=256)
    many = law >= 10
    assert chisquare(counts[many], law[many] * counts[many].sum() / law[many].sum()).pvalue > 1e-4
    assert abs(int(counts[~many].sum()) - law[~many].sum()) < 5 * np.sqrt(law[~many].sum() + 1)


def test_neighbouring_values_and_images_are_not_correlated() -> None:
    images = torch.full((200, 3, 32, 32), 128, dtype=torch.uint8)
    out = noise.gaussian_noise(images, (0.1,), Stream.of(2), torch.arange(200)).double()
    out -= out.mean()
    for other in (out.roll(1, 3), out.roll(1, 2), out.roll(1, 1), out.roll(1, 0)):
        correlation = float((out * other).mean() / (out * out).mean())
        assert abs(correlation) < 5 / np.sqrt(out.numel())
