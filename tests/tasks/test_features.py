"""Feature distances and cosines of networks whose adversarial examples are known in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from robusteval import models
from robusteval.attacks.search import Query
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.randomness import Stream
from robusteval.tasks import Context, Pgd
from robusteval.tasks.features import Features
from robusteval.tasks.predict import parts, to_input
from robusteval.tasks.withstand import Stage

EPS = 8 / 255


class Linear(nn.Module):
    """Linear where the rectifier is open: channel means, a 1x1 convolution, BatchNorm, and two linear layers."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(2, eps=0.0)
        self.middle = nn.Linear(2, 3, bias=False)
        self.head = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[0.5, -0.25, 1.0], [1.0, 0.5, -0.5]]).view(2, 3, 1, 1))
            self.bn.weight.copy_(torch.tensor([scale, 2.0]))
            self.bn.bias.copy_(torch.tensor([2.0, 3.0]))
            self.middle.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.25, 0.0]]))
            self.head.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.5, -1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(torch.relu(self.bn(self.conv(x))).mean((2, 3))))

    def known(self, x: Tensor, label: int, epsilon: float) -> dict[str, tuple[float, float]]:
        """Distance and cosine by layer: the example moves by epsilon along the signs of a constant direction."""
        weight, scale, shift, middle, head = (
            p.detach().double().flatten(1).numpy() if p.ndim > 1 else p.detach().double().numpy()
            for p in (self.conv.weight, self.bn.weight, self.bn.bias, self.middle.weight, self.head.weight)
        )
        mean = x.double().mean((1, 2)).numpy()
        weight = scale[:, None] * weight
        direction = np.sign((head[1 - label] - head[label]) @ middle @ weight)
        z, moved = weight @ mean + shift, weight @ (mean + epsilon * direction) + shift
        assert z.min() > 0 < moved.min()
        pairs = {"bn": (z, moved), "penultimate": (middle @ z, middle @ moved)}
        return {
            layer: (np.linalg.norm(b - a), a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
            for layer, (a, b) in pairs.items()
        }


@pytest.fixture
def pixels(data: ImageSet) -> ImageSet:
    """53 images of two classes, far from black and white."""
    index = torch.arange(53)
    images = (64 + 128 * Stream.of(5).uniform(index, 3, 8, 8)).to(torch.uint8)
    return replace(data, images=images, labels=Stream.of(6).integers(index, 2), classes=("a", "b"))


@pytest.mark.parametrize("batch_size", [16, 53, 100])
def test_linear_networks(pixels: ImageSet, context: Context, batch_size: int) -> None:
    """The mean over the images alone, not over what fills the last batch, through each branch's own example."""
    networks = {"main": Linear(1.0), "adv": Linear(-0.5)}
    task, context = Features(), replace(context, batch_size=batch_size)
    found = [m.measurement for m in task.measure(networks, pixels, context)]
    assert len(found) == 8
    values = {(m.where["branch"], m.where["layer"], m.metric): m for m in found}
    assert list(values) == [
        (branch, layer, metric)
        for branch in ("main", "adv")
        for layer in ("bn", "penultimate")
        for metric in ("feature_distance", "feature_cosine")
    ]
    for branch, network in networks.items():
        each = [
            network.known(x, y, EPS) for x, y in zip(pixels.images.double() / 255, pixels.labels.tolist(), strict=True)
        ]
        for layer in ("bn", "penultimate"):
            for i, metric in enumerate(("feature_distance", "feature_cosine")):
                scores = np.array([image[layer][i] for image in each])
                m = values[branch, layer, metric]
                assert m.value == pytest.approx(scores.mean(), rel=1e-5)
                low, high = scipy.stats.t.interval(0.95, 52, scores.mean(), scipy.stats.sem(scores))
                assert (m.low, m.high) == pytest.approx((low, high), rel=1e-5)
                assert (m.n, m.unit, m.task) == (53, "number", "features")
    assert found[0].where == {
        "branch": "main",
        "attack_branch": "main",
        "layer": "bn",
        "norm": "Linf",
        "epsilon": "8/255",
        "step": "2/255",
        "steps": 20,
    }


def test_l2_examples_of_a_linear_network(pixels: ImageSet, context: Context) -> None:
    """Every pixel of a channel moves alike: by epsilon along the direction, over the 64 pixels' root."""
    network, label = Linear(1.0), int(pixels.labels[0])
    weight = network.bn.weight.detach()[:, None] * network.conv.weight.detach().flatten(1)
    direction = (network.head.weight[1 - label] - network.head.weight[label]) @ network.middle.weight @ weight
    moved = (weight @ (direction / direction.norm()) * 0.5 / 64**0.5).norm()
    task = build(Features, {"norm": "L2", "epsilon": 0.5, "step": 0.1, "steps": 100, "limit": 1}, "test")
    first = next(iter(task.measure({"main": network}, pixels, context))).measurement
    assert first.value == pytest.approx(float(moved.detach()), rel=1e-4)
    assert (first.n, first.low, first.high) == (1, None, None)
    assert first.note == "no interval: all images give the same number"


def test_without_a_radius_nothing_moves(pixels: ImageSet, context: Context) -> None:
    for observation in Features(epsilon=0.0, steps=1).measure({"main": Linear(1.0)}, pixels, context):
        m = observation.measurement
        assert m.value == pytest.approx({"feature_distance": 0.0, "feature_cosine": 1.0}[m.metric], abs=1e-12)


def test_the_examples_come_from_the_iterates_of_pgd(pixels: ImageSet, context: Context) -> None:
    network, inputs = Linear(1.0), []
    network.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach().clone()))
    list(Features(steps=2, epsilon=0.1).measure({"main": network}, pixels, context))
    judged: list[Stage] = Pgd(steps=2, epsilon=0.1).stages(Stream.of(context.seed), classes=2, where="")
    assert len(inputs) == 4 * 4  # of each batch: clean, two steps, moved
    for part, seen in zip(parts(pixels, context.batch_size), zip(*[iter(inputs)] * 4, strict=True), strict=True):
        x = to_input(part.images, context.device)
        state = {"x": x, "y": part.labels, "index": part.index}
        query = Query(Linear(1.0).eval())
        state = judged[0].search.begin(query, state)
        for iterate in seen[1:]:
            torch.testing.assert_close(iterate, state["point"], rtol=0, atol=0)
            state = judged[0].search.step(query, state)


def test_layers_of_a_residual_network(pixels: ImageSet, context: Context) -> None:
    network = models.build("resnet8", classes=2).train()
    task, context = Features(steps=1, limit=3), replace(context, batch_size=4)
    found = [m.measurement for m in task.measure({"main": network}, pixels, context)]
    assert list(dict.fromkeys(m.where["layer"] for m in found)) == ["layer3.0.bn1", "layer3.0.bn2", "penultimate"]
    with torch.no_grad():
        network.linear.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="main: the network's logits are not finite"):
        list(task.measure({"main": network}, pixels, context))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"epsilon": 8}, "epsilon: 8 is more than the whole pixel range"), ({"steps": 0}, "steps: ")],
)
def test_options_that_cannot_be_meant_are_refused(values: Mapping[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Features, values, "suite.toml")
