"""Contract tests: subclass one in a test file, say what is to be tested, and pytest finds the rest.

``class TestMine(MethodContract): method = Mine()`` is a whole test file.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from robusteval.branches import branch_names, current_route, use_branch
from robusteval.cost import Meter, forward_flops
from robusteval.method import Batch, Method, Setting
from robusteval.modes import evaluating
from robusteval.optimization import named_state, restore_state
from robusteval.randomness import Stream

CLASSES = 5


class TinyNet(nn.Module):
    """A small network with the traits that trip methods: a layer used twice and a frozen part in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.again = self.bn1
        self.frozen = nn.Linear(16, 16).eval().requires_grad_(False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 5) of images (B, 3, H, W)."""
        x = torch.relu(self.again(self.bn1(self.conv1(x))))
        x = torch.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3))
        logits: Tensor = self.head(x + self.frozen(x))
        return logits


def example_batch(size: int = 40, *, step: int = 0) -> Batch:
    """A batch of smooth random 8 x 8 images with random labels; the same for the same arguments."""
    rng = Stream.of(0).at("contract", step)
    index = torch.arange(size)
    coarse = rng.at("x").uniform(index, 3, 4, 4)
    x = nn.functional.interpolate(coarse, size=8, mode="bilinear")
    other = nn.functional.interpolate(rng.at("partner").uniform(index, 3, 4, 4), size=8, mode="bilinear")
    y = rng.at("y").integers(index, CLASSES)
    return Batch(x=x, y=y, index=index, rng=rng, classes=CLASSES, partner=other)


def example_setting(method: Method, size: int = 40) -> Setting:
    """What `example_batch` of that size comes from; the teacher, if the method has one, is untrained."""
    setting = Setting(classes=CLASSES, images=size, batch_size=size, shape=(3, 8, 8))
    teacher = method.teacher()
    if teacher is None:
        return setting
    torch.manual_seed(1)
    taught = teacher.deploy(teacher.wrap(TinyNet().train(), example_setting(teacher, size)))
    return dataclasses.replace(setting, teacher=taught)


class Stepped(NamedTuple):
    """A network, what `Method.wrap` made of it, and the losses of the steps it has taken."""

    network: nn.Module
    model: nn.Module
    losses: list[float]
    optimizer: torch.optim.Optimizer


class MethodContract:
    """What every training method keeps to.

    Attributes:
        method: the method under test, with hyper-parameters under which everything it can do is on.
    """

    method: ClassVar[Method]

    def start(self) -> Stepped:
        """A freshly wrapped network in train mode, with an optimizer under which networks without BatchNorm learn."""
        torch.manual_seed(0)
        network = TinyNet().train()
        network.frozen.eval()
        setting = example_setting(self.method)
        torch.manual_seed(2)
        model = self.method.wrap(network, setting)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
        return Stepped(network, model, [], optimizer)

    def advance(self, state: Stepped, *steps: int) -> None:
        """Takes training steps; the batch of a step depends on its number only."""
        for step in steps:
            state.optimizer.zero_grad()
            logs = self.method.step(state.model, example_batch(step=step), torch.autograd.backward)
            state.losses.append(float(logs["loss"]))
            state.optimizer.step()

    def test_step_gives_every_trainable_parameter_a_gradient(self) -> None:
        state = self.start()
        logs = self.method.step(state.model, example_batch(), torch.autograd.backward)
        for name, parameter in state.model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{name} got no gradient"
                assert parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero"
            else:
                assert parameter.grad is None, f"{name} is frozen and got a gradient"
        for key, value in logs.items():
            assert value.ndim == 0, f"{key} is not a scalar"
            assert not value.requires_grad, f"{key} is not detached"

    def test_step_gives_every_parameter_a_gradient_under_autocast(self) -> None:
        state = self.start()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            self.method.step(state.model, example_batch(), torch.autograd.backward)
        missing = [n for n, p in state.model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, f"no gradient under autocast: {missing}"

    def test_step_leaves_the_batch_and_the_modes_as_they_were(self) -> None:
        state, batch = self.start(), example_batch()
        before = {f.name: copy.deepcopy(getattr(batch, f.name)) for f in dataclasses.fields(batch)}
        flags = {name: module.training for name, module in state.model.named_modules()}
        route = current_route(state.model)
        self.method.step(state.model, batch, torch.autograd.backward)
        for name in ("x", "y", "index"):
            assert torch.equal(before[name], getattr(batch, name)), f"batch.{name} was changed"
        assert not batch.x.requires_grad, "batch.x was made to require a gradient"
        assert flags == {name: module.training for name, module in state.model.named_modules()}
        assert route == current_route(state.model), "the branch route was not restored"

    def test_same_steps_give_the_same_weights(self) -> None:
        first, second = self.start(), self.start()
        self.advance(first, 0, 1, 2)
        self.advance(second, 0, 1, 2)
        _same(first.model.state_dict(), second.model.state_dict())

    def test_loss_falls_on_one_batch(self) -> None:
        state = self.start()
        self.advance(state, *[0] * 40)
        early, late = sum(state.losses[:5]) / 5, sum(state.losses[-5:]) / 5
        assert late < 0.9 * early, f"mean loss of the first 5 steps {early:.3f}, of the last 5 {late:.3f}"

    def test_state_round_trips_in_the_middle(self) -> None:
        straight, resumed = self.start(), self.start()
        self.advance(straight, 0, 1, 2, 3)
        self.advance(resumed, 0, 1)
        weights = copy.deepcopy(resumed.model.state_dict())
        slots = copy.deepcopy(named_state(resumed.model, resumed.optimizer))
        again = self.start()
        again.model.load_state_dict(weights)
        restore_state(again.model, again.optimizer, slots)
        self.advance(again, 2, 3)
        _same(straight.model.state_dict(), again.model.state_dict())

    def test_deployed_model_is_plain_and_equals_its_branch(self) -> None:
        state = self.start()
        keys = list(TinyNet().state_dict())
        self.advance(state, 0, 1)
        x = example_batch(step=7).x
        assert branch_names(state.network) == self.method.branches
        assert self.method.deployed in self.method.branches
        for branch in (None, *self.method.branches):
            plain = self.method.deploy(state.model, branch)
            assert list(plain.state_dict()) == keys, "the deployed model has other keys than the network"
            assert type(plain) is TinyNet
            assert {type(m) for m in plain.modules()} == {type(m) for m in TinyNet().modules()}
            with use_branch(state.network, branch or self.method.deployed), evaluating(state.network):
                expected = state.network(x)
            with evaluating(plain):
                assert torch.equal(plain(x), expected), f"branch {branch} gives other logits once deployed"

    def test_passes_and_flops_are_those_of_the_law(self) -> None:
        state, batch, law = self.start(), example_batch(), self.method.passes()
        meter = Meter(state.network, torch.device("cpu"))
        with meter.running(), meter.counting_flops(fresh=True):
            self.method.step(state.model, batch, torch.autograd.backward)
        n = len(batch.x)
        measured = {name: count / n for name, count in meter.backward.items()}
        assert measured.keys() == law.backward_by_branch.keys()
        for branch, passes in law.backward_by_branch.items():
            assert abs(measured[branch] - passes) < 1e-9, f"{branch}: {measured[branch]} passes, the law says {passes}"
        # The gradient of the first layer's input is needed by attacks and by nothing else, so a small network
        # is a little off the law; the exact figures of a real one are tested apart.
        first = forward_flops(state.network.conv1, batch.x)  # type: ignore[arg-type]  # TinyNet has a conv1
        one = forward_flops(state.network, batch.x)
        slack = first * (sum(law.train.values()) + sum(law.attack.values()) + 1)
        assert abs(meter.flops - 3 * law.flops * one) <= slack

    def test_card_is_complete(self) -> None:
        card = self.method.card
        for field in ("title", "authors", "venue", "url", "summary", "reference"):
            assert getattr(card, field).strip(), f"card.{field} is empty"
        assert card.url.startswith("https://")
        assert 1980 < card.year < 2100
        assert self.method.name.isidentifier()


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Fails at the first tensor that is not bit-identical."""
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), f"{key} differs"
