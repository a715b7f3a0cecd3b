"""PGD against closed forms and a straight-line recomputation; what it must leave alone; what it costs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robusteval.attacks import OBJECTIVES, pgd, random_start
from robusteval.attacks.geometry import distance
from robusteval.modes import AttackMode
from robusteval.options import Norm
from robusteval.randomness import Stream

NORMS: tuple[Norm, ...] = ("Linf", "L2")
MODES: tuple[AttackMode, ...] = ("eval", "train", "train-frozen-stats")


class Linear(nn.Module):
    """Logits ``+-(w x + b) / 2``, and -20 of a third class (DLR needs one): its margin is linear in the image."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(Stream.of(0).normal(torch.arange(1), pixels)[0])
        self.weight.data[0] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        half = (x.flatten(1) - 0.5) @ self.weight / 2
        return torch.stack([half, -half, torch.full_like(half, -20.0)], dim=1)


def net(*, norm: bool = True) -> nn.Sequential:
    """A small convolutional network with BatchNorm and dropout."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8 * 64, 5),
    ]
    return nn.Sequential(*layers).requires_grad_(True)


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    x = Stream.of(1).uniform(torch.arange(n), 3, 16, 16)
    return x, torch.arange(n) % 5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 5])
def test_the_optimum_of_a_linear_model_is_reached(norm: Norm, steps: int) -> None:
    """The margin falls by epsilon times the dual norm of the weights, as far as the box allows (here: fully)."""
    x = 0.4 + 0.2 * Stream.of(2).uniform(torch.arange(6), 3, 4, 4)
    y = torch.tensor([0, 1] * 3)
    model, epsilon = Linear(48), 0.05
    dual = model.weight.abs().sum() if norm == "Linf" else model.weight.norm()
    start = random_start(x, epsilon=epsilon, norm=norm, rng=Stream.of(3), index=torch.arange(6)) if steps > 1 else None
    for loss in OBJECTIVES.values():
        there = pgd(model, x, y, epsilon=epsilon, step=epsilon, steps=steps, norm=norm, start=start, loss=loss)
        fallen = OBJECTIVES["margin"](model(there), y) - OBJECTIVES["margin"](model(x), y)
        torch.testing.assert_close(fallen, (epsilon * dual).expand(6), rtol=2e-5 if steps == 1 else 3e-3, atol=0)


def test_a_target_is_approached() -> None:
    x = torch.full((2, 3, 4, 4), 0.5)
    y = torch.tensor([0, 1])
    model = Linear(48)
    away = pgd(model, x, 1 - y, epsilon=0.1, step=0.1, steps=1)
    towards = pgd(model, x, y, epsilon=0.1, step=0.1, steps=1, targeted=True)
    assert (away == towards).all()
    assert (model(towards).argmax(1) == y).all()
    assert (model(away.flip(0)).argmax(1) == 1 - y).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_the_iterates_are_those_of_a_straight_line_computation(norm: Norm, targeted: bool) -> None:
    """Numpy in float64, gradients through ``backward``, three steps that leave ball and box."""
    model, (x, y) = net().double().eval(), images(4)
    epsilon, step = (0.03, 0.02) if norm == "Linf" else (0.3, 0.2)
    start = random_start(x, epsilon=epsilon, norm=norm, rng=Stream.of(4), index=torch.arange(4))
    clean = x.double().numpy()
    delta = start.double().numpy()
    point = np.clip(clean + delta, 0, 1)
    for _ in range(3):
        leaf = torch.tensor(point, requires_grad=True)
        F.cross_entropy(model(leaf), y, reduction="sum").backward()
        assert leaf.grad is not None
        gradient = leaf.grad.numpy() * (-1 if targeted else 1)
        if norm == "Linf":
            delta = np.clip(point + step * np.sign(gradient) - clean, -epsilon, epsilon)
        else:
            length = np.sqrt((gradient**2).sum(axis=(1, 2, 3), keepdims=True))
            delta = point + step * gradient / length - clean
            delta *= np.minimum(1, epsilon / np.sqrt((delta**2).sum(axis=(1, 2, 3), keepdims=True)))
        point = np.clip(clean + delta, 0, 1)
    double = pgd(
        model, x.double(), y, epsilon=epsilon, step=step, steps=3, norm=norm, start=start.double(), targeted=targeted
    )
    # The loss is float32; the Linf ball is 6e-8 smaller than epsilon, which gradients may amplify a little.
    np.testing.assert_allclose(double.numpy(), point, rtol=0, atol=1e-6 if norm == "Linf" else 1e-8)


@pytest.mark.parametrize("norm", NORMS)
def test_one_long_step_is_the_fast_gradient_method(norm: Norm) -> None:
    model, (x, y) = net().eval(), images()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    direction = gradient.sign() if norm == "Linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    for step in (0.1, 0.5):
        there = pgd(model, x, y, epsilon=0.1, step=step, steps=1, norm=norm)
        torch.testing.assert_close(there, (x + 0.1 * direction).clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_radius_or_without_steps(norm: Norm) -> None:
    model, (x, y) = net(), images()
    start = random_start(x, epsilon=0.2, norm=norm, rng=Stream.of(5), index=torch.arange(len(x)))
    for begin in (start, None):
        assert (pgd(model, x, y, epsilon=0.0, step=0.1, steps=3, norm=norm, start=begin) == x).all()
    untouched = pgd(model, x, y, epsilon=0.2, step=0.1, steps=0, norm=norm, start=start)
    torch.testing.assert_close(untouched, (x + start).clamp(0, 1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_examples_stay_in_the_ball_and_the_pixel_range(norm: Norm) -> None:
    model, (x, y) = net(), images()
    x[0], x[1] = 0.0, 1.0
    for epsilon in (8 / 255, 0.7):
        start = random_start(x, epsilon=2 * epsilon, norm=norm, rng=Stream.of(6), index=torch.arange(len(x)))
        there = pgd(model, x, y, epsilon=epsilon, step=epsilon / 2, steps=4, norm=norm, start=start)
        assert (distance(x, there, norm) <= epsilon * (1 + 1e-6 * (norm == "L2"))).all()
        assert there.min() >= 0
        assert there.max() <= 1


def state(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]


def flags(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]


def failing(after: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that raises at its n-th call."""
    calls = iter(range(after))

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        if next(calls, None) is None:
            raise RuntimeError("planned")
        return F.cross_entropy(logits, y, reduction="none")

    return loss


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_caller_changes(mode: AttackMode, fails: bool) -> None:
    model = net().train()
    model[4].eval()  # frozen on purpose
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    x, y = images()
    start = random_start(x, epsilon=0.1, norm="Linf", rng=Stream.of(7), index=torch.arange(len(x)))
    caller = (x, y, start)
    copies = [tensor.clone() for tensor in caller]
    before, were = state(model), flags(model)
    arguments = {"epsilon": 0.1, "step": 0.05, "steps": 3, "start": start, "mode": mode}
    if fails:
        with pytest.raises(RuntimeError, match="planned"):
            pgd(model, x, y, loss=failing(2), **arguments)
    else:
        there = pgd(model, x, y, **arguments)
        assert not there.requires_grad
        assert (there != x).any()
        assert there.data_ptr() not in {x.data_ptr(), start.data_ptr()}
    assert all((now == copied).all() for now, copied in zip(caller, copies, strict=True))
    assert not x.requires_grad
    assert flags(model) == were
    grads = [p.grad for p in model.parameters()]
    assert grads[0] is not None
    assert (grads[0] == 1).all()
    assert all(grad is None for grad in grads[1:])
    same = all(torch.equal(now, then) for now, then in zip(state(model), before, strict=True))
    # BatchNorm's running statistics are the one thing that mode "train" moves, and only in layers in train mode.
    assert same == (mode != "train")
    assert torch.equal(model[4].running_mean, torch.zeros(8))


