"""Broken defences are flagged for what is broken about them, honest networks are not flagged, no check is idle."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.attacks import OBJECTIVES, PgdSearch
from robusteval.attacks.doubts import CHECKS, PAGE, Subject, examine, state_of
from robusteval.attacks.doubts.subject import predictions
from robusteval.attacks.search import Query, Threat, run
from robusteval.data import load
from robusteval.errors import UserError
from robusteval.methods import METHODS
from robusteval.models import build
from robusteval.models.weights import load_state, read_state
from robusteval.options import build as options
from robusteval.randomness import Stream
from robusteval.tasks.predict import logits, to_input
from robusteval.train import train
from robusteval.training import Training

CPU = torch.device("cpu")
IMAGES = 100

CAUSES = {name for name, check in CHECKS.items() if check.level == "doubt"} - {
    *("single-step", "smaller-epsilon", "noise", "black-box", "transfer", "more-steps", "large-epsilon"),
    *("silent-success", "no-progress", "planted"),
}
"""Checks that say what is broken. The others say that an attack was too weak, which any defect may bring about."""


class Net(nn.Module):
    """Three strided convolutions."""

    def __init__(
        self,
        width: int = 16,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 2, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), norm(2 * width)
        self.conv3, self.bn3 = nn.Conv2d(2 * width, 4 * width, 3, 2, 1, bias=False), norm(4 * width)
        self.linear = nn.Linear(16 * width, 10)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.47) / 0.25
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = self.activation(norm(conv(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 2).flatten(1))


def trained(
    network: Callable[[], nn.Module], method: str, *, epochs: int = 4, images: int = 2000, seed: int = 0, **values: Any
) -> nn.Module:
    """A network after a few seconds of training, as it is deployed."""
    torch.manual_seed(seed)
    made = options(METHODS[method], values, method)
    training = Training(epochs=epochs, batch_size=64, lr=0.1, precision="float32", schedule="onecycle", crop_padding=2)
    data = load("cifar10-sample", "train").first(images)
    found = train(network(), made, data, training, seed=seed, device=CPU)
    return made.deploy(found.model).eval().requires_grad_(False)


def trial(
    model: nn.Module,
    *,
    epsilon: float = 8 / 255,
    norm: str = "Linf",
    loss: str = "ce",
    attacked: nn.Module | None = None,
    data: str = "cifar10-sample",
    **values: Any,
) -> Subject:
    """PGD-20 on the first test images, as a task makes it."""
    images = load(data, "test").first(IMAGES)
    x, y, index = to_input(images.images, CPU), images.labels, torch.arange(IMAGES)
    threat = Threat(norm, epsilon)
    search = PgdSearch(threat, epsilon / 4, 20, rng=Stream.of(0).at("pgd"), loss=OBJECTIVES[loss])
    examples = run(search, Query(attacked or model), x, y, index)
    robust = (predictions(model, x) == y) & (predictions(model, examples) == y)
    subject = Subject(
        model=model,
        attacked=attacked or model,
        x=x,
        y=y,
        index=index,
        classes=10,
        threat=threat,
        robust=robust,
        examples=examples,
        rng=Stream.of(1),
        search=search,
        losses=(OBJECTIVES[loss],),
    )
    return replace(subject, **values)


def doubts(subject: Subject) -> set[str]:
    return {reason.name for reason in examine(subject) if reason.level == "doubt"}


@pytest.fixture(scope="module")
def robust() -> nn.Module:
    """Adversarially trained: of 39 % clean accuracy, 16 % are left at 8/255."""
    return trained(Net, "pgd_at", epsilon="4/255", step_size="3/255", steps=2)


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return trained(Net, "standard")


def k_winners(z: Tensor) -> Tensor:
    """The greatest tenth of all activations, the others 0 (Xiao et al., 2020, arXiv:1905.10510)."""
    flat = z.flatten(1)
    least = flat.topk(flat.shape[1] // 10, dim=1).values[:, -1:]
    return (flat * (flat >= least)).view_as(z)


@pytest.fixture(scope="module")
def winners() -> nn.Module:
    return trained(lambda: Net(activation=k_winners), "standard")


class Around(nn.Module):
    """Something around a network; ``around`` says what."""

    def __init__(self, net: nn.Module, around: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.around = net, around
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.around(self.net, x)


def staircase(z: Tensor) -> Tensor:
    """A rectifier in steps, whose derivative is said to be a tenth."""
    stairs = (torch.relu(z) * 8).round() / 8
    return stairs.detach() + 0.1 * (z - z.detach())


def stepped(net: nn.Module) -> nn.Module:
    """The trained network with another activation."""
    other = copy.deepcopy(net)
    other.activation = staircase
    return other


def purified(net: nn.Module, x: Tensor) -> Tensor:
    """Two steps towards less entropy before the prediction."""
    with torch.enable_grad():
        delta = torch.zeros_like(x, requires_grad=True)
        for _ in range(2):
            out = net(x + delta)
            entropy = -(out.log_softmax(1) * out.softmax(1)).sum()
            (gradient,) = torch.autograd.grad(entropy, delta)
            delta = (delta - gradient.sign() / 255).detach().requires_grad_()
    return net(x + delta.detach())


def of_the_batch(net: nn.Module, x: Tensor) -> Tensor:
    """Batch statistics whatever the mode; the running ones stay."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        return net(x)
    finally:
        for norm in norms:
            norm.training, norm.track_running_stats = False, True


