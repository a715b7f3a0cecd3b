"""MixProp's step written out with one plain network per branch."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robusteval.data.augment import mixup
from robusteval.methods.mixprop import MixProp
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)


class TestMixProp(MethodContract):
    method = MixProp()


class TestMixPropInTwoPasses(MethodContract):
    method = MixProp(alpha=0.2, loss_weighting="sum", forward="two")


def by_hand(networks, check, method):
    model, main, aux = networks()
    mixed = mixup(BATCH.x, BATCH.y, BATCH.rng, alpha=method.alpha)
    share = float(mixed.lam[0])
    assert (mixed.y_a == BATCH.y).all()
    assert (mixed.y_b != BATCH.y).any()
    assert 0.05 < share < 0.95
    scale = 0.5 if method.loss_weighting == "mean" else 1.0
    (scale * F.cross_entropy(main(BATCH.x), BATCH.y)).backward()
    logits = aux(mixed.x)
    loss = share * F.cross_entropy(logits, BATCH.y) + (1 - share) * F.cross_entropy(logits, mixed.y_b)
    (scale * loss).backward()
    check(model, method, main, aux)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("weighting", ["mean", "sum"])
@pytest.mark.parametrize("forward", ["one", "two"])
def test_step(networks, check, alpha, weighting, forward):
    by_hand(networks, check, MixProp(alpha=alpha, loss_weighting=weighting, forward=forward))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (  # the branches swapped
            "{MAIN: unmixed(batch.x, batch.y), AUX: mixup(batch.x, batch.y, batch.rng, alpha=self.alpha)}",
            "{AUX: unmixed(batch.x, batch.y), MAIN: mixup(batch.x, batch.y, batch.rng, alpha=self.alpha)}",
        ),
        (  # the labels of the first images only
            "mixup(batch.x, batch.y, batch.rng, alpha=self.alpha)}",
            "unmixed(mixup(batch.x, batch.y, batch.rng, alpha=self.alpha).x, batch.y)}",
        ),
        ("alpha=self.alpha", "alpha=1.0"),
        ("loss_weighting=self.loss_weighting", 'loss_weighting="sum"'),
    ],
)
def test_mutants_are_caught(networks, check, mutant, old, new):
    with pytest.raises(AssertionError):
        by_hand(networks, check, mutant(MixProp, old, new)(alpha=0.5))


@pytest.mark.parametrize("weighting", ["mean", "sum"])
def test_logs(networks, weighting):
    """An accuracy is that of the images with the greater share in a mixture."""
    greater = set()
    for number in range(4):
        model, main, aux = networks()
        for net in (model, main, aux):
            net.head.weight.data.sub_(net.head.weight.mean(1, keepdim=True))  # or there is one prediction for all
            net.head.bias.data.zero_()
        batch = replace(BATCH, rng=BATCH.rng.at(number))
        mixed = mixup(batch.x, batch.y, batch.rng, alpha=1.0)
        share = float(mixed.lam[0])
        greater.add(share > 0.5)
        logits, logits_aux = main(batch.x), aux(mixed.x)
        loss_aux = share * F.cross_entropy(logits_aux, batch.y) + (1 - share) * F.cross_entropy(logits_aux, mixed.y_b)
        expected = {
            "loss": (F.cross_entropy(logits, batch.y) + loss_aux) / (2 if weighting == "mean" else 1),
            "loss_aux": loss_aux,
            "accuracy": (logits.argmax(1) == batch.y).float().mean(),
            "accuracy_aux": (logits_aux.argmax(1) == (batch.y if share > 0.5 else mixed.y_b)).float().mean(),
        }
        logs = MixProp(loss_weighting=weighting).step(model, batch, torch.autograd.backward)
        torch.testing.assert_close(logs, {name: value.detach() for name, value in expected.items()})
    assert greater == {True, False}


def test_cost():
    assert MixProp().passes().flops == 2
    with pytest.raises(ValueError, match="greater than 0"):
        MixProp(alpha=0.0)
