"""The invariance loss against straight-line code with one plain network per branch."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from robusteval.attacks import random_start
from robusteval.method import Pairing
from robusteval.methods.invariance_pair import InvariancePair
from robusteval.testing import MethodContract, example_batch

BATCH = example_batch(20)


def walk(net, x):
    """Logits, and the classifier's input."""
    x = net.bn1(net.bn1(net.conv1(x))).relu()
    pooled = net.bn2(net.conv2(x)).relu().mean((2, 3))
    z = pooled + net.frozen(pooled)
    return net.head(z), z


def attacked(net, method):
    """PGD on the batch through a network in eval mode."""
    net.eval()
    delta = random_start(BATCH.x, epsilon=method.epsilon, norm="Linf", rng=BATCH.rng.at("start"), index=BATCH.index)
    point = (BATCH.x + delta).clamp(0, 1)
    for _ in range(method.steps):
        point.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), BATCH.y, reduction="sum"), point)
        point = point.detach() + method.step_size * gradient.sign()
        point = torch.max(torch.min(point, BATCH.x + method.epsilon), BATCH.x - method.epsilon).clamp(0, 1)
    net.train()
    return point


def by_hand(method, networks, check, batch=BATCH):
    branches = ("aux",) if method.partner_bn == "aux" else ()
    model, *plain = networks(branches=branches)
    main, other = plain[0], plain[-1]
    partner = attacked(other, method) if method.partner == "adversarial" else batch.partner
    logits, z = walk(main, batch.x)
    if method.partner_bn == "eval":
        other.eval()
    _, z_other = walk(other, partner)
    distance = (((z - z_other) ** 2).sum(1) + method.eps).sqrt().mean()
    loss = F.cross_entropy(logits, batch.y) + method.weight * distance
    loss.backward()
    other.train()
    before = {name: module.training for name, module in model.named_modules()}
    check(model, method, *plain, branches=branches, batch=batch)
    assert before == {name: module.training for name, module in model.named_modules()}
    model, *_ = networks(branches=branches)
    logs = method.step(model, batch, torch.autograd.backward)
    torch.testing.assert_close(logs["loss"], loss.detach())
    torch.testing.assert_close(logs["loss_invariance"], distance.detach(), rtol=1e-4, atol=1e-7)
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def same_image(batch=BATCH):
    """Pairs whose features are equal, if they take the same way."""
    return dataclasses.replace(batch, partner=batch.x.clone())


METHODS = [
    InvariancePair(),
    InvariancePair(weight=0.5),
    InvariancePair(weight=0.5, partner_bn="train", partner="augmented"),
    InvariancePair(weight=0.5, partner_bn="aux"),
    InvariancePair(weight=0.5, partner="adversarial", epsilon=16 / 255, steps=4),
    InvariancePair(weight=0.5, partner="adversarial", partner_bn="aux"),
    InvariancePair(weight=0.5, partner="adversarial", partner_bn="train", steps=2),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_step_is_that_of_the_equations(method, networks, check):
    by_hand(method, networks, check)


def test_equal_features_have_a_gradient_of_zero(networks, check):
    method = InvariancePair(weight=0.5, partner_bn="train", partner="augmented")
    by_hand(method, networks, check, same_image())
    model, plain = networks(branches=())
    logs = method.step(model, same_image(), torch.autograd.backward)
    assert float(logs["loss_invariance"]) == pytest.approx(math.sqrt(method.eps))
    F.cross_entropy(plain(BATCH.x), BATCH.y).backward()
    for mine, expected in zip(model.parameters(), plain.parameters(), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_statistics_move_once_or_twice_a_step(networks):
    for partner_bn, moves in (("eval", 1), ("train", 2), ("aux", 1)):
        model, *_ = networks(branches=("aux",) if partner_bn == "aux" else ())
        counters = [model.bn2.num_batches_tracked]
        if partner_bn == "aux":
            counters.append(model.bn2.aux_bn["aux"].num_batches_tracked)
        before = [int(counter) for counter in counters]
        InvariancePair(partner_bn=partner_bn).step(model, BATCH, torch.autograd.backward)
        assert [int(counter) for counter in counters] == [count + moves for count in before]


MISTAKES = [
    ("evaluating(model) if", "nullcontext() if", {}),  # batch statistics for the partner
    ("euclidean_distance(*features,", "euclidean_distance(features[0], features[1].detach(),", {}),
    ("eps=self.eps).mean()", "eps=self.eps).square().mean()", {}),
    ("eps=self.eps).mean()", "eps=self.eps).div(16).mean()", {}),  # divided by the dimension
    ("eps=self.eps).mean()", "eps=0.0).mean() + self.eps", {"partner": "augmented", "partner_bn": "train"}),
    ("self.weight * distance", "distance", {}),
    ("            return batch.partner\n", "            return batch.x\n", {}),
    ("use_branch(model, self.branches[-1]), mode", "use_branch(model, MAIN), mode", {"partner_bn": "aux"}),
    (
        "        with use_branch(model, self.branches[-1]):\n",
        "        with use_branch(model, MAIN):\n",
        {"partner_bn": "aux", "partner": "adversarial"},
    ),
    ("start=start", "start=None", {"partner": "adversarial", "steps": 2}),
]


@pytest.mark.parametrize(("old", "new", "options"), MISTAKES)
def test_mistakes_are_found(old, new, options, networks, check, mutant):
    method = mutant(InvariancePair, old, new)(weight=0.5, **options)
    batch = same_image() if options.get("partner") == "augmented" else BATCH
    by_hand(InvariancePair(weight=0.5, **options), networks, check, batch)
    with pytest.raises(AssertionError):
        by_hand(method, networks, check, batch)


def test_partners_are_asked_for():
    assert InvariancePair().pairing == Pairing("same_class", every=20)
    assert InvariancePair(partner="augmented", every=3).pairing == Pairing("augmented", every=3)
    assert InvariancePair(partner="adversarial").pairing is None


def test_costs():
    assert InvariancePair().passes().flops == 2
    assert InvariancePair(partner_bn="aux").passes().train == {"main": 1, "aux": 1}
    law = InvariancePair(partner="adversarial", partner_bn="aux", steps=3).passes()
    assert law.attack == {"aux": 3}
    assert law.flops == 4


def test_radii_are_in_units_of_the_pixel_range():
    with pytest.raises(ValueError, match="epsilon: 8 is more than the whole pixel range"):
        InvariancePair(epsilon=8.0)


class TestInvariancePair(MethodContract):
    method = InvariancePair()


class TestAdversarialPartnersThroughTheirOwnBranch(MethodContract):
    method = InvariancePair(partner="adversarial", partner_bn="aux", weight=0.1, steps=2)


class TestAugmentedPartnersInTrainMode(MethodContract):
    method = InvariancePair(partner="augmented", partner_bn="train", weight=0.1)


class TestAdversarialPartnersInEvalMode(MethodContract):
    method = InvariancePair(partner="adversarial", weight=0.1, steps=2)
