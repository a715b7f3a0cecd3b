"""Training without BatchNorm, against a network that has no such layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robusteval.method import Setting
from robusteval.methods.bn_free import BnFree
from robusteval.models.layers import NORMALIZATIONS
from robusteval.models.resnet import ResNet
from robusteval.modes import evaluating
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
    plain.frozen.requires_grad_(False)
    return plain


def wrapped(method, networks):
    """The fixture's network without normalisation, its scales and shifts not trivial."""
    model, _ = networks(branches=())
    torch.manual_seed(4)
    return method.wrap(model, SETTING)


def by_hand(method, networks, check):
    model = wrapped(method, networks)
    plain = bare(model)
    statistics = {key: value.clone() for key, value in model.named_buffers()}
    F.cross_entropy(plain(BATCH.x), BATCH.y, label_smoothing=method.label_smoothing).backward()
    check(model, method, plain, branches=())
    for key, value in model.named_buffers():
        assert torch.equal(value, statistics[key]), f"{key} was changed"
    deployed = method.deploy(model)
    assert type(deployed.bn1) is nn.BatchNorm2d
    with evaluating(deployed):
        torch.testing.assert_close(deployed(BATCH.x), plain(BATCH.x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_step_is_that_of_a_network_without_batchnorm(smoothing, networks, check):
    by_hand(BnFree(label_smoothing=smoothing), networks, check)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        remove_norms(model, zero_init=self.zero_init)\n", ""),  # batch statistics, and they move
        ("        restore_norms(plain)\n", ""),  # deploys what is no ordinary network
        ("        restore_norms(plain)\n", "        restore_norms(model)\n"),  # ends the training without BatchNorm
    ],
)
def test_mistakes_are_found(old, new, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(BnFree, old, new)(), networks, check)


def test_deploying_leaves_training_as_it_was(networks, check):
    method = BnFree()
    model = wrapped(method, networks)
    before = copy.deepcopy(model.state_dict())
    trained = model(BATCH.x)
    method.deploy(model)
    assert torch.equal(model(BATCH.x), trained)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("zero_init", [True, False])
def test_residual_blocks_start_at_zero_if_asked(zero_init):
    network = ResNet(classes=5, normalization=NORMALIZATIONS["none"], widths=(4, 8), blocks=(1, 1), option="B")
    BnFree(zero_init=zero_init).wrap(network.train(), SETTING)
    assert bool((network.layer2[0].conv2.weight == 0).all()) == zero_init


def test_it_costs_what_standard_training_does():
    assert BnFree().passes().flops == 1
    assert BnFree().card.published[0].value == 0.93


class TestBnFree(MethodContract):
    method = BnFree()


class TestSmoothedBnFreeWithoutZeros(MethodContract):
    method = BnFree(label_smoothing=0.1, zero_init=False)