def off_the_grid(net: nn.Module, x: Tensor) -> Tensor:
    """No numbers for images whose pixels are not whole grey levels."""
    grey = x.flatten(1) * 255
    clean = (grey - grey.round()).abs().amax(dim=1, keepdim=True) < 1e-3
    return torch.where(clean, net(x), torch.nan)


@dataclass(frozen=True)
class Nets:
    robust: nn.Module
    plain: nn.Module
    winners: nn.Module


def around(change: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[Nets], Subject]:
    return lambda nets: trial(Around(nets.robust, change))


DEFENCES: Mapping[str, tuple[Callable[[Nets], Subject], str]] = {
    "quantised input": (around(lambda net, x: net((x * 8).round() / 8)), "zero-gradient"),
    "added noise": (around(lambda net, x: net(x + 0.03 * torch.randn_like(x))), "randomised"),
    "non-differentiable activation": (lambda nets: trial(stepped(nets.robust)), "wrong-gradient"),
    "saturated logits": (around(lambda net, x: 10 * (1000 * net(x)).softmax(1) - 5), "zero-gradient"),
    "softmax output": (around(lambda net, x: net(x).softmax(1)), "probabilities"),
    "temperature": (around(lambda net, x: net(x) / 0.001), "saturated-loss"),
    "k-winners": (lambda nets: trial(nets.winners), "wrong-gradient"),
    "test-time optimisation": (around(purified), "optimisation-at-inference"),
    "train-mode BatchNorm": (around(of_the_batch), "train-mode"),
    "label-shuffled head": (around(lambda net, x: net(x).roll(1, dims=1)), "clean-at-chance"),
    "NaN head, off the images": (around(off_the_grid), "not-finite"),
    "attack routed through the wrong branch": (
        lambda nets: trial(nets.robust, attacked=nets.plain),
        "wrong-network",
    ),
}


@pytest.fixture(scope="module")
def broken(robust: nn.Module, plain: nn.Module, winners: nn.Module) -> Callable[[str], tuple[Subject, set[str]]]:
    """By name of the defence: its trial, and the doubts about it."""
    nets, found = Nets(robust, plain, winners), {}

    def look(name: str) -> tuple[Subject, set[str]]:
        if name not in found:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                subject = DEFENCES[name][0](nets)
                found[name] = subject, doubts(subject)
        return found[name]

    return look


@pytest.mark.parametrize("name", DEFENCES)
def test_broken_defences_are_flagged_for_the_right_reason(
    name: str, broken: Callable[[str], tuple[Subject, set[str]]]
) -> None:
    _, found = broken(name)
    assert found & CAUSES == {DEFENCES[name][1]}


