"""Carlini and Wagner's attack against closed forms for linear networks and torch's own Adam, one image at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn

from robusteval.attacks.cw import CwSearch
from robusteval.attacks.geometry import distance
from robusteval.attacks.search import Query, State, run
from robusteval.losses import margin
from robusteval.randomness import Stream

Make = Callable[..., tuple[nn.Module, Tensor, Tensor, Tensor]]


def radius(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The distance of each image from the closest of the hyperplanes that bound its class, in the box."""
    weight = model.weight.detach().double().numpy()
    found = []
    for point, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True):
        lengths = []
        for other in set(range(len(weight))) - {label}:
            normal = weight[other] - weight[label]
            gap = float(-normal @ (point - 0.5))

            def way(multiplier: float, normal: np.ndarray = normal, point: np.ndarray = point) -> np.ndarray:
                return np.clip(multiplier * normal, -point, 1 - point)

            far = 1 / np.abs(normal).min()
            if normal @ way(far) >= gap:
                at = optimize.brentq(lambda m, n=normal, g=gap, way=way: n @ way(m) - g, 0, far, rtol=1e-14)
                lengths.append(float(np.linalg.norm(way(float(at)))))
        found.append(min(lengths))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(("classes", "spread"), [(2, 0.4), (5, 0.4), (5, 1.6)])
def test_linear_networks_are_broken_at_the_exact_distance(classes: int, spread: float, linear: Make) -> None:
    """Within half a percent and a fraction of a step of Adam's, which is rate / 2 * sqrt(48) long on grey images.

    With the walls of the box in the way (spread 1.6), pixels that are black or white need hundreds of steps to leave.
    """
    model, x, y, index = linear(classes, 16, spread=spread)
    rate, iterations = (0.01, 400) if spread > 1 else (0.003, 250)
    search = CwSearch(rounds=7, iterations=iterations, rate=rate, first=0.01)
    exact = radius(model, x, y)
    excess = distance(x, run(search, Query(model), x, y, index), "L2") - exact
    assert (excess > -1e-6).all()
    assert (excess < 0.005 * exact + 0.1 * search.rate / 2 * math.sqrt(48)).all()


def test_with_confidence_the_margin_is_exceeded(linear: Make) -> None:
    """By half a logit: the hyperplane is that much further away."""
    model, x, y, index = linear(2, 16, spread=0.4)
    found = run(CwSearch(rounds=7, iterations=250, rate=0.003, first=0.01, confidence=0.5), Query(model), x, y, index)
    assert (margin(model(found), y) <= -0.5).all()
    normal = (model.weight[0] - model.weight[1]).detach().double().norm()
    exact = (margin(model(x), y).detach().double() + 0.5) / normal
    ratio = distance(x, found, "L2") / exact
    assert ((ratio > 1 - 1e-5) & (ratio < 1.02)).all()


def straight(model: nn.Module, x: Tensor, y: int, search: CwSearch) -> tuple[float, np.ndarray, list[float]]:
    """The nearest example of one image and the values of c: torch's Adam and autograd, in float64."""
    clean = x.double()
    best, nearest = math.inf, clean
    c, lower, upper = search.first, 0.0, math.inf
    tried: list[float] = []
    left = search.rounds * search.iterations
    while left and (len(tried) < search.rounds or best == math.inf):
        tried.append(c)
        w = torch.atanh((2 * clean - 1) * 0.999999).requires_grad_()
        base = (torch.tanh(w.detach()) + 1) / 2
        adam = torch.optim.Adam([w], lr=search.rate)
        won, before = False, math.inf
        for iteration in range(search.iterations):
            if not left:
                break
            left -= 1
            point = (torch.tanh(w) + 1) / 2
            logits = model(point[None])[0]
            others = torch.cat([logits[:y], logits[y + 1 :]])
            lead = others.max() - logits[y]
            squared = (point.detach() - clean).square().sum()
            objective = (point - base).square().sum() + c * (search.confidence - lead).clamp(min=0)
            if lead >= search.confidence and others.max() > logits[y]:
                won = True
                if squared.item() < best**2:
                    best, nearest = math.sqrt(squared.item()), point.detach()
            stalled = False
            if search.stall is not None and iteration % (search.iterations // 10) == 0:
                stalled = objective.item() > before * (1 - search.stall)
                before = objective.item()
            adam.zero_grad()
            objective.backward()
            adam.step()
            if stalled:
                break
        if won:
            upper = min(upper, c)
        else:
            lower = max(lower, c)
        c = 10 * c if upper == math.inf else (lower + upper) / 2
    return best, nearest.numpy(), tried


def searches(make: type[CwSearch]) -> list[CwSearch]:
    return [
        make(rounds=5, iterations=20, first=0.01, stall=None),
        make(rounds=5, iterations=30, first=0.01, rate=0.02, confidence=0.3, stall=2e-2),
        make(rounds=2, iterations=30, first=1e-3, stall=1e-3),
    ]


@cache
def written_out(smooth: Make) -> list[list[tuple[float, np.ndarray, list[float]]]]:
    model, x, y, _ = smooth(5, spread=1.2)
    return [[straight(model, x[i], int(y[i]), search) for i in range(len(x))] for search in searches(CwSearch)]


def compare(make: type[CwSearch], smooth: Make) -> None:
    model, x, y, index = smooth(5, spread=1.2)
    for search, expected in zip(searches(make), written_out(smooth), strict=True):
        found = run(search, Query(model), x, y, index, slots=4)
        there = [0.0 if best == math.inf else best for best, _, _ in expected]
        np.testing.assert_allclose(distance(x, found, "L2"), there, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(found, [nearest for _, nearest, _ in expected], rtol=0, atol=1e-3)


def test_the_example_is_that_of_a_straight_line_computation(smooth: Make) -> None:
    compare(CwSearch, smooth)
    rounds = [[tried for _, _, tried in each] for each in written_out(smooth)]
    # Some c succeeded and some failed; rounds that stalled left time for others.
    assert any(a > b for tried in rounds[0] for a, b in pairwise(tried))
    assert any(len(tried) > 2 for tried in rounds[2])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(moment / unbiased1)", "moment"),
        ("(square / unbiased2)", "square"),
        ('state["inner"] + 1, self.rate', 'state["step"] + 1, self.rate'),
        ("unbiased2).sqrt()", "unbiased2)"),
        ('"moment": torch.where(fresh, 0, state["moment"])', '"moment": state["moment"]'),
        ('"square": torch.where(fresh, 0, state["square"])', '"square": state["square"]'),
        ('"w": torch.where(fresh, _whole(state["x"]), state["w"])', '"w": state["w"]'),
        ('"c": torch.where(over, following, c)', '"c": c'),
        ("(lower + upper) / 2, c * 10", "c * 10, c * 10"),
        ("(lower + upper) / 2, c * 10", "(lower + upper) / 2, c * 2"),
        ("over & ~won, torch.maximum", "over & won, torch.maximum"),
        ('"won": won & ~over', '"won": won'),
        ("+ 2 * offset)", "+ offset)"),
        ("weight * (margin(logits, y) + self.confidence)", "weight * (margin(logits, y))"),
        ("* (1 - self.stall)", ""),
        ('"before": torch.where(over, torch.inf, before)', '"before": before'),
        ("return torch.atanh((2 * x - 1) * _INSIDE)", "return (2 * x - 1) * _INSIDE"),
    ],
)
def test_planted_mistakes(planted: Callable[[Any, str, str], Any], old: str, new: str, smooth: Make) -> None:
    with pytest.raises(AssertionError):
        compare(planted(CwSearch, old, new), smooth)


