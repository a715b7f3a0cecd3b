"""The shadow bank holds, bit for bit, the statistics that a network trained with another momentum would have."""

import copy
import platform

import pytest
import torch
from torch import nn

from robusteval.branches import add_branches, set_momentum, split_batch, use_branch
from robusteval.errors import UserError
from robusteval.method import TRAINING_ONLY, attach
from robusteval.methods.advprop import AdvProp
from robusteval.methods.entprop import EntProp
from robusteval.methods.standard import Standard
from robusteval.modes import evaluating, frozen_statistics
from robusteval.optimization import named_state, restore_state
from robusteval.shadow import ShadowBank, add_bank, bank_of, watching
from robusteval.testing import TinyNet, example_batch, example_setting

MOMENTA = (0.5, 0.1, 0.03, 0.001)
# Elsewhere compilers may fuse products and sums in torch's kernels, which rounds differently.
TOLERANCE = 0.0 if platform.machine() in ("x86_64", "AMD64") else 1e-6


def start(method, momentum=0.1, momenta=MOMENTA):
    torch.manual_seed(0)
    network = TinyNet().train()
    network.frozen.eval()
    model = method.wrap(network, example_setting(method))
    set_momentum(model, dict.fromkeys(method.branches, momentum))
    add_bank(model, momenta)
    trainable = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.SGD(trainable, lr=0.1, momentum=0.9)


def advance(model, optimizer, method, steps, *, layout=torch.contiguous_format, half=False):
    with watching(model):
        for step in steps:
            optimizer.zero_grad()
            batch = example_batch(step=step)
            object.__setattr__(batch, "x", batch.x.contiguous(memory_format=layout))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                method.step(model, batch, torch.autograd.backward)
            optimizer.step()
    return model


