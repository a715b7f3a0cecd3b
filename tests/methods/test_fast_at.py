import copy

import pytest
import torch
import torch.nn.functional as F

from robusteval.errors import UserError
from robusteval.methods.fast_at import FastAT
from robusteval.options import build
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)


def attacked(net, *, epsilon, alpha, train, random_start):
    """One sign step from a uniform start, projected, on a copy of a plain network."""
    net = copy.deepcopy(net).train(train)
    x = BATCH.x
    delta = (2 * BATCH.rng.at("start").uniform(BATCH.index, 3, 8, 8) - 1) * epsilon * random_start
    leaf = (x + delta).clamp(0, 1).requires_grad_()
    F.cross_entropy(net(leaf), BATCH.y).backward()
    delta = (leaf.detach() - x + alpha * leaf.grad.sign()).clamp(-epsilon, epsilon)
    return (x + delta).clamp(0, 1)


def moved_weights(net, x, y, gamma):
    """Adversarial weight perturbation by hand: each weight tensor towards a higher loss, by gamma of its length."""
    twin = copy.deepcopy(net)
    F.cross_entropy(twin(x), y).backward()
    with torch.no_grad():
        for layer in ("conv1", "conv2", "head"):
            weight, gradient = net.get_submodule(layer).weight, twin.get_submodule(layer).weight.grad
            weight += gamma * weight.norm() * gradient / gradient.norm()


def by_hand(method, networks, check, *, epsilon=8 / 255, alpha=10 / 255, train=True, random_start=True):
    model, plain = networks(branches=())
    x_adv = attacked(plain, epsilon=epsilon, alpha=alpha, train=train, random_start=random_start)
    if method.awp:
        moved_weights(plain, x_adv, BATCH.y, 0.05)
    before = [p.detach().clone() for p in model.parameters()]
    F.cross_entropy(plain(x_adv), BATCH.y).backward()
    tracked = int(model.bn2.num_batches_tracked)
    check(model, method, plain, branches=())
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert int(model.bn2.num_batches_tracked) == tracked + 1
    return x_adv


def test_the_step(networks, check):
    x_adv = by_hand(FastAT(), networks, check)
    distance = (x_adv - BATCH.x).abs()
    assert 7.9 / 255 < float(distance.max()) < 8.01 / 255
    assert (distance < 7.9 / 255).any()  # starts far on the other side do not reach the border


def test_the_step_with_running_statistics(networks, check):
    by_hand(
        FastAT(attack_bn="eval", epsilon=4 / 255, step_size=5 / 255),
        networks,
        check,
        epsilon=4 / 255,
        alpha=5 / 255,
        train=False,
    )


def test_without_a_random_start_it_is_the_fast_gradient_sign_method(networks, check):
    method = FastAT(random_start=False, step_size=8 / 255)
    by_hand(method, networks, check, alpha=8 / 255, random_start=False)


def test_the_step_with_perturbed_weights(networks, check):
    by_hand(FastAT(awp=0.05), networks, check)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gamma=self.awp)", "gamma=0.0)"),
        ("gamma=self.awp)", "gamma=-self.awp)"),
        ("lambda: cross_entropy(model(x_adv), batch.y)", "lambda: cross_entropy(model(batch.x), batch.y)"),
        ("            backward(loss)", "        backward(cross_entropy(model(x_adv), batch.y).mean())"),
    ],
)
def test_mistakes_with_perturbed_weights_are_seen(old, new, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(FastAT, old, new)(awp=0.05), networks, check)


def test_the_reference_moves_the_running_statistics_twice(networks):
    model, plain = networks(branches=())
    x_adv = attacked(plain, epsilon=8 / 255, alpha=10 / 255, train=True, random_start=True)
    start = (2 * BATCH.rng.at("start").uniform(BATCH.index, 3, 8, 8) - 1) * 8 / 255
    for x in ((BATCH.x + start).clamp(0, 1), x_adv):
        plain(x)
    FastAT(attack_bn="train").step(model, BATCH, torch.autograd.backward)
    for name, value in plain.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("step_size: Step = 10 / 255", "step_size: Step = 8 / 255"),
        ("start=start", "start=None"),
        ("            logits = model(x_adv)", "            logits = model(batch.x)"),
        ("steps=1", "steps=2"),
        ("mode=self.attack_bn", 'mode="train"'),
        ("mode=self.attack_bn", 'mode="eval"'),
        ("epsilon=self.epsilon,\n            step=", "epsilon=2 * self.epsilon,\n            step="),
    ],
)
def test_mistakes_are_seen(old, new, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(FastAT, old, new)(), networks, check)


class TestFastAT(MethodContract):
    method = FastAT()


class TestFastATAsTheReference(MethodContract):
    method = FastAT(attack_bn="train")


class TestFastATWithPerturbedWeights(MethodContract):
    method = FastAT(awp=0.005)


def test_passes():
    assert FastAT(awp=0.01).passes().train == {"main": 2}
    assert FastAT().passes().flops == pytest.approx(5 / 3)
    assert FastAT().passes().backward_by_branch == {"main": 2}


@pytest.mark.parametrize(("key", "value"), [("epsilon", 8), ("step_size", 10.0), ("attack_bn", "test"), ("steps", 2)])
def test_bad_options_are_one_clear_line(key, value):
    with pytest.raises(UserError, match=key):
        build(FastAT, {key: value}, "here")
