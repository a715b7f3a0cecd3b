import copy
import math

import pytest
import torch
import torch.nn.functional as F

from robusteval.errors import UserError
from robusteval.losses import boosted_cross_entropy
from robusteval.methods.mart import Mart
from robusteval.options import build
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)
EPSILON, STEP = 8 / 255, 2 / 255


def attacked(net, *, steps, train):
    """Linf PGD on the cross-entropy from x + 0.001 N(0, 1), on a copy of a plain network."""
    net = copy.deepcopy(net).train(train)
    x = BATCH.x
    point = (x + 0.001 * BATCH.rng.at("start").normal(BATCH.index, 3, 8, 8)).clamp(0, 1)
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        F.cross_entropy(net(leaf), BATCH.y).backward()
        point = torch.min(torch.max(point + STEP * leaf.grad.sign(), x - EPSILON), x + EPSILON).clamp(0, 1)
    return point


def loss_of(net, x_adv, weight):
    """The paper's formula in probabilities, sample by sample."""
    clean, adversarial = net(BATCH.x).softmax(1), net(x_adv).softmax(1)
    total = 0.0
    for p, q, y in zip(clean, adversarial, BATCH.y.tolist(), strict=True):
        wrong = torch.cat([q[:y], q[y + 1 :]]).max()
        divergence = (p * (p / q).log()).sum()
        total = total - q[y].log() - (1 - wrong).log() + weight * divergence * (1 - p[y])
    return total / len(BATCH.y)


def by_hand(method, networks, check, *, weight=5.0, steps=10, train=False):
    """One step of the method against the plain network; ``method.awp`` is 0 or 0.05."""
    model, plain = networks(branches=())
    before = [p.detach().clone() for p in model.parameters()]
    x_adv = attacked(plain, steps=steps, train=train)
    if method.awp:
        assert method.awp == 0.05
        twin = copy.deepcopy(plain)
        loss_of(twin, x_adv, weight).backward()
        with torch.no_grad():
            for layer in ("conv1", "conv2", "head"):
                tensor, gradient = plain.get_submodule(layer).weight, twin.get_submodule(layer).weight.grad
                tensor += 0.05 * tensor.norm() * gradient / gradient.norm()
    loss_of(plain, x_adv, weight).backward()
    tracked = int(model.bn2.num_batches_tracked)
    check(model, method, plain, branches=())
    assert int(model.bn2.num_batches_tracked) == tracked + 2
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    return x_adv


def test_the_step(networks, check):
    x_adv = by_hand(Mart(), networks, check)
    assert 7.9 / 255 < float((x_adv - BATCH.x).abs().max()) < 8.01 / 255


def test_the_step_with_batch_statistics_and_perturbed_weights(networks, check):
    method = Mart(weight=2.0, steps=2, attack_bn="train-frozen-stats", awp=0.05)
    by_hand(method, networks, check, weight=2.0, steps=2, train=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("boosted_cross_entropy(logits_adv, batch.y)", "cross_entropy(logits_adv, batch.y)"),
        ("boosted_cross_entropy(logits_adv, batch.y)", "boosted_cross_entropy(logits, batch.y)"),
        ("kl_divergence(logits, logits_adv)", "kl_divergence(logits_adv, logits)"),
        ("-(-cross_entropy(logits, batch.y)).expm1()", "(-cross_entropy(logits, batch.y)).exp()"),
        ("-(-cross_entropy(logits, batch.y))", "-(-cross_entropy(logits.detach(), batch.y))"),
        ("-(-cross_entropy(logits, batch.y))", "-(-cross_entropy(logits_adv, batch.y))"),
        ("self.weight *", "self.weight / 2 *"),
        ("mode=self.attack_bn", 'mode="train"'),
        ("            backward(logs", "        backward(self._loss(model, batch, x_adv)"),
    ],
)
def test_mistakes_are_seen(old, new, networks, check, mutant):
    method = mutant(Mart, old, new)(steps=3, awp=0.05)
    with pytest.raises(AssertionError):
        by_hand(method, networks, check, steps=3)


class TestMart(MethodContract):
    method = Mart()


class TestMartWithPerturbedWeights(MethodContract):
    method = Mart(steps=2, attack_bn="train-frozen-stats", awp=0.005)


def test_the_boosted_cross_entropy_by_hand():
    """p = (1/2, 1/3, 1/6): labels right, second and last."""
    logits = torch.tensor([[3.0, 2.0, 1.0]] * 3).log()
    y = torch.tensor([0, 1, 2])
    expected = [-math.log(1 / 2) - math.log(2 / 3), -math.log(1 / 3) - math.log(1 / 2), -math.log(1 / 6 * 1 / 2)]
    torch.testing.assert_close(boosted_cross_entropy(logits, y), torch.tensor(expected))
    torch.testing.assert_close(boosted_cross_entropy(logits + 50, y), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_boosted_cross_entropy_of_a_sure_mistake_is_finite_and_pulls_at_full_strength():
    """Where p_k is 1 in float32, 1 - p_k in probabilities would be 0, and its logarithm and gradient no numbers."""
    logits = torch.tensor([[0.0, 300.0, 0.0], [300.0, 0.0, 0.0]], requires_grad=True)
    losses = boosted_cross_entropy(logits, torch.tensor([0, 0]))
    losses.sum().backward()
    torch.testing.assert_close(losses, torch.tensor([600 - math.log(2), 0.0]))
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.5, 2.0, -0.5], [0.0, 0.0, 0.0]]))


def test_logs_are_the_loss_and_its_parts(networks):
    model, plain = networks(branches=())
    logs = Mart(steps=1).step(model, BATCH, torch.autograd.backward)
    torch.testing.assert_close(logs["loss"], loss_of(plain, attacked(plain, steps=1, train=False), 5.0).detach())
    torch.testing.assert_close(logs["loss"], logs["loss_boosted"] + 5 * logs["divergence"])
    assert logs.keys() == {"loss", "loss_boosted", "divergence", "accuracy", "accuracy_adversarial"}


def test_passes():
    assert Mart().passes().flops == pytest.approx((2 * 3 + 10 * 2) / 3)
    assert Mart(awp=0.005).passes().train == {"main": 4}


@pytest.mark.parametrize(("key", "value"), [("weight", -1.0), ("step_size", 2.0), ("steps", 0), ("awp", -0.1)])
def test_bad_options_are_one_clear_line(key, value):
    with pytest.raises(UserError, match=key):
        build(Mart, {key: value}, "here")
