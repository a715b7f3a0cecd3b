import math
from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2 import functional as peer

from robusteval.data.augment import Augment, as_float, augment, cutmix, mixup
from robusteval.randomness import Stream

ROOT = Stream.of(0).at("augment", 0)


def noise(n, seed=0):
    return torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_as_float_is_the_conversion_of_torchvision():
    images = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(1, 3, 32, 32)
    assert torch.equal(as_float(images)[0], to_tensor(images[0].permute(1, 2, 0).numpy()))
    assert images.flatten()[255] == 255


def test_nothing_to_do_changes_nothing():
    images = noise(8)
    plain = augment(images, torch.arange(8), ROOT, Augment(crop_padding=0, flip=False))
    assert torch.equal(plain, images.float() / 255)


def test_crop_and_flip_are_those_of_torchvision_one_image_at_a_time():
    images = noise(48)
    before = images.clone()
    out = augment(images, torch.arange(48), ROOT, Augment())
    assert torch.equal(images, before)
    assert (out.shape, out.dtype) == ((48, 3, 32, 32), torch.float32)
    seen = set()
    for image, got in zip(images, out, strict=True):
        padded = peer.pad(image, [4, 4, 4, 4])
        crops = {(top, left): peer.crop(padded, top, left, 32, 32) for top in range(9) for left in range(9)}
        made = {(*place, False): crop for place, crop in crops.items()}
        made |= {(*place, True): peer.horizontal_flip(crop) for place, crop in crops.items()}
        matches = [how for how, picture in made.items() if torch.equal(picture.float() / 255, got)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 35


@pytest.mark.parametrize(
    ("spec", "places", "flips"),
    [
        (Augment(crop_padding=2, flip=False), 5, {False}),
        (Augment(crop_padding=0, flip=True), 1, {False, True}),
        (Augment(crop_padding=4, flip=True), 9, {False, True}),
    ],
)
def test_offsets_and_flips_are_uniform_and_independent(spec, places, flips):
    n = 20_000
    grid = torch.arange(32, dtype=torch.uint8)
    image = torch.stack([grid[:, None].expand(32, 32), grid.expand(32, 32), grid.expand(32, 32)])
    out = augment(image.expand(n, 3, 32, 32), torch.arange(n), ROOT, spec).mul(255).round().long()
    # Row 16 of the output shows row 16 + top - padding of the input; columns run backwards in a mirrored image.
    top = out[:, 0, 16, 16] - 16 + spec.crop_padding
    mirrored = out[:, 1, 16, 17] < out[:, 1, 16, 16]
    left = torch.where(mirrored, out[:, 1, 16, 15], out[:, 1, 16, 16]) - 16 + spec.crop_padding
    cells = Counter(zip(top.tolist(), left.tolist(), mirrored.tolist(), strict=True))
    expected = {(t, x, f) for t in range(places) for x in range(places) for f in flips}
    assert set(cells) == expected
    if len(expected) > 1:
        assert stats.chisquare(list(cells.values())).pvalue > 1e-3


def test_draws_depend_on_the_index_and_the_stream_only():
    images, index, spec = noise(32), torch.randperm(4000)[:32], Augment(cutout=12)
    whole = augment(images, index, ROOT, spec)
    order = torch.randperm(32)
    assert torch.equal(augment(images[order], index[order], ROOT, spec), whole[order])
    for i in (0, 17):
        assert torch.equal(augment(images[i : i + 1], index[i : i + 1], ROOT, spec)[0], whole[i])
    other = augment(images, index, Stream.of(0).at("augment", 1), spec)
    assert (other != whole).flatten(1).any(1).sum() >= 30


@pytest.mark.parametrize("side", [16, 8])
def test_cutout_is_a_clipped_square_at_a_uniform_centre(side):
    n, fill = 16_000, (0.25, 0.5, 0.75)
    images = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8).expand(n, 3, 32, 32)
    out = augment(images, torch.arange(n), ROOT, Augment(crop_padding=0, flip=False, cutout=side), fill=fill)
    hidden = out[:, 0] == fill[0]
    assert torch.equal(out, torch.where(hidden[:, None], torch.tensor(fill).view(3, 1, 1), torch.ones(())))
    rows, columns = hidden.any(2), hidden.any(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    # As in the paper's description: a centre anywhere, half the side on either hand, clipped.
    lines = {tuple(max(c - side // 2, 0) <= i < min(c + side // 2, 32) for i in range(32)): c for c in range(32)}
    assert len(lines) == 32
    centres = [[lines[tuple(line)] for line in part.tolist()] for part in (rows, columns)]
    table = np.zeros((32, 32))
    np.add.at(table, tuple(centres), 1)
    assert stats.chisquare(table.sum(0)).pvalue > 1e-3
    assert stats.chisquare(table.sum(1)).pvalue > 1e-3
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_options_out_of_range_are_refused():
    for bad in ({"crop_padding": -1}, {"cutout": -2}, {"flip": 1}, {"crop": 4}):
        with pytest.raises(ValidationError):
            Augment(**bad)


def test_mixup_is_the_published_blend():
    x, y = torch.rand(16, 3, 32, 32), torch.arange(16) * 3
    before = x.clone()
    mixed = mixup(x, y, ROOT, alpha=1.0)
    assert torch.equal(x, before)
    lam = mixed.lam[0]
    assert torch.equal(mixed.lam, lam.expand(16))
    assert torch.equal(mixed.y_a, y)
    partner = mixed.y_b // 3
    assert sorted(partner.tolist()) == list(range(16))
    assert (partner != torch.arange(16)).sum() > 10
    for i in range(16):
        torch.testing.assert_close(mixed.x[i], lam * x[i] + (1 - lam) * x[partner[i]], rtol=0, atol=1e-6)


def test_mixup_draws_beta_and_another_step_draws_anew():
    x, y = torch.zeros(4, 3, 1, 1), torch.arange(4)
    draws = [mixup(x, y, ROOT.at(step), alpha=0.4) for step in range(400)]
    assert stats.kstest([d.lam[0].item() for d in draws], stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    orders = Counter(tuple(d.y_b.tolist()) for d in draws)
    assert len(orders) == 24
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3


def boxes(steps, alpha, size=32):
    """Visible box and lam of many steps, with everything else about each step checked."""
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, size, size).contiguous()
    for step in range(steps):
        mixed = cutmix(x, torch.arange(6) + 10, ROOT.at(step), alpha=alpha)
        partner = mixed.y_b - 10
        assert sorted(partner.tolist()) == list(range(6))
        moved = next((i for i in range(6) if partner[i] != i), None)
        if moved is None:
            continue
        pasted = mixed.x[moved, 0] == partner[moved]
        rows, columns = (pasted.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
        for i in range(6):
            inside = torch.zeros(size, size, dtype=torch.bool)
            if rows:
                inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
            assert torch.equal(mixed.x[i, 1], torch.where(inside, float(partner[i]), float(i)))
        # The weight is the share of pixels that stayed, not the one drawn before the box was clipped.
        torch.testing.assert_close(mixed.lam, 1 - pasted.float().mean().expand(6), rtol=0, atol=1e-7)
        yield rows, columns, mixed.lam[0].item()
    assert torch.equal(x[:, 0, 0, 0], torch.arange(6.0))


def test_cutmix_box_is_clipped_around_a_uniform_centre():
    # Beta(a, a) with a huge a is 1/2: every box is int(32 sqrt(1/2)) = 22 wide before clipping.
    lines = {tuple(range(max(c - 11, 0), min(c + 11, 32))): c for c in range(32)}
    centres = [(lines[tuple(rows)], lines[tuple(columns)]) for rows, columns, _ in boxes(700, 1e9)]
    for axis in (0, 1):
        counts = np.bincount([centre[axis] for centre in centres], minlength=32)
        assert stats.chisquare(counts).pvalue > 1e-3
    assert abs(stats.spearmanr(*zip(*centres, strict=True)).statistic) < 0.15


def test_cutmix_weight_has_the_mean_that_the_clipping_gives():
    lam = [value for _, _, value in boxes(600, 1.0)]

    def mean_side(cut):  # of the visible part of a side, over the 32 centres
        return sum(min(c + cut // 2, 32) - max(c - cut // 2, 0) for c in range(32)) / 32

    drawn = (np.arange(20_000) + 0.5) / 20_000  # Beta(1, 1) is uniform
    expected = 1 - np.mean([mean_side(int(32 * math.sqrt(1 - value))) ** 2 for value in drawn]) / 1024
    assert abs(np.mean(lam) - expected) < 4 * np.std(lam) / math.sqrt(len(lam))
    assert abs(expected - 0.5) > 0.1  # so that a weight which ignores the clipping would be found