def test_modes_use_the_statistics_they_name() -> None:
    """One step from each mode is the fast gradient step of the network run that way."""
    model, (x, y) = net().train(), images()
    model[7].p = 0.0
    model[1].running_mean.fill_(0.4)
    expected = {}
    for training in (True, False):
        twin = copy.deepcopy(model).train(training)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(twin(leaf), y, reduction="sum"), leaf)
        expected[training] = (x + 0.1 * gradient.sign()).clamp(0, 1)
    assert not torch.allclose(expected[True], expected[False])
    for mode in MODES:
        there = pgd(model, x, y, epsilon=0.1, step=0.1, steps=1, mode=mode)
        torch.testing.assert_close(there, expected[mode != "eval"], rtol=0, atol=1e-7)
    with pytest.raises(AssertionError, match="as it is being trained"):
        pgd(model.eval(), x, y, epsilon=0.1, step=0.1, steps=1, mode="train")


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_does_not_depend_on_the_others(norm: Norm) -> None:
    """Same place in a batch of the same size, other companions: the same example, bit for bit."""
    model, (x, y) = net().eval(), images()
    index = torch.arange(len(x))

    def attack(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        start = random_start(x, epsilon=0.1, norm=norm, rng=Stream.of(8), index=index)
        return pgd(model, x, y, epsilon=0.1, step=0.04, steps=4, norm=norm, start=start)

    whole = attack(x, y, index)
    part = torch.where(index < 5, index, 4)  # what a last, padded batch looks like
    assert (attack(x[part], y[part], index[part])[:5] == whole[:5]).all()
    torch.testing.assert_close(attack(x.flip(0), y.flip(0), index.flip(0)).flip(0), whole, rtol=0, atol=1e-5)


def test_a_step_costs_two_forward_passes() -> None:
    """Counted by torch; parameters require gradients, none is computed."""
    model, (x, y) = net().eval(), images()
    with FlopCounterMode(display=False) as forward:
        model(x)
    with FlopCounterMode(display=False) as attack:
        pgd(model, x, y, epsilon=0.1, step=0.1, steps=7)
    assert attack.get_total_flops() == 7 * 2 * forward.get_total_flops()


def test_works_without_grad_and_gives_the_same() -> None:
    model, (x, y) = net().eval(), images()
    expected = pgd(model, x, y, epsilon=0.1, step=0.05, steps=2)
    with torch.no_grad():
        assert (pgd(model, x, y, epsilon=0.1, step=0.05, steps=2) == expected).all()
        assert not torch.is_grad_enabled()
    leaf = x.clone().requires_grad_()
    there = pgd(model, leaf, y, epsilon=0.1, step=0.05, steps=2)
    assert (there == expected).all()
    assert not there.requires_grad
    with torch.inference_mode(), pytest.raises(AssertionError, match="inference mode"):
        pgd(model, x, y, epsilon=0.1, step=0.05, steps=2)


def test_half_precision_gradients_float32_iterates() -> None:
    model, (x, y) = net().eval(), images()
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    model[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    x = x.contiguous(memory_format=torch.channels_last)
    for loss in OBJECTIVES.values():
        exact = pgd(model, x, y, epsilon=0.1, step=0.1, steps=1, loss=loss)
        seen.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            there = pgd(model, x, y, epsilon=0.1, step=0.1, steps=1, loss=loss)
        assert there.dtype == torch.float32
        assert there.is_contiguous(memory_format=torch.channels_last)
        assert (distance(x, there, "Linf") <= 0.1).all()
        assert seen == [torch.float32, torch.bfloat16]
        assert (there == exact).float().mean() > 0.95


def test_the_loss_sees_float32_logits_of_a_half_precision_network() -> None:
    """bfloat16 logits of a sure network tie; cross-entropy in bfloat16 would then have no gradient."""
    _, y = images(2)
    logits = torch.tensor([[10.0, 0.0, -10.0], [0.0, 10.0, -10.0]], dtype=torch.bfloat16)
    for loss in OBJECTIVES.values():
        assert loss(logits, y).dtype == torch.float32
    assert (OBJECTIVES["ce"](logits, y) > 0).all()
    assert OBJECTIVES["margin"](logits, y).tolist() == [-10.0, -10.0]
    assert OBJECTIVES["dlr"](logits, y).tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("cut", ["detached", "constant"])
def test_without_a_derivative_the_start_is_kept(cut: str) -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if cut == "detached":
                return x.detach().flatten(1)[:, :5]
            return torch.ones(len(x), 5, requires_grad=True) * 1.0

    x, y = images()
    start = random_start(x, epsilon=0.1, norm="Linf", rng=Stream.of(9), index=torch.arange(len(x)))
    there = pgd(Cut(), x, y, epsilon=0.1, step=0.1, steps=2, start=start)
    torch.testing.assert_close(there, (x + start).clamp(0, 1), rtol=0, atol=1e-7)


def test_attack_time_is_booked() -> None:
    from robusteval.cost import Meter

    model, (x, y) = net(), images()
    meter = Meter(model, torch.device("cpu"))
    with meter.running():
        pgd(model, x, y, epsilon=0.1, step=0.1, steps=2)
    assert list(meter.seconds) == ["attack"]
    assert meter.forward.total() == meter.backward.total() == 2 * len(x)
