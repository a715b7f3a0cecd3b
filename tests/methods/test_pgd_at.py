import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from robusteval.errors import UserError
from robusteval.methods.pgd_at import PgdAT
from robusteval.options import build
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)
EPSILON, STEP = 8 / 255, 2 / 255


def attacked(net, *, steps, train=False):
    """Linf PGD from a uniform start on a copy of a plain network."""
    net = copy.deepcopy(net).train(train)
    x = BATCH.x
    point = (x + (2 * BATCH.rng.at("start").uniform(BATCH.index, 3, 8, 8) - 1) * EPSILON).clamp(0, 1)
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        F.cross_entropy(net(leaf), BATCH.y).backward()
        point = torch.min(torch.max(point + STEP * leaf.grad.sign(), x - EPSILON), x + EPSILON).clamp(0, 1)
    return point


def moved_weights(net, x, gamma):
    """Adversarial weight perturbation by hand: each weight tensor towards a higher loss, by gamma of its length."""
    twin = copy.deepcopy(net)
    F.cross_entropy(twin(x), BATCH.y).backward()
    with torch.no_grad():
        for layer in ("conv1", "conv2", "head"):
            weight, gradient = net.get_submodule(layer).weight, twin.get_submodule(layer).weight.grad
            weight += gamma * weight.norm() * gradient / gradient.norm()


def by_hand(method, networks, check, *, steps=7, train=False, gamma=0.0):
    model, plain = networks(branches=())
    before = [p.detach().clone() for p in model.parameters()]
    x_adv = attacked(plain, steps=steps, train=train)
    if gamma:
        moved_weights(plain, x_adv, gamma)
    F.cross_entropy(plain(x_adv), BATCH.y).backward()
    tracked = int(model.bn2.num_batches_tracked)
    check(model, method, plain, branches=())
    assert int(model.bn2.num_batches_tracked) == tracked + 1
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    return x_adv


def test_the_step(networks, check):
    x_adv = by_hand(PgdAT(), networks, check)
    assert EPSILON - 1e-6 < float((x_adv - BATCH.x).abs().max()) < EPSILON + 1e-6


@pytest.mark.parametrize("mode", ["eval", "train-frozen-stats"])
def test_with_perturbed_weights(mode, networks, check):
    by_hand(PgdAT(steps=3, attack_bn=mode, awp=0.05), networks, check, steps=3, train=mode != "eval", gamma=0.05)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gamma=self.awp)", "gamma=0.0)"),
        ("gamma=self.awp)", "gamma=-self.awp)"),
        ("lambda: cross_entropy(model(x_adv), batch.y)", "lambda: cross_entropy(model(batch.x), batch.y)"),
        ("            backward(loss)", "        backward(cross_entropy(model(x_adv), batch.y).mean())"),
        ("mode=self.attack_bn", 'mode="train"'),
        ("start=start", "start=None"),
        ("            logits = model(x_adv)", "            logits = model(batch.x)"),
    ],
)
def test_mistakes_are_seen(old, new, networks, check, mutant):
    method = mutant(PgdAT, old, new)(steps=3, awp=0.05)
    with pytest.raises(AssertionError):
        by_hand(method, networks, check, steps=3, gamma=0.05)


class TestWithPerturbedWeights(MethodContract):
    method = PgdAT(steps=2, awp=0.01)


def test_passes():
    assert PgdAT().passes().flops == pytest.approx(1 + 7 * 2 / 3)
    law = PgdAT(steps=10, awp=0.01).passes()
    assert (law.train, law.attack) == ({"main": 2}, {"main": 10})


def test_published_numbers_are_those_of_ten_steps():
    rows = PgdAT.card.published
    assert {(row.dataset, row.architecture) for row in rows} == {
        (dataset, network) for dataset in ("cifar10", "cifar100") for network in ("resnet18", "wrn_34_10")
    }
    assert all(dict(row.options) == {"steps": 10} and 0 < row.value < 1 for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"awp": -0.1}, "awp"), ({"epsilon": 8.0}, "epsilon"), ({"step_size": 2.0}, "step_size"), ({"steps": 0}, "steps")],
)
def test_bad_options_are_one_clear_line(options, message):
    with pytest.raises(UserError, match=message):
        build(PgdAT, options, "here")


def test_options_are_fractions_and_frozen():
    method = build(PgdAT, {"epsilon": "4/255", "awp": 0.01}, "here")
    assert method.epsilon == 4 / 255
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.awp = 0.0
