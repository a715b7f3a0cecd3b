"""FAB against closed forms for linear networks and a straight-line computation of single images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn

from robusteval.attacks import fab
from robusteval.attacks.fab import FabSearch
from robusteval.attacks.geometry import distance
from robusteval.attacks.hyperplane import to_hyperplane
from robusteval.attacks.nearest import nearer
from robusteval.attacks.search import Query, run
from robusteval.options import Norm
from robusteval.randomness import Stream

Make = Callable[..., tuple[nn.Module, Tensor, Tensor, Tensor]]
NORMS: tuple[Norm, ...] = ("Linf", "L2")
RNG = Stream.of(8)
EPSILON: Mapping[Norm, float] = {"Linf": 0.03, "L2": 0.3}


def shortest(point: np.ndarray, normal: np.ndarray, gap: float, norm: Norm) -> np.ndarray:
    """The shortest way to the hyperplane in the box, by a root finder; the closest corner if it is out of reach."""

    def way(multiplier: float) -> np.ndarray:
        return np.clip(multiplier * (np.sign(normal) if norm == "Linf" else normal), -point, 1 - point)

    far = math.copysign(1.0, gap) * (1.0 if norm == "Linf" else 1 / np.abs(normal[normal != 0]).min())
    if abs(normal @ way(far)) <= abs(gap):
        return way(far)
    return way(float(optimize.brentq(lambda m: normal @ way(m) - gap, 0, far, xtol=1e-300, rtol=1e-14)))


def length(d: np.ndarray, norm: Norm) -> float:
    return float(np.abs(d).max() if norm == "Linf" else np.linalg.norm(d))


def radius(model: nn.Module, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """The distance of each image from the closest of the hyperplanes that bound its class, in the box."""
    weight = model.weight.detach().double().numpy()
    found = []
    for point, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True):
        ways = []
        for other in set(range(len(weight))) - {label}:
            normal = weight[other] - weight[label]
            way = shortest(point, normal, float(-normal @ (point - 0.5)), norm)
            crossed = normal @ (point + way - 0.5) > -1e-9
            ways.append(length(way, norm) if crossed else math.inf)
        found.append(min(ways))
    return torch.tensor(found, dtype=torch.float64)


def minimum(make: type[FabSearch], model: nn.Module, x: Tensor, y: Tensor, index: Tensor, norm: Norm) -> Tensor:
    """The least distance over all targets; infinite where nothing was found."""
    least = torch.full((len(x),), torch.inf, dtype=torch.float64)
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    for rank in range(1, classes):
        found = run(make(norm, None, rank, RNG), Query(model), x, y, index)
        assert ((found >= 0) & (found <= 1)).all()
        with torch.no_grad():
            wrong = model(found).argmax(dim=1) != y
        assert (wrong | (found == x).flatten(1).all(dim=1)).all()
        least = torch.where(wrong, torch.minimum(least, distance(x, found, norm)), least)
    return least


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("spread", [0.4, 1.6])
def test_linear_networks_are_broken_at_the_exact_distance(
    norm: Norm, classes: int, spread: float, linear: Make
) -> None:
    """Up to rounding where the box is not in the way; where it is, 100 iterations come within 0.2 %."""
    model, x, y, index = linear(classes, 20, spread=spread, faint=1e-3)
    exact = radius(model, x, y, norm)
    free = radius_without_box(model, x, y, norm)
    assert bool((exact > free * 1.001).sum() > 8) == (spread > 1)
    excess = minimum(FabSearch, model, x, y, index, norm) - exact
    assert (excess > -1e-6).all()
    assert (excess < (2e-3 * exact if spread > 1 else 0) + 1e-6).all()


def radius_without_box(model: nn.Module, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """The least margin over the dual norm of the difference of weights."""
    logits = model(x).detach().double()
    normal = model.weight.detach().double().unsqueeze(0) - model.weight.detach().double()[y].unsqueeze(1)
    dual = torch.linalg.vector_norm(normal, ord=1 if norm == "Linf" else 2, dim=2)
    gap = logits.gather(1, y.unsqueeze(1)) - logits
    return (gap / dual).nan_to_num(nan=torch.inf).amin(dim=1)


def straight(model: nn.Module, x: Tensor, y: int, index: int, search: FabSearch) -> tuple[float, np.ndarray]:
    """The nearest example of one image: numpy in float64, one loop after another."""
    clean = x.flatten().double().numpy()
    norm = search.norm

    def ask(point: np.ndarray, target: int = 0) -> tuple[np.ndarray, np.ndarray]:
        leaf = torch.tensor(point.reshape(1, *x.shape), requires_grad=True)
        logits = model(leaf)[0]
        (logits[target] - logits[y]).backward()
        assert leaf.grad is not None
        return logits.detach().numpy(), leaf.grad.flatten().numpy()

    ranked = [c for c in np.argsort(-ask(clean)[0], kind="stable") if c != y]
    target = int(ranked[search.rank - 1])
    best, nearest = math.inf, clean
    for restart in range(search.restarts):
        point = clean.copy()
        if restart:
            key = torch.tensor([index * 2**20 + restart])
            rng = search.rng.at("restart")
            draw = 2 * rng.uniform(key, *x.shape) - 1 if norm == "Linf" else rng.normal(key, *x.shape)
            t = draw.flatten().double().numpy()
            most = (0.3 if norm == "Linf" else 1.0) if search.epsilon is None else search.epsilon
            point = np.clip(clean + min(best, most) * t / length(t, norm) / 2, 0, 1)
        for _ in range(search.iterations):
            logits, normal = ask(point, target)
            asked, gap = point, logits[y] - logits[target]
            if logits.argmax() != y:
                if length(point - clean, norm) < best:
                    best, nearest = length(point - clean, norm), point
                point = clean + search.beta * (point - clean)
            gap += normal @ (asked - point)
            here = shortest(point, normal, gap, norm)
            origin = shortest(clean, normal, gap + normal @ (point - clean), norm)
            alpha = min(length(here, norm) / (length(here, norm) + length(origin, norm)), search.alpha_max)
            point = (1 - alpha) * (point + search.eta * here) + alpha * (clean + search.eta * origin)
            point = np.clip(point, 0, 1)
        if ask(point)[0].argmax() != y and length(point - clean, norm) < best:
            best, nearest = length(point - clean, norm), point
    low, high = clean, nearest
    for _ in range(search.bisections):
        below, above = ask(low)[0], ask(high)[0]
        other = int(above.argmax())
        share = (below[y] - below[other]) / (below[y] - below[other] - above[y] + above[other])
        share += (1 - share) / 10
        middle = (1 - share) * low + share * high
        low, high = (low, middle) if ask(middle)[0].argmax() != y else (middle, high)
    return length(high - clean, norm), high


def searches(make: type[FabSearch], norm: Norm) -> list[FabSearch]:
    """Few steps, so that rounding does not grow."""
    return [
        make(norm, None, 1, RNG, iterations=7, bisections=0),
        make(norm, None, 2, RNG, iterations=5, restarts=3, bisections=3),
        make(norm, None, 1, RNG, iterations=3, restarts=2, bisections=1, alpha_max=0.15, eta=1.2, beta=0.7),
    ]


@cache
def written_out(norm: Norm, smooth: Make) -> list[list[tuple[float, np.ndarray]]]:
    model, x, y, index = smooth(8, spread=1.3, bend=nn.Softplus(beta=3))
    rows = list(zip(x, y.tolist(), index.tolist(), strict=True))
    return [[straight(model, *row, search) for row in rows] for search in searches(FabSearch, norm)]


def compare(make: type[FabSearch], norm: Norm, smooth: Make) -> None:
    model, x, y, index = smooth(8, spread=1.3, bend=nn.Softplus(beta=3))
    for search, expected in zip(searches(make, norm), written_out(norm, smooth), strict=True):
        found = run(search, Query(model), x, y, index, slots=5)
        np.testing.assert_allclose(distance(x, found, norm), [best for best, _ in expected], rtol=2e-5)
        np.testing.assert_allclose(found.flatten(1), [nearest for _, nearest in expected], rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_example_is_that_of_a_straight_line_computation(norm: Norm, smooth: Make) -> None:
    compare(FabSearch, norm, smooth)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nan_to_num(-lead(logits)", "nan_to_num(lead(logits)"),
        ("normal, gap + offset, self.norm", "normal, gap, self.norm"),
        ("gap + (1 - kept) * offset", "gap"),
        ("others.sort(dim=1, descending=True", "others.sort(dim=1, descending=False"),
        (" - 1]\n        state", "]\n        state"),
        (".clamp(max=self.alpha_max)", ""),
        ("(a / (a + b))", "(b / (a + b))"),
        ("origin + self.eta * from_origin", "origin + from_origin"),
        ("here + self.eta * from_here", "here + from_here"),
        ("point.clamp_(0, 1)", "point"),
        ("torch.where(wrong, self.beta, 1.0)", "torch.where(wrong, 1.0, 1.0)"),
        ("share = below / (below - above)", "share = above / (above - below)"),
        ("low = bisecting & ~wrong", "low = bisecting & wrong"),
        ("torch.where(improved, logits", "torch.where(wrong.unsqueeze(1), logits"),
    ],
    ids=[
        "sign",
        "hyperplane of the image",
        "hyperplane of the step back",
        "least likely",
        "next rank",
        "alpha",
        "other alpha",
        "overshoot from the image",
        "overshoot",
        "no box",
        "no step back",
        "share",
        "low",
        "logits of another point",
    ],
)
def test_planted_mistakes(planted: Callable[[Any, str, str], Any], old: str, new: str, smooth: Make) -> None:
    mutant = planted(FabSearch, old, new)
    with pytest.raises(AssertionError):
        for norm in NORMS:
            compare(mutant, norm, smooth)


def test_the_wrong_projection_misses_the_minimum(
    planted: Callable[[Any, str, str], Any], monkeypatch: pytest.MonkeyPatch, linear: Make
) -> None:
    monkeypatch.setattr(fab, "to_hyperplane", planted(to_hyperplane, 'if norm == "Linf":', 'if norm == "L2":'))
    model, x, y, index = linear(2, 20, spread=0.4)
    for norm in NORMS:
        ratio = minimum(FabSearch, model, x, y, index, norm) / radius(model, x, y, norm)
        assert (ratio > 1.001).all()


@pytest.mark.parametrize("norm", NORMS)
def test_with_an_epsilon_images_leave_early_and_stay_in_the_ball(norm: Norm, linear: Make) -> None:
    model, x, y, index = linear(2, 40, spread=1.6)
    exact = radius(model, x, y, norm)
    epsilon = float(exact.median())
    query = Query(model)
    found = run(FabSearch(norm, epsilon, 1, RNG), query, x, y, index, slots=48)
    reach = distance(x, found, norm)
    broken = exact < epsilon
    assert (reach <= epsilon).all()
    assert torch.equal(reach > 0, broken)
    assert (model(found).argmax(dim=1) != y)[broken].all()
    assert query.backward < 0.75 * 48 * 100
    # The one at the median needs the last steps: it is the exact distance that decides.
    strict = run(FabSearch(norm, float(exact.min()) * 0.999, 1, RNG), Query(model), x, y, index)
    assert torch.equal(strict, x)


def check_restarts(make: type[FabSearch], norm: Norm, smooth: Make) -> None:
    """Restarts begin half way to the nearest example, or to epsilon if that is nearer, each somewhere else."""
    model, x, y, index = smooth(6, spread=0.6)
    near = distance(x, run(make(norm, None, 1, RNG, iterations=2, bisections=0), Query(model), x, y, index), norm)
    for epsilon in (None, EPSILON[norm] / 100):
        seen: list[Tensor] = []

        class Watched(Query):
            def gradient(
                self, points: Tensor, value: Callable[[Tensor], Tensor], seen: list[Tensor] = seen
            ) -> tuple[Tensor, Tensor]:
                seen.append(points)
                return super().gradient(points, value)

        run(make(norm, epsilon, 1, RNG, iterations=2, restarts=3, bisections=0), Watched(model), x, y, index)
        assert torch.equal(seen[0], x)
        radius = near / 2 if epsilon is None else torch.full((6,), epsilon / 2).double()
        torch.testing.assert_close(distance(x, seen[2], norm), radius, rtol=1e-3, atol=1e-7)
        assert ((seen[4] - seen[2]).abs() > radius.view(-1, 1, 1, 1) / 100).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_restarts(norm: Norm, planted: Callable[[Any, str, str], Any], smooth: Make) -> None:
    check_restarts(FabSearch, norm, smooth)
    for old, new in (
        ('radius = 0.5 * state["distance"][new]', 'radius = state["distance"][new]'),
        ('state["index"][new] * _RESTARTS + restart[new]', 'state["index"][new] * _RESTARTS'),
        (".clamp(max=most)", ""),
    ):
        with pytest.raises(AssertionError):
            check_restarts(planted(FabSearch, old, new), norm, smooth)


@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_what_is_wrong_already_is_handed_back(epsilon: float | None, linear: Make) -> None:
    model, x, y, index = linear(3, 16, spread=1.0)
    query = Query(model)
    found = run(FabSearch("Linf", epsilon, 1, RNG), query, x, (y + 1) % 3, index)
    assert torch.equal(found, x)
    assert query.forward == 16 * 2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fill", [0.0, math.nan, math.inf])
def test_networks_without_usable_gradients(norm: Norm, fill: float) -> None:
    """Constant logits, and a margin that is no number: nothing is found, nothing breaks."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            zero = (x.flatten(1).sum(dim=1, keepdim=True) - 0.5) * 0
            return torch.cat([zero + 1, zero - 1, zero + (0 if fill == 0 else -math.inf)], dim=1) + zero * fill

    x = Stream.of(1).uniform(torch.arange(4), 3, 4, 4)
    y = torch.zeros(4, dtype=torch.int64) if fill == 0 else Odd()(x).argmax(dim=1)
    search = FabSearch(norm, None, 2, RNG, iterations=4, restarts=2)
    assert torch.equal(run(search, Query(Odd()), x, y, torch.arange(4)), x)


def coarse(search: FabSearch) -> None:
    """The nearest example of a half-precision search is misclassified in float32, too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Softplus(), nn.Linear(64, 3)).eval()
    x = Stream.of(3).uniform(torch.arange(64), 3, 8, 8)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        found = run(search, Query(model, precision="bfloat16"), x, y, torch.arange(64))
        wrong = model(found).argmax(dim=1) != y
    assert wrong.sum() > 56
    assert (wrong | (found == x).flatten(1).all(dim=1)).all()


def test_in_half_precision_every_example_counts_in_float32(
    planted: Callable[[Any, str, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = FabSearch("L2", None, 1, RNG, iterations=20)
    coarse(search)
    monkeypatch.setattr(fab, "nearer", planted(nearer, 'query.precision != "float32"', "False"))
    with pytest.raises(AssertionError):
        coarse(search)


def test_ranks_beyond_the_wrong_classes_are_refused(linear: Make) -> None:
    model, x, y, index = linear(3, 4, spread=1.0)
    search = FabSearch("L2", None, 2, RNG, iterations=1)
    run(search, Query(model), x, y, index)
    with pytest.raises(AssertionError, match="fewer wrong classes"):
        run(replace(search, rank=3), Query(model), x, y, index)
