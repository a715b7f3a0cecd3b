import copy

import pytest
import torch
import torch.nn.functional as F

from robusteval.attacks import divergence_from
from robusteval.errors import UserError
from robusteval.losses import kl_divergence
from robusteval.methods.trades import Trades
from robusteval.options import build
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)


def kl(p, q):
    """Sum of p log(p/q), of probabilities, each sample."""
    return (p * (p / q).log()).sum(1)


def attacked(net, *, epsilon, step, steps, train, norm="Linf", sd=0.001):
    """Ascent of KL(p(x) || p(x')) from x + sd N(0, 1), on a copy of a plain network."""
    net = copy.deepcopy(net).train(train)
    x = BATCH.x
    clean = net(x).softmax(1).detach()
    point = (x + sd * BATCH.rng.at("start").normal(BATCH.index, 3, 8, 8)).clamp(0, 1)
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        kl(clean, net(leaf).softmax(1)).sum().backward()
        if norm == "Linf":
            point = torch.min(torch.max(point + step * leaf.grad.sign(), x - epsilon), x + epsilon).clamp(0, 1)
        else:
            length = leaf.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = point + step * leaf.grad / length - x
            delta *= (epsilon / delta.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
            point = (x + delta).clamp(0, 1)
    return point


def loss_of(net, x_adv, beta):
    clean, adversarial = net(BATCH.x), net(x_adv)
    return F.cross_entropy(clean, BATCH.y) + beta * kl(clean.softmax(1), adversarial.softmax(1)).mean()


def by_hand(method, networks, check, *, beta=6.0, steps=10, train=False):
    """One step of the method against the plain network; ``method.awp`` is 0 or 0.05."""
    model, plain = networks(branches=())
    before = [p.detach().clone() for p in model.parameters()]
    x_adv = attacked(plain, epsilon=8 / 255, step=2 / 255, steps=steps, train=train)
    if method.awp:
        assert method.awp == 0.05
        twin = copy.deepcopy(plain)
        loss_of(twin, x_adv, beta).backward()
        with torch.no_grad():
            for layer in ("conv1", "conv2", "head"):
                weight, gradient = plain.get_submodule(layer).weight, twin.get_submodule(layer).weight.grad
                weight += 0.05 * weight.norm() * gradient / gradient.norm()
    loss = loss_of(plain, x_adv, beta)
    loss.backward()
    tracked = int(model.bn2.num_batches_tracked)
    check(model, method, plain, branches=())
    assert int(model.bn2.num_batches_tracked) == tracked + 2
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    return x_adv


def test_the_step(networks, check):
    x_adv = by_hand(Trades(), networks, check)
    assert 7.9 / 255 < float((x_adv - BATCH.x).abs().max()) < 8.01 / 255


def test_the_step_with_batch_statistics_and_perturbed_weights(networks, check):
    method = Trades(beta=2.0, steps=2, attack_bn="train-frozen-stats", awp=0.05)
    by_hand(method, networks, check, beta=2.0, steps=2, train=True)


def test_the_attack_in_the_euclidean_ball(networks):
    """Not to the last digits: next to the image the divergence is flat, and float32 gives its gradient three digits."""
    model, plain = networks(branches=())
    method = Trades(norm="L2", epsilon=0.5, step_size=0.2, steps=3, start_sd=0.02)
    x_adv = attacked(plain, epsilon=0.5, step=0.2, steps=3, train=False, norm="L2", sd=0.02)
    torch.testing.assert_close(method.attack(model, BATCH), x_adv, rtol=0, atol=5e-4)
    length = (x_adv - BATCH.x).flatten(1).norm(dim=1)
    assert (length > 0.45).all()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kl_divergence(logits, logits_adv)", "kl_divergence(logits_adv, logits)"),
        ("kl_divergence(logits, logits_adv)", "kl_divergence(logits.detach(), logits_adv)"),
        ("cross_entropy(logits, batch.y)", "cross_entropy(logits_adv, batch.y)"),
        ("            loss=divergence_from(clean),\n", ""),
        ("self.beta *", "1 / self.beta *"),
        ("            clean = model(batch.x)", "            clean = model(batch.x).flip(0)"),
        ("attack_mode(model, self.attack_bn), ", ""),
        ("logits, logits_adv = model(batch.x), model(x_adv)", "logits_adv, logits = model(x_adv), model(batch.x)"),
        (
            'self._loss(model, batch, x_adv)["loss"], gamma=self.awp',
            'self._loss(model, batch, batch.x)["loss"], gamma=self.awp',
        ),
        ("            backward(logs", "        backward(self._loss(model, batch, x_adv)"),
    ],
)
def test_mistakes_are_seen(old, new, networks, check, mutant):
    method = mutant(Trades, old, new)(steps=3, awp=0.05)
    with pytest.raises(AssertionError):
        by_hand(method, networks, check, steps=3)


class TestTrades(MethodContract):
    method = Trades()


class TestTradesWithPerturbedWeights(MethodContract):
    method = Trades(steps=2, attack_bn="train-frozen-stats", awp=0.005)


def test_logs_are_the_loss_and_its_parts(networks):
    model, plain = networks(branches=())
    logs = Trades(steps=1).step(model, BATCH, torch.autograd.backward)
    x_adv = attacked(plain, epsilon=8 / 255, step=2 / 255, steps=1, train=False)
    torch.testing.assert_close(logs["loss"], loss_of(plain, x_adv, 6.0).detach())
    assert logs.keys() == {"loss", "divergence", "accuracy", "accuracy_adversarial"}
    assert 0 < logs["divergence"] < logs["loss"] / 6


def test_the_clean_prediction_of_an_attack_in_train_mode_counts_as_one_of_its_passes(networks):
    model, _ = networks(branches=())
    before = int(model.bn2.num_batches_tracked)
    Trades(steps=3, attack_bn="train").step(model, BATCH, torch.autograd.backward)
    assert int(model.bn2.num_batches_tracked) == before + 1 + 3 + 2


def test_passes():
    assert Trades().passes().flops == pytest.approx((2 * 3 + 10 * 2 + 1) / 3)
    assert Trades(awp=0.005).passes().train == {"main": 4}


@pytest.mark.parametrize(("key", "value"), [("beta", -1.0), ("epsilon", 8), ("start_sd", -0.1), ("awp", float("nan"))])
def test_bad_options_are_one_clear_line(key, value):
    with pytest.raises(UserError, match=key):
        build(Trades, {key: value}, "here")


def test_the_divergence_against_the_definition_and_at_its_extremes():
    p, q = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, -1.0, 3.0]])
    torch.testing.assert_close(kl_divergence(p, q), kl(p.softmax(1), q.softmax(1)))
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(p + 5, q - 7))
    assert kl_divergence(p, p).item() == 0
    sure, wrong = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]], requires_grad=True)
    divergence = kl_divergence(sure, wrong)
    divergence.sum().backward()
    assert divergence.item() == 500  # the probability 0 of the second class adds nothing
    assert wrong.grad.tolist() == [[-1.0, 1.0]]
    assert divergence_from(p)(q, torch.zeros(1)).item() == kl_divergence(p, q).item()
    assert kl_divergence(p.bfloat16(), q.bfloat16()).dtype == torch.float32