def unmoved(make: type[CwSearch]) -> None:
    """Pixels that the network does not look at stay where they are."""

    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            corner = x[:, 0, 0, :1]
            return torch.cat([0.6 - corner, corner - 0.6], dim=1)

    x = 0.1 + 0.4 * Stream.of(6).uniform(torch.arange(4), 3, 4, 4)
    zero = torch.zeros(4, dtype=torch.int64)
    found = run(make(rounds=5, iterations=100, first=1.0), Query(Corner()), x, zero, torch.arange(4))
    moved = (found - x).abs().flatten(1)
    assert (moved[:, 0] > 0.09).all()
    assert (moved[:, 1:] < 1e-6).all()


def test_pixels_without_influence_do_not_move(planted: Callable[[Any, str, str], Any]) -> None:
    """Adam would make full steps of the smallest gradients, such as the guard's at black and white."""
    unmoved(CwSearch)
    with pytest.raises(AssertionError):
        unmoved(planted(CwSearch, 'point - state["base"]', 'point - state["x"]'))


def test_c_by_hand() -> None:
    """Ten times as much while nothing succeeds; half of what is left while everything does; then bisection."""

    class Watched(CwSearch):
        def step(self, query: Query, state: State) -> State:
            tried.append(float(state["c"]))
            return super().step(query, state)

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :1] * 0 + torch.tensor([1.0, 0.0])

    tried: list[float] = []
    x, zero = torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64)
    found = run(Watched(rounds=4, iterations=2, stall=None), Query(Constant()), x, zero, zero)
    assert tried == pytest.approx([1e-3, 1e-3, 1e-2, 1e-2, 1e-1, 1e-1, 1, 1])
    assert torch.equal(found, x)
    tried.clear()
    # Epsilon below what can be reached keeps the misclassified image, which is one at once, from leaving.
    search = Watched(rounds=3, iterations=1, stall=None, epsilon=-1.0)
    run(search, Query(Constant()), x, zero + 1, zero)
    assert tried == pytest.approx([1e-3, 5e-4, 2.5e-4])


def test_black_and_white_images_can_move(linear: Make) -> None:
    """There tanh is flat but for the guard, and it takes hundreds of steps to leave."""
    model, *_ = linear(2, 1, spread=1.0)
    x = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    y = model(x).argmax(dim=1)
    search = CwSearch(rounds=4, iterations=600, first=1.0, stall=None)
    found = run(search, Query(model), x, y, torch.arange(2))
    assert (model(found).argmax(dim=1) != y).all()
    assert ((found >= 0) & (found <= 1)).all()
    ratio = distance(x, found, "L2") / radius(model, x, y)
    assert ((ratio > 1 - 1e-5) & (ratio < 1.05)).all()


def test_with_an_epsilon_images_leave_early_and_stay_in_the_ball(linear: Make) -> None:
    model, x, y, index = linear(2, 40, spread=1.6)
    exact = radius(model, x, y)
    epsilon = float(exact.median())
    query = Query(model)
    found = run(CwSearch(rounds=5, iterations=300, first=0.1, epsilon=epsilon), query, x, y, index, slots=48)
    reach = distance(x, found, "L2")
    assert (reach <= epsilon).all()
    assert not (reach > 0)[exact > epsilon].any()
    assert (reach > 0)[exact < 0.9 * epsilon].all()
    assert (model(found).argmax(dim=1) != y)[reach > 0].all()
    assert query.backward < 0.75 * 48 * 1500
