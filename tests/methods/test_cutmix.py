"""CutMix: the loss against both labels written out, for batches that are mixed and batches that are not."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy import stats

from robusteval.method import Batch
from robusteval.methods.cutmix import CutMix
from robusteval.randomness import Stream
from robusteval.testing import MethodContract, example_batch

STEPS = range(6)


def is_mixed(batch, probability):
    return float(batch.rng.at("mix").uniform(torch.zeros(1, dtype=torch.int64), 1)) < probability


def pasted(batch):
    """Images with boxes, the other labels, and the share that is left, from the step's raw draws."""
    rng, (n, _, height, width) = batch.rng, batch.x.shape
    lam = rng.at("lam").beta(1.0)
    partner = rng.at("partner").permutation(n)
    centre = rng.at("centre").integers(torch.zeros(1, dtype=torch.int64), 1 << 20, 2)[0].tolist()
    cut = int(height * (1 - lam) ** 0.5)
    sides = []
    for draw, size in zip(centre, (height, width), strict=True):
        middle = draw * size >> 20
        sides.append([i for i in range(size) if middle - cut // 2 <= i < middle + cut // 2])
    x = batch.x.clone()
    for row in sides[0]:
        for column in sides[1]:
            x[:, :, row, column] = batch.x[partner, :, row, column]
    return x, batch.y[partner], 1 - len(sides[0]) * len(sides[1]) / (height * width)


def by_hand(method, networks, check):
    kinds = set()
    for step in STEPS:
        batch = example_batch(20, step=step)
        kinds.add(is_mixed(batch, 0.5))
        model, main = networks(branches=())
        if is_mixed(batch, 0.5):
            x, other, left = pasted(batch)
            logits = main(x)
            loss = left * F.cross_entropy(logits, batch.y) + (1 - left) * F.cross_entropy(logits, other)
        else:
            loss = F.cross_entropy(main(batch.x), batch.y)
        loss.backward()
        check(model, method, main, branches=(), batch=batch)
        logs = method.step(networks(branches=())[0], batch, torch.autograd.backward)
        torch.testing.assert_close(logs["loss"], loss.detach())
    assert kinds == {True, False}


def test_step_by_hand(networks, check):
    by_hand(CutMix(), networks, check)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float(drawn) < self.probability", "float(drawn) >= self.probability"),
        ("float(drawn) < self.probability", "self.probability"),
        ("logits, mixed.y_a, mixed.y_b, mixed.lam", "logits, mixed.y_b, mixed.y_a, mixed.lam"),
        ("logits, mixed.y_a, mixed.y_b, mixed.lam", "logits, mixed.y_a, mixed.y_a, mixed.lam"),
        ("model(mixed.x)", "model(batch.x)"),
        ("alpha=self.alpha", "alpha=0.1"),
        ("import Mixed, cutmix", "import Mixed, mixup as cutmix"),
    ],
)
def test_mistakes_are_found(old, new, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(CutMix, old, new)(), networks, check)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_batches_are_mixed_with_the_probability(probability):
    x, y = torch.zeros(2, 3, 2, 2), torch.arange(2)
    method, count = CutMix(probability=probability), 0
    for step in range(200):
        batch = Batch(x, y, y, Stream.of(0).at(step), 5)
        mixed = method.mixed(batch)
        assert is_mixed(batch, probability) == (mixed.x is not x)
        count += mixed.x is not x
    assert stats.binomtest(count, 200, probability).pvalue > 1e-3


def test_logged_accuracy_is_that_of_the_larger_share(networks):
    batches = [batch for batch in (example_batch(20, step=step) for step in range(60)) if is_mixed(batch, 0.5)]
    batch = min(batches, key=lambda batch: pasted(batch)[2])
    x, other, left = pasted(batch)
    assert left < 0.5
    model, main = networks(branches=())
    logs = CutMix().step(model, batch, torch.autograd.backward)
    assert logs["accuracy"] == (main(x).argmax(1) == other).float().mean()


def test_pass_counts_and_options():
    assert CutMix().passes().train == {"main": 1}
    for bad in ({"alpha": 0.0}, {"probability": 1.5}, {"prob": 0.5}):
        with pytest.raises(ValidationError):
            CutMix(**bad)


class TestCutMix(MethodContract):
    method = CutMix()


class TestCutMixOfEveryBatch(MethodContract):
    method = CutMix(probability=1.0, alpha=0.3)
