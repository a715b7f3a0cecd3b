"""The Square Attack against a straight-line computation of single images, closed forms, and its own promises."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval import models
from robusteval.attacks import bumps, square
from robusteval.attacks.bumps import bump
from robusteval.attacks.geometry import distance
from robusteval.attacks.search import Query, State, Threat, run
from robusteval.attacks.square import SquareSearch, window_sides
from robusteval.losses import margin
from robusteval.options import Norm
from robusteval.randomness import Stream

NORMS: tuple[Norm, ...] = ("Linf", "L2")
RNG = Stream.of(9)
SMALL = {"Linf": Threat("Linf", 0.01), "L2": Threat("L2", 0.1)}
"""Balls in which hardly an image of `Smooth` is broken."""


class Smooth(nn.Module):
    """A small network with BatchNorm, which computes in float64: both computations see the same margins."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5)
        )
        self.net(torch.zeros(2, 3, 11, 11))
        self.net.double().eval()[1].reset_running_stats()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.double())
        return logits


def images(n: int, *, size: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """Images of which some pixels are black or white, the network's predictions, and numbers."""
    index = torch.arange(50, 50 + n)
    x = (1.4 * Stream.of(6).uniform(index, 3, size, size) - 0.2).clamp(0, 1)
    with torch.no_grad():
        return x, Smooth()(x).argmax(dim=1), index


@pytest.mark.parametrize(
    ("norm", "sides"),
    [("Linf", [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]), ("L2", [29, 21, 15, 11, 7, 5, 5, 3, 3, 3])],
)
def test_the_sides_of_the_windows_by_hand(norm: Norm, sides: list[int]) -> None:
    """sqrt(0.8 * 1024 / 2**k) is 28.6 20.2 14.3 10.1 7.2 5.1 3.6 2.5 1.8 1.3."""
    assert window_sides(0.8, 32, 32, norm) == sides
    assert window_sides(1.0, 4, 8, norm)[:2] == [4, 4]


@pytest.mark.parametrize("side", range(1, 10))
def test_the_bump_is_the_paper_s(side: int) -> None:
    """Every entry is a sum of 1 / (n + 1 - k)**2 for k from 0 to M; each half and the whole have length 1."""

    def half(height: int, width: int) -> np.ndarray:
        n = max(height, width) // 2
        value = np.zeros((height, width))
        for r in range(1, height + 1):
            for s in range(1, width + 1):
                most = n - max(abs(r - height // 2 - 1), abs(s - width // 2 - 1))
                value[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(most + 1))
        return value / np.linalg.norm(value) if value.size else value

    expected = np.concatenate([half(side // 2, side), -half(side - side // 2, side)])
    np.testing.assert_allclose(bump(side).numpy(), expected / np.linalg.norm(expected), rtol=1e-6)


def level(proposal: int, steps: int) -> int:
    """How often the windows have been halved, written out."""
    progress = proposal * 10000 // steps
    if progress <= 10:
        return 0
    if progress <= 50:
        return 1
    if progress <= 200:
        return 2
    if progress <= 500:
        return 3
    if progress <= 1000:
        return 4
    if progress <= 2000:
        return 5
    if progress <= 4000:
        return 6
    if progress <= 6000:
        return 7
    return 8 if progress <= 8000 else 9


def straight(x: Tensor, y: int, index: int, search: SquareSearch) -> tuple[np.ndarray, list[float], int]:
    """The last image of one, the margins of what was kept, and the number of queries: numpy, one loop."""
    model = Smooth()
    clean, eps, norm = x.double().numpy(), search.threat.epsilon, search.threat.norm
    channels, height, width = clean.shape

    def ask(image: np.ndarray) -> tuple[float, bool]:
        with torch.no_grad():
            logits = model(torch.tensor(image)[None])
        return float(margin(logits, torch.tensor([y]))), int(logits.argmax()) != y

    def sign(purpose: str, key: int, *shape: int) -> np.ndarray:
        rng = search.rng
        for part in purpose.split():
            rng = rng.at(part)
        return np.where(rng.bits(torch.tensor([key]), *shape)[0].numpy() < 0, 1, -1)

    def projected(delta: np.ndarray) -> np.ndarray:
        inside = np.clip(delta, -eps, eps) if norm == "Linf" else delta / np.sqrt((delta**2).sum()) * eps
        return np.clip(clean + inside, 0, 1)

    if norm == "Linf":
        best = projected(eps * sign("start", index, channels, 1, width))
    else:
        side = min(height, width) // 5
        rows, columns = height // side, width // side
        delta = np.zeros_like(clean)
        for r in range(rows):
            for c in range(columns):
                hill = bump(side).numpy()
                if sign("start turn", index, rows, columns)[r, c] > 0:
                    hill = hill.T
                top, left = (height - rows * side) // 2 + r * side, (width - columns * side) // 2 + c * side
                for channel in range(channels):
                    up = sign("start", index, channels, rows, columns)[channel, r, c]
                    delta[channel, top : top + side, left : left + side] = up * hill
        best = projected(delta)
    loss, wrong = ask(best)
    kept, queries = [loss], 1
    while queries < search.steps and not wrong:
        key = index * 2**20 + queries
        side = window_sides(search.p, height, width, norm)[level(queries - 1, search.steps)]

        def place(purpose: str, key: int = key, side: int = side) -> tuple[slice, slice]:
            drawn = search.rng.at(purpose).uniform(torch.tensor([key]), 2)[0].double()
            top, left = (int(u * (size - side + 1)) for u, size in zip(drawn, (height, width), strict=True))
            return slice(top, top + side), slice(left, left + side)

        window, signs = place("window"), sign("sign", key, channels)
        delta = best - clean
        if norm == "Linf":
            for channel in range(channels):
                delta[channel][window] += 2 * eps * signs[channel]
        else:
            emptied = place("emptied")
            hill = bump(side).numpy().T if sign("turn", key) > 0 else bump(side).numpy()
            unused = max(eps**2 - (delta**2).sum(), 0) / channels
            mask = np.zeros((height, width), dtype=bool)
            mask[window] = mask[emptied] = True
            for channel in range(channels):
                old = delta[channel][window].copy()
                length = np.sqrt((old**2).sum())
                new = signs[channel] * hill + (old / length if length else 0)
                available = math.sqrt((delta[channel][mask] ** 2).sum() + unused)
                delta[channel][emptied] = 0
                delta[channel][window] = new / np.sqrt((new**2).sum()) * available
        proposal = projected(delta)
        value, wrong = ask(proposal)
        queries += 1
        if wrong or value < loss:
            best, loss = proposal, value
        kept.append(loss)
    return best, kept, queries


def searches(make: type[SquareSearch], norm: Norm) -> tuple[SquareSearch, SquareSearch]:
    """One that hardly breaks an image, in which every halving occurs, and one that breaks some on the way."""
    larger = Threat("Linf", 0.03) if norm == "Linf" else Threat("L2", 0.6)
    return make(SMALL[norm], RNG, steps=150), make(larger, RNG, steps=80, p=0.3)


@cache
def written_out(norm: Norm) -> list[list[np.ndarray]]:
    x, y, index = images(5)
    rows = list(zip(x, y.tolist(), index.tolist(), strict=True))
    return [[straight(*row, search)[0] for row in rows] for search in searches(SquareSearch, norm)]


def compare(make: type[SquareSearch], norm: Norm) -> None:
    x, y, index = images(5)
    for search, expected in zip(searches(make, norm), written_out(norm), strict=True):
        found = run(search, Query(Smooth()), x, y, index, slots=4)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6 if norm == "Linf" else 2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_run_is_that_of_a_straight_line_computation(norm: Norm) -> None:
    compare(SquareSearch, norm)


@pytest.mark.parametrize(
    ("norm", "old", "new"),
    [
        ("Linf", "loss < state[\"loss\"]", "loss > state[\"loss\"]"),
        ("Linf", "(size - side + 1)", "(size - side)"),
        ("Linf", "* 10_000 // self.steps", ""),
        ("Linf", "(step - 1) * 10_000", "step * 10_000"),
        ("Linf", "200, 500, 1000,", "200, 1000,"),
        ("Linf", "* _STEPS + step", "* 0 + step"),
        ("Linf", "* _STEPS + step", ""),
        ("Linf", "& windows.inside.view", "& ~windows.inside.view"),
        ("Linf", "is_up ^ windows.up", "is_up | windows.up"),
        ("Linf", "& (step < self.steps)", ""),
        ("Linf", "number, \"amin\"", "number * better, \"amax\""),
        ("Linf", "asked[first] // n + 1", "asked[first] // n + 2"),
        ("Linf", "// n + 1\n        return state", "// n + 2\n        return state"),
        ("Linf", "(end - 1 - torch", "(len(step) - 1 - torch"),
        ("Linf", "& hit[first]", "& True"),
        ("Linf", "proposals[start] = example[owner[start]]", ""),
        ("Linf", "_coins(rng, index, x.shape[1], 1, x.shape[3])", "_coins(rng, index, *x.shape[1:3], 1)"),
        ("L2", "hill / length(hill, (0, 1))", "hill"),
        ("L2", "bumps[1] = bumps[0].transpose(1, 2)", "bumps[1] = bumps[0]"),
        ("L2", ".square()).clamp(min=0) / delta.shape[1]", ".square()).clamp(min=0)"),
        ("L2", "torch.where(source, 0, delta)", "delta"),
        ("L2", "to | source, delta", "to, delta"),
        ("L2", "bumps + window /", "bumps + 0 * window /"),
        ("L2", "side + 1 - side % 2", "side"),
    ],
)  # fmt: skip
def test_planted_mistakes(planted: Callable[[Any, str, str], Any], norm: Norm, old: str, new: str) -> None:
    if old in inspect.getsource(bumps):
        old, new = bumps.__name__, planted(bump, old, new).__module__
    with pytest.raises(AssertionError):
        compare(planted(SquareSearch, old, new), norm)


@pytest.mark.parametrize("norm", NORMS)
def test_margins_only_fall_and_images_stay_in_the_ball(norm: Norm) -> None:
    x, y, index = images(16)
    model = Smooth()

    class Watched(SquareSearch):
        def step(self, query: Query, state: State) -> State:
            after = super().step(query, state)
            with torch.no_grad():
                torch.testing.assert_close(after["loss"], margin(model(after["example"]), state["y"]))
            assert (after["loss"] <= state["loss"]).all()
            limit = self.threat.epsilon * (1 + 1e-6 * (norm == "L2"))
            assert (distance(state["x"], after["example"], norm) <= limit).all()
            assert ((after["example"] >= 0) & (after["example"] <= 1)).all()
            for i, loss in zip(after["index"].tolist(), after["loss"].tolist(), strict=True):
                losses.setdefault(i, []).append(loss)
            return after

    losses: dict[int, list[float]] = {}
    query = Query(model)
    run(Watched(Threat(norm, SMALL[norm].epsilon / 4), RNG, steps=40), query, x, y, index)
    assert query.backward == 0
    assert len(losses) == 16
    assert all(seen[-1] < seen[0] for seen in losses.values())


class Linear(nn.Module):
    """Two classes of which the second has a bias that no image overcomes: the whole budget is used."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(Stream.of(4).normal(torch.arange(1), 48)[0])

    def forward(self, x: Tensor) -> Tensor:
        half = x.flatten(1) @ self.weight / 2
        return torch.stack([100 + half, -half], dim=1)


def fallen(make: type[SquareSearch], threat: Threat, steps: int) -> Tensor:
    """By how much the queries lower the margin of a linear network."""
    model = Linear()
    x = 0.3 + 0.4 * Stream.of(2).uniform(torch.arange(8), 3, 4, 4)
    y = torch.zeros(8, dtype=torch.int64)
    found = run(make(threat, RNG, steps=steps), Query(model), x, y, torch.arange(8))
    return (model(x) - model(found)).detach()[:, 0] * 2


def test_the_optimum_of_a_linear_network_is_reached(planted: Callable[[Any, str, str], Any]) -> None:
    """The margin falls by epsilon times the weights' L1 norm, unless the last row and column are left out."""
    weight = Linear().weight.detach()
    best = (0.05 * weight.abs().sum()).expand(8)
    threat = Threat("Linf", 0.05)
    torch.testing.assert_close(fallen(SquareSearch, threat, 800), best, rtol=1e-3, atol=0)
    published = planted(SquareSearch, "(size - side + 1)", "(size - side)")
    assert (fallen(published, threat, 800) < 0.99 * best).all()
    # In L2 bumps of at least 3x3 are added: they come near the gradient's direction, not to it.
    euclidean = fallen(SquareSearch, Threat("L2", 0.2), 200) / (0.2 * weight.norm())
    assert ((euclidean > 0.4) & (euclidean <= 1 + 1e-4)).all()


def test_an_image_leaves_at_its_first_misclassified_query() -> None:
    taken: list[int] = []

    class Watched(SquareSearch):
        def step(self, query: Query, state: State) -> State:
            after = super().step(query, state)
            taken.append(int(after["step"]))
            return after

    for norm in NORMS:
        threat = Threat(norm, 4 * SMALL[norm].epsilon)
        x, y, index = images(8)
        search = Watched(threat, RNG, steps=40)
        queries = [straight(x[i], int(y[i]), int(index[i]), search)[2] for i in range(len(x))]
        assert min(queries) < 20 < max(queries)
        model = Smooth()
        for i in range(len(x)):
            taken.clear()
            found = run(search, Query(model), x[i : i + 1], y[i : i + 1], index[i : i + 1])
            assert taken[-1] == queries[i]
            assert (int(model(found).argmax()) != int(y[i])) == (queries[i] < 40)


class Asked(Query):
    """Keeps what it is asked."""

    def logits(self, points: Tensor) -> Tensor:
        self.asked = [*getattr(self, "asked", []), points]
        return super().logits(points)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rows", [8, 40, 128])
def test_how_many_proposals_are_asked_at_once_does_not_change_a_bit(
    monkeypatch: pytest.MonkeyPatch, norm: Norm, rows: int
) -> None:
    """All are compared with one proposal of one image at a time, without padding."""
    model = Smooth()
    x, y, index = images(5)
    search = SquareSearch(Threat(norm, 2 * SMALL[norm].epsilon), RNG, steps=40)
    monkeypatch.setattr(square, "_ROWS", 1)
    monkeypatch.setattr(Query, "padded", lambda self, n: n)
    single = Asked(model)
    expected = run(search, single, x, y, index, slots=1)
    assert {len(points) for points in single.asked} == {1}
    monkeypatch.undo()
    monkeypatch.setattr(square, "_ROWS", rows)
    for slots in (1, 3, 64):
        several = Asked(model)
        assert torch.equal(run(search, several, x, y, index, slots=slots), expected)
        assert max(len(points) for points in several.asked) > min(slots, 5)
    assert torch.equal(run(search, Query(model, rows=rows), x, y, index), expected)


def test_a_bfloat16_network_sees_the_same_in_batches_of_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = models.build("resnet20", classes=10).eval()
    x = Stream.of(2).uniform(torch.arange(3), 3, 32, 32)
    y = model(x).argmax(dim=1)
    found = []
    for slots, rows in ((3, 8), (1, 16), (3, 64), (2, 128)):
        monkeypatch.setattr(square, "_ROWS", rows)
        query = Query(model, precision="bfloat16")
        found.append(run(SquareSearch(Threat("Linf", 0.002), RNG, steps=30), query, x, y, torch.arange(3), slots=slots))
    assert (found[0] != x).any()
    assert all(torch.equal(other, found[0]) for other in found)


def test_an_image_that_holds_out_fills_the_passes_and_no_proposal_is_the_image_itself() -> None:
    """Passes grow to 128 rows. Of windows of one pixel in one channel half have its colour already: none is asked."""
    x = 0.3 + 0.4 * Stream.of(2).uniform(torch.arange(1), 1, 6, 6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    model.requires_grad_(False)[1].weight.zero_()
    y = model(x).argmax(dim=1)
    query, told = Asked(model), [0]
    run(SquareSearch(Threat("Linf", 0.1), RNG, steps=2000, p=0.01), query, x, y, torch.arange(1), stepped=told.append)
    start = query.asked[0][:1]
    same = sum((points == start).flatten(1).all(dim=1).sum() for points in query.asked)
    assert 1 <= same <= len(query.asked)  # the start, and at most the first of each pass
    assert sum(told) == 2000
    asked = sum(len(points) for points in query.asked)
    assert abs(asked - 1000) < 150
    assert len(query.asked) < 4 + 2000 / 128


@pytest.mark.parametrize("norm", NORMS)
def test_slots_and_shards_do_not_change_a_bit(norm: Norm) -> None:
    model = Smooth()
    x, y, index = images(70)
    search = SquareSearch(Threat(norm, 2 * SMALL[norm].epsilon), RNG, steps=40)
    whole = run(search, Query(model), x, y, index)
    broken = (model(whole).argmax(dim=1) != y).sum()
    assert 3 < broken < 67
    for slots in (16, 250):
        assert torch.equal(run(search, Query(model), x, y, index, slots=slots), whole)
    parts = [run(search, Query(model), x[i:j], y[i:j], index[i:j]) for i, j in ((0, 1), (1, 24), (24, 70))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 8, 13), (2, 33, 7)])
def test_other_shapes(norm: Norm, shape: tuple[int, int, int]) -> None:
    """Every pixel is changed by the start in L2, but for a margin less than a tile wide; all of them in Linf."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3)).eval()
    x = 0.3 + 0.4 * Stream.of(2).uniform(torch.arange(4), *shape)
    y = model(x).argmax(dim=1)
    threat = Threat(norm, 0.01)
    start = run(SquareSearch(threat, RNG, steps=1), Query(model), x, y, torch.arange(4))
    tile = 1 if norm == "Linf" else max(min(shape[1:]) // 5, 1)
    covered = shape[0] * (shape[1] // tile * tile) * (shape[2] // tile * tile)
    assert ((start != x).flatten(1).sum(dim=1) == covered).all()
    torch.testing.assert_close(distance(x, start, norm), torch.full((4,), 0.01).double(), rtol=1e-4, atol=0)
    later = run(SquareSearch(threat, RNG, steps=30), Query(model), x, y, torch.arange(4))
    assert (margin(model(later), y) < margin(model(start), y)).all()


def test_the_network_is_left_alone() -> None:
    model = Smooth().train()
    model.net[1].eval()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    x, y, index = images(16)
    kept = x.clone()
    for norm in NORMS:
        run(SquareSearch(SMALL[norm], RNG, steps=5), Query(model), x, y, index)
    assert torch.equal(x, kept)
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_windows_reach_every_place_equally_often() -> None:
    """Offsets 0 to 3 of windows of 5 in 8 pixels, 20,000 times: within 5 standard deviations of a quarter."""
    place = square._place(RNG, torch.arange(20_000), torch.full((20_000,), 5), 8, 8)
    for axis in (place.row, place.column):
        top = (axis == 0).long().argmax(dim=1)
        counts = torch.bincount(top)
        assert len(counts) == 4
        assert ((counts - 5000).abs() < 5 * math.sqrt(20_000 * 0.25 * 0.75)).all()
    assert (place.inside.flatten(1).sum(dim=1) == 25).all()
