import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robusteval import awp
from robusteval.awp import perturbed_weights
from robusteval.cost import Meter
from robusteval.method import attach
from robusteval.testing import TinyNet, example_batch

BATCH = example_batch(20)


def trained():
    torch.manual_seed(0)
    return TinyNet().train()


def loss_of(model):
    return lambda: F.cross_entropy(model(BATCH.x), BATCH.y)


def test_the_weights_of_a_linear_model_move_as_the_closed_form_says():
    """Cross-entropy of two classes at W x: g = (p_0 - 1, p_1) x^T for label 0, whose direction is (-1, 1) x^T."""
    model, x = nn.Linear(3, 2, bias=False), torch.tensor([[1.0, 2.0, 2.0]])
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
    before = model.weight.detach().clone()
    with perturbed_weights(model, lambda: F.cross_entropy(model(x), torch.tensor([0])), gamma=0.1):
        moved = model.weight.detach() - before
        direction = torch.tensor([[-1.0, -2.0, -2.0], [1.0, 2.0, 2.0]]) / 18**0.5
        torch.testing.assert_close(moved, 0.1 * 5 * direction)
    assert torch.equal(model.weight, before)


def by_layer(context=perturbed_weights):
    """Every layer's perturbation has the relative length gamma and the gradient's direction; nothing else moves."""
    model = trained()
    twin = copy.deepcopy(model)
    F.cross_entropy(twin(BATCH.x), BATCH.y).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with context(model, loss_of(model), gamma=0.02):
        assert float(loss_of(model)().detach()) > float(loss_of(copy.deepcopy(twin))().detach())
        for name, gradient in ((n, p.grad) for n, p in twin.named_parameters()):
            moved = model.get_parameter(name).detach() - before[name]
            if name in ("conv1.weight", "conv2.weight", "head.weight"):
                expected = 0.02 * before[name].norm() * gradient / gradient.norm()
                torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)
            else:
                assert not moved.any(), name
    return model, before


def test_every_layer_moves_along_its_own_gradient():
    model, before = by_layer()
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in after), "the weights were not restored bit for bit"
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weight.add_(", "weight.sub_("),
        ("* torch.linalg.vector_norm(weight)", ""),
        ("_unit(gradient) *", "gradient *"),
        ("parameter.ndim > 1", "parameter.ndim > 0"),
        ("gamma * torch", "2 * gamma * torch"),
    ],
)
def test_mistakes_are_seen(old, new):
    source = inspect.getsource(awp)
    assert source.count(old) == 1
    planted = {"__name__": "planted"}
    exec(compile(source.replace(old, new), "planted", "exec"), planted)
    with pytest.raises(AssertionError):
        by_layer(planted["perturbed_weights"])


def test_running_statistics_stay_and_the_batch_s_are_used():
    model = trained()
    before = {name: value.clone() for name, value in model.named_buffers()}
    seen = []
    model.bn2.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    with perturbed_weights(model, loss_of(model), gamma=0.01):
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert len(seen) == 1
    torch.testing.assert_close(seen[0].mean(dim=(0, 2, 3)), torch.zeros(16), rtol=0, atol=1e-5)


def test_earlier_gradients_and_frozen_or_attached_parts_are_left_alone():
    model = trained()
    attach(model, predictor=nn.Linear(5, 5))
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    model.conv2.weight.requires_grad_(False)
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss():
        return F.cross_entropy(model.training_only["predictor"](model(BATCH.x)), BATCH.y)

    with perturbed_weights(model, loss, gamma=0.01):
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, kept[name])}
    assert changed == {"conv1.weight", "head.weight"}
    assert (model.conv1.weight.grad == 1).all()
    assert model.head.weight.grad is None


def test_the_weights_come_back_after_an_error_and_in_their_layout():
    model = trained().to(memory_format=torch.channels_last)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="planned"), perturbed_weights(model, loss_of(model), gamma=0.1):
        raise RuntimeError("planned")
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_gamma_zero_costs_nothing():
    model = trained()

    def loss():
        raise AssertionError("not to be called")

    before = [p.detach().clone() for p in model.parameters()]
    with perturbed_weights(model, loss, gamma=0.0):
        assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("scale", [0.0, 1e-35, 1e30])
def test_vanishing_and_huge_gradients(scale):
    model = nn.Linear(4, 2, bias=False)
    before = model.weight.detach().clone()
    with perturbed_weights(model, lambda: (model.weight * scale).sum(), gamma=0.5):
        moved = model.weight.detach() - before
    expected = 0.5 * before.norm() / 8**0.5 if scale else torch.tensor(0.0)
    torch.testing.assert_close(moved, expected.expand(2, 4))


def test_half_precision_sees_the_moved_weights():
    """Autocast keeps casts of the weights and does not notice that these change."""
    model = trained()
    plain = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = model(BATCH.x).detach()
        with perturbed_weights(model, loss_of(model), gamma=0.2):
            plain.load_state_dict(model.state_dict())
            inside = model(BATCH.x).detach()
            expected = plain(BATCH.x).detach()
        again = model(BATCH.x).detach()
    assert torch.equal(inside, expected)
    assert not torch.equal(inside, first)
    assert torch.equal(again, first)


def test_its_time_is_booked_as_attack_and_its_pass_is_counted():
    model = trained()
    meter = Meter(model, torch.device("cpu"))
    with meter.running(), perturbed_weights(model, loss_of(model), gamma=0.1):
        pass
    assert list(meter.seconds) == ["attack"]
    assert meter.forward.total() == meter.backward.total() == 20
