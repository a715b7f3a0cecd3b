"""Networks whose BatchNorm layers only scale and shift: function, deployment, and whether they can train."""

import copy

import pytest
import torch
from torch import nn

from robusteval import models
from robusteval.errors import UserError
from robusteval.models.layers import NORMALIZATIONS
from robusteval.models.preact import PreActResNet
from robusteval.models.resnet import ResNet
from robusteval.models.wide import WideResNet
from robusteval.modes import evaluating, frozen_statistics
from robusteval.normfree import FixedNorm, normalizes, remove_norms, restore_norms
from robusteval.optimization import reestimate
from robusteval.testing import TinyNet, example_batch

X = example_batch(12).x
SMALL = {
    "resnet": lambda: ResNet(
        classes=5, normalization=NORMALIZATIONS["cifar10"], widths=(4, 8), blocks=(1, 2), option="B"
    ),
    "option_a": lambda: ResNet(
        classes=5, normalization=NORMALIZATIONS["cifar10"], widths=(4, 8), blocks=(1, 2), option="A"
    ),
    "preact": lambda: PreActResNet(classes=5, normalization=NORMALIZATIONS["cifar10"], widths=(4, 8), blocks=(1, 2)),
    "wide": lambda: WideResNet(classes=5, normalization=NORMALIZATIONS["cifar10"], depth=10, widen=1),
    "tiny": TinyNet,
}


class Affine(nn.Module):
    """What is left of a BatchNorm layer."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return x * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


def bare(model):
    """A copy whose BatchNorm layers are replaced, not changed."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, Affine(child))
    return model


def made(name, *, zero_init=False):
    """A network without normalisation whose scales, shifts and outputs are no trivial ones."""
    torch.manual_seed(5)
    model = SMALL[name]().train()
    remove_norms(model, zero_init=zero_init)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.add_(0.3 * torch.randn_like(module.weight))
                module.bias.add_(0.3 * torch.randn_like(module.bias))
    return model


@pytest.mark.parametrize("name", SMALL)
def test_layers_only_scale_and_shift_in_every_mode(name):
    model = made(name)
    expected = bare(model)(X)
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(X[:1]), expected[:1], rtol=1e-4, atol=1e-5)  # whatever the batch
    with evaluating(model):
        torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    with frozen_statistics(model):
        torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    reestimate(model, range(2), lambda _: model(X))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} was changed"


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_those_of_the_bare_network(name):
    model = made(name)
    plain = bare(model)
    for network in (model, plain):
        nn.functional.cross_entropy(network(X), example_batch(12).y).backward()
    theirs = {key.replace(".norm.", "."): p.grad for key, p in plain.named_parameters()}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, theirs[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_restored_network_is_an_ordinary_one_with_the_same_bits(name):
    model = made(name)
    trained = model(X)
    plain = copy.deepcopy(model)
    restore_norms(plain)
    fresh = SMALL[name]()
    assert [type(m) for m in plain.modules()] == [type(m) for m in fresh.modules()]
    assert list(plain.state_dict()) == list(fresh.state_dict()) == list(model.state_dict())
    loaded = SMALL[name]()
    loaded.load_state_dict(plain.state_dict())
    for network in (plain, loaded):
        with evaluating(network):
            assert torch.equal(network(X), trained)
    norm = plain.bn1 if hasattr(plain, "bn1") else plain.bn
    assert norm.track_running_stats
    assert int(norm.num_batches_tracked) == 0
    plain.train()(X)
    assert int(norm.num_batches_tracked) == (2 if name == "tiny" else 1)  # an ordinary layer again, used twice there
    assert isinstance(model.bn1 if hasattr(model, "bn1") else model.bn, FixedNorm)  # the original stays as it was


@pytest.mark.parametrize("name", SMALL)
def test_it_can_be_told_whether_a_network_normalizes(name):
    assert normalizes(SMALL[name]())
    model = made(name)
    model(X)
    assert not normalizes(model)
    restore_norms(model)
    assert not normalizes(model)
    model.train()(X)
    assert normalizes(model)
    assert not normalizes(nn.Linear(2, 2))


def test_a_layer_used_twice_stays_one_layer():
    model = made("tiny")
    assert model.again is model.bn1
    restore_norms(model)
    assert model.again is model.bn1
    assert type(model.bn1) is nn.BatchNorm2d


@pytest.mark.parametrize("name", ["resnet", "option_a", "preact", "wide"])
def test_blocks_start_as_their_shortcuts_if_asked(name):
    for zero_init in (True, False):
        torch.manual_seed(5)
        model = SMALL[name]()
        remove_norms(model, zero_init=zero_init)
        last = [p for key, p in model.named_parameters() if key.endswith("conv2.weight")]
        assert len(last) >= 3
        assert all(bool((p == 0).all()) == zero_init for p in last)
        others = [p for key, p in model.named_parameters() if p.ndim == 4 and not key.endswith("conv2.weight")]
        assert all(bool((p != 0).all()) for p in others)


def test_convolutions_are_drawn_with_variance_two_over_fan_in_from_the_global_generator():
    drawn = []
    for _ in range(2):
        model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 8, 1).requires_grad_(False))
        frozen = model[2].weight.clone()
        torch.manual_seed(7)
        remove_norms(model, zero_init=True)
        drawn.append(model[0].weight.detach().clone())
        assert torch.equal(model[2].weight, frozen)
    assert torch.equal(*drawn)
    assert float(drawn[0].var()) == pytest.approx(2 / (32 * 9), rel=0.03)


@torch.no_grad()
def spread(architecture, start):
    """How much fresh logits differ between images."""
    torch.manual_seed(0)
    model = models.build(architecture, classes=10).train()
    if start != "batchnorm":
        remove_norms(model, zero_init=start == "zero")
    if start == "pytorch":
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    return float(model(torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))).std(dim=0).mean())


def test_why_residual_blocks_start_at_zero():
    """He's weights explode with depth, PyTorch's vanish; with blocks at zero the scale is BatchNorm's."""
    deep, wide = (spread(name, "batchnorm") for name in ("resnet56", "resnet18"))
    assert spread("resnet56", "he") > 30 * deep
    assert spread("resnet18", "pytorch") < wide / 50
    assert deep / 6 < spread("resnet56", "zero") < 6 * deep
    assert wide / 6 < spread("resnet18", "zero") < 6 * wide


def test_networks_that_have_nothing_to_fix_are_refused():
    with pytest.raises(UserError, match="remove_norms: Linear has no BatchNorm layer"):
        remove_norms(nn.Linear(2, 2), zero_init=True)
    with pytest.raises(UserError, match="remove_norms: Sequential has a BatchNorm layer without running statistics"):
        remove_norms(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), zero_init=True)