def statistics(model, branch="main"):
    """The running statistics of TinyNet's layers in a branch, read from its buffers."""
    place = "" if branch == "main" else f"aux_bn.{branch}."
    return {
        layer: tuple(model.get_buffer(f"{layer}.{place}{kind}") for kind in ("running_mean", "running_var"))
        for layer in ("bn1", "bn2")
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for layer, values in expected.items():
        for one, other in zip(found[layer], values, strict=True):
            torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_plain_training_gives_the_statistics_of_every_momentum(layout, half):
    watched = advance(*start(Standard(), 0.1), Standard(), range(6), layout=layout, half=half)
    for momentum in MOMENTA:
        other = advance(*start(Standard(), momentum, ()), Standard(), range(6), layout=layout, half=half)
        for (name, one), (again, two) in zip(watched.named_parameters(), other.named_parameters(), strict=True):
            assert name == again
            assert torch.equal(one, two), f"{name} depends on the momentum"
        assert_same(bank_of(watched).statistics(momentum), statistics(other))
        assert (momentum == 0.1) == all(
            torch.equal(one, two)
            for layer in ("bn1", "bn2")
            for one, two in zip(statistics(watched)[layer], statistics(other)[layer], strict=True)
        )


@pytest.mark.parametrize(
    "method",
    [
        AdvProp(steps=2),
        AdvProp(steps=2, forward="two"),
        AdvProp(steps=2, attack_bn="train"),
        AdvProp(steps=2, attack_bn="train-frozen-stats"),
        EntProp(k=0.5, steps=2),
    ],
    ids=["split-batch", "two-passes", "attack-updates", "attack-freezes", "entprop"],
)
def test_every_branch_is_followed_through_every_kind_of_pass(method):
    model = advance(*start(method, 0.03), method, range(4))
    bank = bank_of(model)
    for branch in method.branches:
        assert_same(bank.statistics(0.03, branch), statistics(model, branch))
    one, other = (bank.statistics(0.5, branch)["bn2"].mean for branch in method.branches)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("sizes", [{"main": 15, "aux": 25}, {"aux": 15, "main": 25}, {"aux": 40}])
def test_each_branch_sees_its_own_part_of_a_batch(sizes):
    model, _ = start(AdvProp(), momentum=0.5)
    with watching(model), split_batch(model, sizes):
        model(example_batch().x)
    for branch in ("main", "aux"):
        assert_same(bank_of(model).statistics(0.5, branch), statistics(model, branch))
        assert (branch in sizes) == bool(bank_of(model).statistics(0.5, branch)["bn1"].mean.any())


def test_the_bank_starts_from_the_networks_own_statistics():
    model = TinyNet()
    model.bn1.running_mean.fill_(3.0)
    add_branches(model, ["aux"])
    model.bn1.running_var.fill_(7.0)
    for momentum in MOMENTA:
        for branch in ("main", "aux"):
            assert_same(ShadowBank(model, MOMENTA).statistics(momentum, branch), statistics(model, branch))


def test_passes_that_update_nothing_are_not_followed():
    method = AdvProp()
    model, _ = start(method, momenta=())
    attach(model, taught=nn.Sequential(nn.BatchNorm2d(3)))  # a part that only training needs has no place in the bank
    add_bank(model, MOMENTA)
    before = copy.deepcopy(bank_of(model).state_dict())
    x = example_batch().x
    with watching(model):
        with evaluating(model):
            model(x)
        with frozen_statistics(model):
            model(x)
        copied = copy.deepcopy(model)
        copied(x)
        with use_branch(model, "aux"), evaluating(model):
            model(x)
        model.get_submodule(f"{TRAINING_ONLY}.taught")(x)
    model(x)
    assert not any(module._forward_hooks for module in model.modules())
    for key, value in bank_of(model).state_dict().items():
        assert torch.equal(value, before[key]), key
    assert len(before) == 2 * 2 * 2  # mean and variance of two layers in two branches


def test_a_failure_ends_the_watching():
    model, _ = start(Standard())
    with pytest.raises(KeyError), watching(model):
        raise KeyError
    assert not any(module._forward_hooks for module in model.modules())


def test_a_resumed_training_goes_on_with_the_bank():
    method = AdvProp(steps=1)
    straight, optimizer = start(method)
    advance(straight, optimizer, method, range(2))
    weights, slots = copy.deepcopy(straight.state_dict()), copy.deepcopy(named_state(straight, optimizer))
    advance(straight, optimizer, method, range(2, 4))
    resumed, optimizer = start(method)
    resumed.load_state_dict(weights)
    restore_state(resumed, optimizer, slots)
    advance(resumed, optimizer, method, range(2, 4))
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert any("shadow" in key for key in weights)


def test_deployed_networks_take_a_momentums_statistics():
    method = AdvProp(steps=1)
    model = advance(*start(method), method, range(2))
    for branch in method.branches:
        plain = method.deploy(model, branch)
        assert list(plain.state_dict()) == list(TinyNet().state_dict())
        bank_of(model).apply_to(plain, 0.5, branch)
        assert_same(statistics(plain), bank_of(model).statistics(0.5, branch))
    assert plain.bn1.running_mean.data_ptr() != bank_of(model).statistics(0.5, "aux")["bn1"].mean.data_ptr()


def test_without_momenta_there_is_no_bank():
    model, _ = start(Standard(), momenta=())
    assert bank_of(model) is None
    assert TRAINING_ONLY not in model._modules
    with watching(model):
        assert not any(module._forward_hooks for module in model.modules())
    attach(model, other=nn.Linear(1, 1))
    assert bank_of(model) is None


def test_what_the_bank_does_not_have():
    bank = bank_of(start(Standard())[0])
    with pytest.raises(UserError, match=r"no momentum 0.2; allowed: 0.5, 0.1, 0.03, 0.001"):
        bank.statistics(0.2)
    with pytest.raises(UserError, match="unknown branch 'aux'; allowed: main"):
        bank.statistics(0.5, "aux")
