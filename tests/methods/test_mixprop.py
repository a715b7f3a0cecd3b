"""MixProp's step written out with one plain network per branch."""

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


def test_logs_and_cost(networks):
    model, *_ = networks()
    logs = MixProp().step(model, BATCH, torch.autograd.backward)
    assert logs.keys() == {"loss", "loss_aux", "accuracy", "accuracy_aux"}
    assert MixProp().passes().flops == 2
    with pytest.raises(ValueError, match="greater than 0"):
        MixProp(alpha=0.0)
