"""Angles between the gradients of two losses: closed forms, and one shared weight where the task has two copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval import models
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.method import Setting
from robusteval.methods.arat import ARAT
from robusteval.methods.standard import Standard
from robusteval.options import build
from robusteval.randomness import Stream
from robusteval.records import Measurement
from robusteval.tasks import Context, Origin
from robusteval.tasks.gradients import Gradients
from robusteval.training import Training

FORMS = ("none", "clean", "adversarial")


class Small(nn.Module):
    """A 1x1 convolution, BatchNorm, rectifier, average and a classifier; the weights are the same in every copy."""

    def __init__(self, width: int, scale: float, shift: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-12)
        self.head = nn.Linear(width, 2, bias=False)
        index = torch.arange(width)
        with torch.no_grad():
            self.conv.weight.copy_(Stream.of(1).uniform(index, 3, 1, 1) - 0.3)
            self.head.weight.copy_(Stream.of(2).normal(index, 2).T)
            self.bn.weight.copy_(scale * (1 + Stream.of(3).uniform(index)))
            self.bn.bias.fill_(shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


@pytest.fixture
def pixels(data: ImageSet) -> ImageSet:
    """30 images of two classes, far from black and white."""
    index = torch.arange(30)
    images = (64 + 128 * Stream.of(5).uniform(index, 3, 4, 4)).to(torch.uint8)
    return replace(data, images=images, labels=Stream.of(6).integers(index, 2), classes=("a", "b"))


def rows(task: Gradients, networks: Mapping[str, nn.Module], data: ImageSet, context: Context) -> list[Measurement]:
    found = list(task.measure(networks, data, context))
    assert all(observation.outcomes is None for observation in found)
    return [observation.measurement for observation in found]


def by_place(found: list[Measurement]) -> dict[tuple[object, ...], float | None]:
    return {(m.metric, m.where["stop_gradient"], m.where["layer"]): m.value for m in found}


def test_one_image_and_one_channel(pixels: ImageSet, context: Context) -> None:
    """Every gradient of the convolution is a multiple of the channel means, whose sign is known.

    z = w m and a = 2 z: the loss (a - z)^2 falls with z if both move or if only the adversarial feature does, and
    rises if only the clean one does; cross-entropy falls as z rises, since the label's weight is the greater one.
    """
    networks = {"main": Small(1, 1.0, 0.0), "adv": Small(1, 2.0, 0.0)}
    for network, scale in zip(networks.values(), (1.0, 2.0), strict=True):
        with torch.no_grad():
            network.conv.weight.fill_(0.5)
            network.head.weight.copy_(torch.tensor([[0.3], [1.0]]))
            network.bn.weight.fill_(scale)
    data = replace(pixels.first(1), labels=torch.tensor([1]))
    found = rows(Gradients(epsilon=0.0, distance="mse"), networks, data, context)
    values = by_place(found)
    z = 0.5 * float(data.images.double().div(255).mean((2, 3)).sum())
    means = data.images[0].double().div(255).mean((1, 2)).numpy()
    wrong = [1 / (1 + np.exp(0.7 * z * scale)) for scale in (1, 2)]  # the probability of the other class
    towards = -0.7 * (wrong[0] + 2 * wrong[1]) * means
    head = np.array([1, -1]) * (wrong[0] * z + wrong[1] * 2 * z)
    share = np.linalg.norm(towards) / np.hypot(np.linalg.norm(towards), np.linalg.norm(head))
    for form, sign in zip(FORMS, (-1, -1, 1), strict=True):
        assert values["gradient_cosine", form, "conv"] == pytest.approx(sign)
        assert values["sign_conflict", form, "conv"] == (sign < 0)
        assert values["gradient_cosine", form, "all"] == pytest.approx(sign * share, rel=1e-5)
        assert values["sign_conflict", form, "all"] == pytest.approx(3 / 5 * (sign < 0))  # three weights of five
    assert len(found) == 12  # the classifier has no row
    assert {(m.n, m.low, m.high, m.unit) for m in found} == {(1, None, None, "number")}
    assert {m.note for m in found} == {"no interval: all batches give the same number"}


def test_scales_do_not_matter(pixels: ImageSet, context: Context) -> None:
    """Gradients as small as float32 allows keep their angle and signs: no square of them vanishes."""
    values = []
    for tiny in (1e-3, 1e-30):
        networks = {"main": Small(3, 1.0, 0.5), "adv": Small(3, 0.5, 0.6)}
        for network in networks.values():
            network.head.weight.data.mul_(tiny)  # of cross-entropy, at logits near 0
            network.head.weight.data[1] = network.head.weight.data[0] + tiny
        values.append(by_place(rows(Gradients(epsilon=0.0), networks, pixels, context)))
    for form in FORMS:
        conv = values[1]["gradient_cosine", form, "conv"]
        assert conv is not None
        assert 0.01 < abs(conv) < 0.999
        assert values[1]["sign_conflict", form, "conv"] in {i / 9 for i in range(10)}
        assert values[1]["sign_conflict", form, "conv"] == values[0]["sign_conflict", form, "conv"]


def with_one_weight(
    networks: Mapping[str, Small], data: ImageSet, *, epsilon: float, form: str, distance: str, of_batch: bool
) -> dict[str, tuple[float, float]]:
    """Cosine and conflicts from one weight that both branches share, float64; the attack in closed form."""
    x, y = data.images.double() / 255, data.labels
    conv = networks["main"].conv.weight.detach().double().flatten(1).requires_grad_()
    head = networks["main"].head.weight.detach().double().requires_grad_()

    def look(network: Small, x: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.einsum("kc,bchw->bkhw", conv, x)
        if of_batch:
            mean, var = out.mean((0, 2, 3)), out.var((0, 2, 3), unbiased=False)
            out = (out - mean[:, None, None]) / var[:, None, None].sqrt()
        weight, bias = network.bn.weight.detach().double(), network.bn.bias.detach().double()
        z = (out * weight[:, None, None] + bias[:, None, None]).clamp(min=0).mean((2, 3))
        return z @ head.T, z

    adv = networks["adv"]
    apart = (head[0] - head[1]).detach() * adv.bn.weight.detach().double() @ conv.detach()
    direction = (apart.sign() * torch.where(y == 0, -1.0, 1.0)[:, None])[:, :, None, None]
    (logits, z), (logits_adv, a) = look(networks["main"], x), look(adv, x + epsilon * direction)
    classification = F.cross_entropy(logits, y) + F.cross_entropy(logits_adv, y)
    z, a = (z.detach() if form == "clean" else z), (a.detach() if form == "adversarial" else a)
    invariance = (1 - F.cosine_similarity(a, z)).mean() if distance == "cosine" else F.mse_loss(a, z)
    (c_conv, c_head), (i_conv,) = (
        torch.autograd.grad(classification, (conv, head), retain_graph=True),
        torch.autograd.grad(invariance, conv),
    )
    sides = {
        "conv": (c_conv.flatten(), i_conv.flatten()),
        "all": (
            torch.cat([c_conv.flatten(), c_head.flatten()]),
            torch.cat([i_conv.flatten(), torch.zeros(head.numel()).double()]),
        ),
    }
    return {
        layer: (float(F.cosine_similarity(c, i, dim=0)), float((c * i < 0).double().mean()))
        for layer, (c, i) in sides.items()
    }


@pytest.mark.parametrize("distance", ["cosine", "mse"])
@pytest.mark.parametrize("statistics", ["eval", "batch"])
def test_copies_of_a_weight_are_one_weight(distance: str, statistics: str, pixels: ImageSet, context: Context) -> None:
    """The task differentiates two networks, the reference one weight that both branches read."""
    networks = {"main": Small(4, 1.0, 1.5), "adv": Small(4, 0.7, 2.0)}
    for network in networks.values():
        network.train()
    task = build(
        Gradients,
        {"distance": distance, "statistics": statistics, "epsilon": 0.05, "step": 0.02, "batch_size": 10},
        "test",
    )
    found = rows(task, networks, pixels, context)
    assert len(found) == 3 * 2 * 2
    measured = {(m.where["stop_gradient"], m.where["layer"], m.metric): m for m in found}
    for form in FORMS:
        expected = [
            with_one_weight(
                networks,
                replace(pixels, images=pixels.images[a:b], labels=pixels.labels[a:b]),
                epsilon=0.05,
                form=form,
                distance=distance,
                of_batch=statistics == "batch",
            )
            for a, b in pairwise((0, 10, 20, 30))
        ]
        for layer in ("all", "conv"):
            for i, metric in enumerate(("gradient_cosine", "sign_conflict")):
                values = np.array([batch[layer][i] for batch in expected])
                m = measured[form, layer, metric]
                assert m.value == pytest.approx(values.mean(), abs=2e-4)
                assert m.n == 30
                if np.ptp(values) > 0:
                    low, high = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
                    bounds = (max(low, -1.0 if metric == "gradient_cosine" else 0.0), min(high, 1.0))
                    assert (m.low, m.high) == pytest.approx(bounds, abs=2e-3)
                else:
                    assert (m.low, m.high) == (None, None)
    assert found[0].where == {
        "branch": "adv",
        "clean_branch": "main",
        "attack_branch": "adv",
        "stop_gradient": "none",
        "layer": "all",
        "distance": distance,
        "statistics": statistics,
        "images": "test",
        "batch_size": 10,
        "norm": "Linf",
        "epsilon": "0.05",
        "step": "0.02",
        "steps": 10,
    }


def test_branches_that_agree_have_no_direction(pixels: ImageSet, context: Context) -> None:
    networks = {"main": Small(2, 1.0, 1.0), "aux": Small(2, 1.0, 1.0)}
    found = rows(Gradients(epsilon=0.0, distance="mse", batch_size=15), networks, pixels, context)
    assert [(m.metric, m.where["layer"]) for m in found] == [("gradient_cosine", "all"), ("sign_conflict", "all")] * 3
    assert [m.value for m in found] == [None, 0.0] * 3
    assert found[0].note == "a gradient is zero in 2 of 2 batches"


def test_batches_are_of_equal_size(pixels: ImageSet, context: Context) -> None:
    sizes: list[int] = []
    networks = {"main": Small(2, 1.0, 1.0), "aux": Small(2, 2.0, 1.0)}
    networks["main"].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    found = rows(Gradients(steps=1, batch_size=16, limit=23), networks, pixels, context)
    assert sizes == [12, 12, 11, 11]
    assert {m.n for m in found} == {23}


@pytest.mark.parametrize("statistics", ["eval", "batch"])
def test_networks_are_left_as_they_were(statistics: str, pixels: ImageSet, context: Context) -> None:
    networks = {"main": Small(2, 1.0, 1.0), "aux": Small(2, 2.0, 1.0).eval()}
    networks["main"].train().head.eval()
    networks["main"].conv.weight.grad = torch.ones_like(networks["main"].conv.weight)
    for network in networks.values():
        network.head.weight.requires_grad_(False)

    def state() -> list[object]:
        return [
            [
                {key: value.tolist() for key, value in network.state_dict().items()},
                [(module.training, getattr(module, "track_running_stats", None)) for module in network.modules()],
                [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in network.parameters()],
            ]
            for network in networks.values()
        ]

    before = state()
    assert rows(build(Gradients, {"statistics": statistics, "steps": 1}, "test"), networks, pixels, context)
    assert state() == before


def test_nothing_without_the_parts(pixels: ImageSet, context: Context) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    frozen = Small(2, 1.0, 1.0).requires_grad_(False)
    two = {"main": Small(2, 1.0, 1.0), "aux": Small(2, 2.0, 1.0)}
    assert rows(Gradients(), {"main": two["main"]}, pixels, context) == []
    assert rows(Gradients(), {"clean": two["main"], "adv": two["aux"]}, pixels, context) == []
    assert rows(Gradients(), {"main": plain, "aux": plain}, pixels, context) == []
    assert rows(Gradients(), {"main": frozen, "aux": frozen}, pixels, context) == []
    assert rows(Gradients(images="train"), two, pixels, context) == []


def test_training_images_are_those_of_the_origin(pixels: ImageSet, context: Context) -> None:
    networks = {"main": Small(2, 1.0, 1.0), "aux": Small(2, 2.0, 1.0)}
    train = replace(pixels, images=pixels.images[10:], labels=pixels.labels[10:])
    origin = Origin(Standard(), Training(), networks["main"], train, lambda name: None)
    found = rows(Gradients(images="train", steps=2), networks, pixels, replace(context, origin=origin))
    expected = rows(Gradients(steps=2), networks, train, context)
    assert [m.value for m in found] == [m.value for m in expected]
    assert {(m.where["images"], m.n) for m in found} == {("train", 20)}


def test_every_convolution_before_the_features_has_a_row(pixels: ImageSet, context: Context) -> None:
    torch.manual_seed(0)
    network = models.build("resnet8", classes=2).train()
    model = ARAT().wrap(network, Setting(classes=2, images=30, batch_size=10))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "aux_bn" in name:
                parameter.add_(0.3)
    branches = {name: ARAT().deploy(model, name) for name in ("main", "adv")}
    found = rows(Gradients(steps=1, limit=4), branches, pixels, context)
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert list(dict.fromkeys(m.where["layer"] for m in found)) == ["all", *layers]
    with torch.no_grad():
        branches["adv"].linear.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="adv: the network's logits are not finite"):
        rows(Gradients(limit=4), branches, pixels, context)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": 8}, "epsilon: 8 is more than the whole pixel range"),
        ({"statistics": "evl"}, "did you mean 'eval'"),
        ({"batch_size": 0}, "batch_size: "),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: Mapping[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Gradients, values, "suite.toml")
