"""NoFrost's step, against its equations on a network without BatchNorm layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robusteval.attacks import random_start
from robusteval.method import Setting
from robusteval.methods.nofrost import NoFrost
from robusteval.testing import MethodContract, TinyNet, example_batch

BATCH = example_batch(20)
SETTING = Setting(classes=5, images=20, batch_size=20, shape=(3, 8, 8))


class Affine(nn.Module):
    """A scale and a shift for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def bare(model):
    """A network without BatchNorm layers that has the model's weights."""
    plain = TinyNet()
    plain.bn1, plain.bn2 = Affine(8), Affine(16)
    plain.again = plain.bn1
    missing, _ = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    return plain


def by_hand(method, networks, check):
    model, _ = networks(branches=())
    torch.manual_seed(4)
    method.wrap(model, SETTING)
    plain = bare(model)
    before = {key: value.clone() for key, value in model.named_buffers()}
    point = BATCH.x.clone()
    if method.random_start:
        delta = random_start(BATCH.x, epsilon=8 / 255, norm="Linf", rng=BATCH.rng.at("start"), index=BATCH.index)
        point = (BATCH.x + delta).clamp(0, 1)
    for _ in range(method.steps):
        point.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(plain(point), BATCH.y, reduction="sum"), point)
        point = point.detach() + gradient.sign() / 255
        point = torch.max(torch.min(point, BATCH.x + 8 / 255), BATCH.x - 8 / 255).clamp(0, 1)
    assert (point - BATCH.x).abs().max() > 7.9 / 255  # the attack gets to the edge of the ball
    clean = F.cross_entropy(plain(BATCH.x), BATCH.y, label_smoothing=0.1)
    adversarial = F.cross_entropy(plain(point), BATCH.y, label_smoothing=0.1)
    ((1 - method.weight) * clean + method.weight * adversarial).backward()
    check(model, method, plain, branches=())
    for key, value in model.named_buffers():
        assert torch.equal(value, before[key]), f"{key} was changed"
    model.zero_grad()
    found = method.step(model, BATCH, torch.autograd.backward)
    expected = (1 - method.weight) * clean.detach() + method.weight * adversarial.detach()
    torch.testing.assert_close(found["loss"], expected, rtol=1e-4, atol=1e-5)


METHODS = [NoFrost(), NoFrost(weight=0.3), NoFrost(weight=1.0, random_start=False)]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_step_is_that_of_the_equations(method, networks, check):
    by_hand(method, networks, check)


ADVERSARIAL = "smoothed_cross_entropy(logits_adv, batch.y, smoothing=self.label_smoothing)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(1 - self.weight) * clean + self.weight *", "self.weight * clean + (1 - self.weight) *"),
        ("            start=start,\n", ""),
        ("            steps=self.steps,\n", "            steps=self.steps - 3,\n"),
        (ADVERSARIAL, ADVERSARIAL.replace("self.label_smoothing", "0.0")),
        ("[batch.x, self.attack(model, batch)]", "[self.attack(model, batch), batch.x]"),
        ("from robusteval.methods.bn_free import BnFree", "from robusteval.methods.standard import Standard as BnFree"),
    ],
)
def test_mistakes_are_found(old, new, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(NoFrost, old, new)(weight=0.3), networks, check)


def test_attack_leaves_the_batch_alone(networks):
    model, _ = networks(branches=())
    before = BATCH.x.clone()
    method = NoFrost()
    twin = method.attack(method.wrap(model, SETTING), BATCH)
    assert torch.equal(BATCH.x, before)
    assert 0 <= twin.min() <= twin.max() <= 1
    assert (twin.double() - BATCH.x.double()).abs().max() <= 8 / 255


def test_defaults_are_those_of_the_published_command():
    method = NoFrost()
    assert (method.epsilon, method.steps, method.weight, method.label_smoothing) == (8 / 255, 10, 0.5, 0.1)
    assert method.step_size == pytest.approx(min(1.25 * 8, 8 + 4) / 10 / 255)
    assert method.passes().flops == pytest.approx(2 + 20 / 3)


@pytest.mark.parametrize("wrong", [{"epsilon": 8.0}, {"step_size": 2.0}, {"weight": 0.0}, {"weight": 1.5}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=r"more than the whole pixel range|greater than 0|less than or equal to 1"):
        NoFrost(**wrong)


class TestNoFrost(MethodContract):
    method = NoFrost(steps=3)


class TestL2NoFrostWithoutSmoothing(MethodContract):
    method = NoFrost(norm="L2", epsilon=0.25, step_size=0.1, steps=2, random_start=False, label_smoothing=0.0)