@pytest.mark.parametrize("name", DEFENCES)
def test_no_other_check_says_what_is_broken(
    name: str, broken: Callable[[str], tuple[Subject, set[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its check switched off, the defence passes, or is flagged for weakness of the attack only.

    Where noise goes unnoticed as such, the gradients are seen to be of another draw.
    """
    subject, _ = broken(name)
    only(monkeypatch, CAUSES - {DEFENCES[name][1]})
    assert doubts(subject) == ({"wrong-gradient"} if name == "added noise" else set())


def test_a_head_that_gives_no_numbers_is_refused_before_it_is_attacked(robust: nn.Module) -> None:
    x = to_input(load("cifar10-sample", "test").first(20).images, CPU)
    head = Around(robust, lambda net, x: net(x) * torch.nan)
    with pytest.raises(UserError, match="logits are not finite on 20 of 20 images"):
        logits(head, x, classes=10, where="main")


def only(monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    """Switches all other checks off."""
    rest = MappingProxyType({name: check for name, check in CHECKS.items() if name in names})
    monkeypatch.setattr("robusteval.attacks.doubts.CHECKS", rest)


class Stubborn(nn.Module):
    """A module that does not leave train mode."""

    training = property(lambda self: True, lambda self, value: None)  # type: ignore[assignment]  # that is the point


class Counting(Around):
    """A network that counts its passes in a buffer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, lambda net, x: net(x))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


def curious(net: nn.Module, x: Tensor) -> Tensor:
    """Computes a gradient and makes no use of it."""
    with torch.enable_grad():
        leaf = torch.ones(1, requires_grad=True)
        torch.autograd.grad((leaf**2).sum(), leaf)
    return net(x)


def stubborn(net: nn.Module) -> nn.Module:
    outer = Around(net, lambda net, x: net(x))
    outer.add_module("part", Stubborn())
    return outer


def shifted(subject: Subject) -> Subject:
    """After its statistics were touched."""
    model = copy.deepcopy(subject.model)
    before = state_of(model)
    model.bn2.running_mean[3] += 1e-6
    return replace(subject, model=model, attacked=model, before=before)


def no_number_for_grey(net: nn.Module, x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return torch.where((flat == flat[:, :1]).all(dim=1, keepdim=True), torch.inf, net(x))


def instead(subject: Subject, change: Callable[[nn.Module, Tensor], Tensor]) -> Subject:
    """The subject with something around its network, after the same attack on the network alone."""
    model = Around(subject.model, change)
    return replace(subject, model=model, attacked=model)


ALONE: Mapping[str, tuple[Callable[[Subject], Subject], str]] = {
    "a little noise": (
        lambda s: instead(s, lambda net, x: net(x) + 5e-4 * torch.randn(len(x), 10)),
        "randomised",
    ),
    "a module that stays in train mode": (
        lambda s: replace(s, model=(model := stubborn(s.model)), attacked=model),
        "train-mode",
    ),
    "statistics that moved during the attack": (shifted, "state-changed"),
    "a buffer that moves with every pass": (
        lambda s: replace(s, model=(model := Counting(s.model)), attacked=model),
        "state-changed",
    ),
    "a gradient computed for nothing": (lambda s: instead(s, curious), "optimisation-at-inference"),
    "probabilities": (lambda s: instead(s, lambda net, x: net(x).softmax(1)), "probabilities"),
    "infinity for an image of one colour": (lambda s: instead(s, no_number_for_grey), "not-finite"),
    "cross-entropy of huge logits": (
        lambda s: replace(instead(s, lambda net, x: 1000 * net(x)), losses=(OBJECTIVES["ce"],)),
        "saturated-loss",
    ),
    "a gradient three times too long": (
        lambda s: instead(s, lambda net, x: net(3 * x - 2 * x.detach())),
        "wrong-gradient",
    ),
    "examples that were not moved": (lambda s: replace(s, examples=s.x), "no-progress"),
    "an attack that cannot find what is there": (
        lambda s: replace(s, search=PgdSearch(s.threat, 1e-5, 1, rng=None)),
        "planted",
    ),
}


@pytest.fixture(scope="module")
def honest(robust: nn.Module) -> Subject:
    return trial(robust, epsilon=2 / 255, loss="margin")


@pytest.mark.parametrize("name", ALONE)
def test_a_check_switched_off_lets_a_broken_defence_pass(
    name: str, honest: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, check = ALONE[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert CHECKS[check].find(make(honest)) is not None
        only(monkeypatch, set(CHECKS) - {check})
        assert doubts(make(honest)) == set()


quick = partial(trained, images=1200)

HONEST: Mapping[str, Callable[[], nn.Module]] = {
    "standard, resnet8": lambda: quick(lambda: build("resnet8", classes=10), "standard", epochs=2),
    "standard, GroupNorm": lambda: quick(lambda: Net(norm=lambda width: nn.GroupNorm(4, width)), "standard", seed=9),
    "standard, smooth": lambda: quick(lambda: Net(activation=F.silu), "standard", seed=1),
    "mixup": lambda: quick(lambda: Net(24), "mixup", seed=2),
    "noise": lambda: quick(Net, "gaussian_noise", seed=3),
    "advprop": lambda: quick(Net, "advprop", seed=4, steps=1, epsilon="1/255"),
    "entprop": lambda: quick(Net, "entprop", seed=5),
    "PGD, wide": lambda: quick(lambda: Net(24), "pgd_at", seed=6, steps=2, epsilon="2/255", step_size="1.5/255"),
    "TRADES": lambda: quick(Net, "trades", seed=7, steps=2, epsilon="3/255", step_size="2/255"),
    "fast": lambda: quick(Net, "fast_at", seed=8, epsilon="3/255", step_size="4/255"),
}


@pytest.mark.parametrize(("number", "name"), list(enumerate(HONEST)))
def test_honest_networks_are_not_flagged(number: int, name: str) -> None:
    """Two threats and three losses, in turn."""
    norm, epsilon = (("Linf", 2 / 255), ("L2", 0.25))[number % 2]
    assert doubts(trial(HONEST[name](), norm=norm, epsilon=epsilon, loss=("ce", "margin", "dlr")[number % 3])) == set()


def checkpoint(pattern: str) -> dict[str, Tensor]:
    if "ROBUSTEVAL_DATA" not in os.environ:
        pytest.skip("needs the complete CIFAR-10, in the folder that ROBUSTEVAL_DATA names")
    folder = os.environ.get("ROBUSTEVAL_CHECKPOINTS")
    found = sorted(Path(folder).glob(pattern)) if folder else []
    if not found:
        pytest.skip(f"needs ROBUSTEVAL_CHECKPOINTS to name a folder with {pattern}")
    return read_state(found[0])


def convolutional(pattern: str) -> nn.Module:
    """The network ``cnn_a`` of alpha-beta-CROWN, which names its layers by number."""
    layers = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))
    load_state(net, checkpoint(pattern), where=pattern)
    mean, std = (torch.tensor(v).view(3, 1, 1) / 255 for v in ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]))
    return Around(net, lambda net, x: net((x - mean) / std))


def residual(pattern: str) -> nn.Module:
    net = build("resnet20", classes=10, normalize="imagenet")
    load_state(net, checkpoint(pattern), where=pattern)
    return net


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "pattern", "epsilon"),
    [
        (convolutional, "*cnn_a_adv*", 2 / 255),
        (convolutional, "*cnn_a_mix*", 2 / 255),
        (residual, "*resnet20-*", 1 / 255),
    ],
)
def test_public_checkpoints_are_not_flagged(make: Callable[[str], nn.Module], pattern: str, epsilon: float) -> None:
    model = make(pattern).eval().requires_grad_(False)
    assert doubts(trial(model, epsilon=epsilon, data="cifar10")) == set()


def test_every_check_has_a_heading_in_the_page() -> None:
    page = (Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ ([a-z-]+)$", page, re.MULTILINE)
    assert sorted(name for name in headings if "-" in name or name in CHECKS) == sorted(CHECKS)
