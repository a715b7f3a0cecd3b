import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from robusteval.errors import UserError
from robusteval.method import Setting
from robusteval.methods.free_at import FreeAT
from robusteval.options import build
from robusteval.testing import MethodContract, TinyNet, example_batch

BATCH, OTHER = example_batch(20), example_batch(20, step=1)
SETTING = Setting(classes=5, images=20, batch_size=20, shape=(3, 8, 8))
DELTA = "training_only.perturbation.delta"


def moved_weights(net, x, y, gamma):
    """Adversarial weight perturbation by hand: each weight tensor towards a higher loss, by gamma of its length."""
    twin = copy.deepcopy(net)
    F.cross_entropy(twin(x), y).backward()
    with torch.no_grad():
        for layer in ("conv1", "conv2", "head"):
            weight, gradient = net.get_submodule(layer).weight, twin.get_submodule(layer).weight.grad
            weight += gamma * weight.norm() * gradient / gradient.norm()


def by_hand(method, networks, check, *, epsilon=8 / 255, step=8 / 255):
    """Two replays of one batch and one of the next, with an optimizer that changes the weights between them."""
    model, plain = networks(branches=())
    method.wrap(model, SETTING)
    delta = torch.zeros(20, 3, 8, 8)
    for batch in (BATCH, BATCH, OTHER):
        leaf = delta.clone().requires_grad_()
        kept = [p.detach().clone() for p in plain.parameters()]
        if method.awp:
            moved_weights(plain, (batch.x + delta).clamp(0, 1), batch.y, 0.05)
        F.cross_entropy(plain((batch.x + leaf).clamp(0, 1)), batch.y).backward()
        with torch.no_grad():
            for parameter, old in zip(plain.parameters(), kept, strict=True):
                parameter.copy_(old)
        delta = (delta + step * leaf.grad.sign()).clamp(-epsilon, epsilon)
        check(model, method, plain, branches=(), batch=batch)
        mine = model.get_buffer(DELTA)
        assert (mine - delta).abs().gt(1e-6).float().mean() < 0.005  # signs of gradients that are almost zero
        delta = mine.clone()
        for net in (model, plain):
            with torch.no_grad():
                for parameter in net.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
    return delta


def test_the_perturbation_goes_on_from_replay_to_replay_and_from_batch_to_batch(networks, check):
    delta = by_hand(FreeAT(), networks, check)
    assert float(delta.abs().max()) == pytest.approx(8 / 255)


def test_smaller_steps_add_up(networks, check):
    delta = by_hand(FreeAT(step_size=3 / 255), networks, check, step=3 / 255)
    assert float(delta.abs().max()) == pytest.approx(8 / 255)
    assert len((delta * 255).abs().round().unique()) > 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("leaf = delta.clone().requires_grad_()", "leaf = torch.zeros_like(delta).requires_grad_()"),
        ("delta.add_(", "delta.zero_().add_("),
        (".clamp_(-self.epsilon, self.epsilon)", ""),
        ("delta.add_(", "delta.sub_("),
        ("(batch.x + leaf).clamp(0, 1)", "batch.x + leaf"),
        ("leaf.grad.sign()", "leaf.grad"),
        ("delta.add_(", "(delta.clone()).add_("),
    ],
)
def test_mistakes_are_seen(old, new, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(FreeAT, old, new)(step_size=5 / 255), networks, check, step=5 / 255)


def test_with_perturbed_weights(networks, check):
    by_hand(FreeAT(step_size=5 / 255, awp=0.05), networks, check, step=5 / 255)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gamma=self.awp)", "gamma=0.0)"),
        ("gamma=self.awp)", "gamma=-self.awp)"),
        ("images = (batch.x + delta).clamp(0, 1)", "images = batch.x"),
    ],
)
def test_mistakes_with_perturbed_weights_are_seen(old, new, networks, check, mutant):
    with pytest.raises(AssertionError):
        by_hand(mutant(FreeAT, old, new)(step_size=5 / 255, awp=0.05), networks, check, step=5 / 255)


class TestFreeATWithPerturbedWeights(MethodContract):
    method = FreeAT(epsilon=4 / 255, step_size=4 / 255, awp=0.005)


class TestFreeAT(MethodContract):
    method = FreeAT(epsilon=4 / 255, step_size=4 / 255)  # at 8/255 thirty steps of so small a network are too few


def test_one_backward_pass_serves_weights_and_images(networks):
    model, _ = networks(branches=())
    FreeAT().wrap(model, SETTING)
    calls = []
    FreeAT().step(model, BATCH, lambda loss: (calls.append(loss), loss.backward()))
    assert len(calls) == 1
    assert FreeAT().passes().flops == 1
    assert FreeAT().passes().backward_by_branch == {"main": 1}


def test_a_pixel_that_would_leave_the_range_keeps_its_perturbation():
    torch.manual_seed(0)
    model = FreeAT().wrap(TinyNet().train(), SETTING)
    black = dataclasses.replace(BATCH, x=torch.zeros_like(BATCH.x))
    with torch.no_grad():
        model.get_buffer(DELTA).fill_(-2 / 255)
    seen = []
    model.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    FreeAT().step(model, black, torch.autograd.backward)
    assert not seen[0].any()
    assert torch.equal(model.get_buffer(DELTA), torch.full((20, 3, 8, 8), -2 / 255))


def test_layouts_and_precisions_do_not_matter():
    """Channels-last images meet a contiguous perturbation; under autocast it stays float32."""
    torch.manual_seed(0)
    plain = FreeAT().wrap(TinyNet().train(), SETTING)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    last = dataclasses.replace(BATCH, x=BATCH.x.contiguous(memory_format=torch.channels_last))
    FreeAT().step(plain, BATCH, torch.autograd.backward)
    FreeAT().step(other, last, torch.autograd.backward)
    assert torch.equal(plain.get_buffer(DELTA), other.get_buffer(DELTA))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        FreeAT().step(plain, BATCH, torch.autograd.backward)
    assert plain.get_buffer(DELTA).dtype == torch.float32


def test_the_perturbation_is_stored_with_the_training_and_not_deployed():
    model = FreeAT().wrap(TinyNet().train(), SETTING)
    FreeAT().step(model, BATCH, torch.autograd.backward)
    assert model.state_dict()[DELTA].abs().max() > 0
    assert DELTA not in FreeAT().deploy(model).state_dict()


def test_a_part_of_a_batch_is_refused():
    model = FreeAT().wrap(TinyNet().train(), SETTING)
    with pytest.raises(UserError, match=r"accumulate.*allowed: 1"):
        FreeAT().step(model, example_batch(10), torch.autograd.backward)


def test_replays_are_an_option():
    assert FreeAT().replays == 8
    assert build(FreeAT, {"replays": 4}, "here").replays == 4
    with pytest.raises(UserError, match="replays"):
        build(FreeAT, {"replays": 0}, "here")
    with pytest.raises(UserError, match="epsilon"):
        build(FreeAT, {"epsilon": 8}, "here")
