"""Images in slots: what is found does not depend on neighbours, nothing of the caller changes, passes are saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robusteval.attacks import pgd, random_start
from robusteval.attacks.apgd import ApgdSearch, Target
from robusteval.attacks.fab import FabSearch
from robusteval.attacks.geometry import distance
from robusteval.attacks.pgd import PgdSearch
from robusteval.attacks.search import Query, State, Threat, run
from robusteval.attacks.square import SquareSearch
from robusteval.cost import Meter, forward_flops
from robusteval.losses import logit_ratio
from robusteval.options import Norm
from robusteval.randomness import Stream

NORMS: tuple[Norm, ...] = ("Linf", "L2")
RNG = Stream.of(21)
Plant = Callable[[Any, str, str], Any]


def net() -> nn.Sequential:
    """A small convolutional network with BatchNorm and dropout, in eval mode."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    head = [nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 64, 5)]
    return nn.Sequential(*layers, *head).eval()


def images(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, the classes that the network sees in them, their numbers."""
    x = Stream.of(1).uniform(torch.arange(n), 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        return x, net()(x).argmax(dim=1), torch.arange(n)


def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1) != y


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_slots_and_shards_change_no_bit(norm: Norm, precision: str) -> None:
    model, (x, y, index) = net(), images(70)
    threat = Threat(norm, 0.015 if norm == "Linf" else 0.25)
    for made in (
        PgdSearch(threat, threat.epsilon / 4, 6, RNG),
        ApgdSearch(threat, 8, RNG, logit_ratio),
        ApgdSearch(threat, 8, RNG, Target(1)),
    ):
        query = Query(model, precision=precision)
        whole = run(made, query, x, y, index)
        assert 0.1 < wrong(model, whole, y).double().mean() < 0.9
        for slots in (16, 250):
            assert torch.equal(run(made, query, x, y, index, slots=slots), whole)
        for shards in (2, 3, 4):
            for k in range(shards):
                rows = index[k::shards]
                assert torch.equal(run(made, query, x[rows], y[rows], rows, slots=16), whole[rows])


@dataclass(frozen=True)
class Countdown:
    """A search that asks once a step, is done with an image after as many steps as its label says, and marks it."""

    steps: int = 9

    def begin(self, query: Query, state: State) -> State:
        return {**state, "left": state["y"]}

    def step(self, query: Query, state: State) -> State:
        assert (state["step"] == state["y"] - state["left"]).all()
        query.logits(state["x"])
        marked = state["x"] + state["index"].view(-1, 1, 1, 1)
        return {**state, "left": state["left"] - 1, "hit": state["left"] == 1, "example": marked}


LIVES = torch.tensor([1, 5, 1, 20, 1, 1, 3, 9])


def check_refill(walk: Callable[..., Tensor] = run) -> None:
    """Images 0.0 to 0.7, numbered from 100, in three slots; by hand."""
    x = torch.arange(8.0).div(10).view(8, 1, 1, 1)
    for query, passes in ((Query(nn.Flatten(), rows=1), 30), (Query(nn.Flatten()), 14 * 8)):
        left: list[int] = []
        found = walk(Countdown(), query, x, LIVES, torch.arange(8) + 100, slots=3, stepped=left.append)
        torch.testing.assert_close(found, x + torch.arange(8).view(8, 1, 1, 1) + 100)
        # In the slots: 012 134 135 136 136 367 37 37 37 37 7 7 7 7
        assert len(left) == 14
        assert left[0] == 3 + 2 * (Countdown().steps - 1)  # two of three left after their first step
        assert sum(left) == 8 * Countdown().steps
        assert query.forward == passes


def test_an_image_that_is_done_makes_room() -> None:
    check_refill()


@dataclass(frozen=True)
class Lane:
    """Hits images 100, 101, ... after so many steps, and adds an amount to them."""

    lives: tuple[int, ...]
    adds: float
    steps: int = 4

    def begin(self, query: Query, state: State) -> State:
        lives = torch.tensor(self.lives)[state["index"] - 100]
        return {**state, "lives": lives, "adds": torch.full_like(state["x"], self.adds)}

    def step(self, query: Query, state: State) -> State:
        query.logits(state["x"])
        hit = state["step"] + 1 == state["lives"]
        return {**state, "hit": hit, "example": state["x"] + state["adds"]}


LANES = (Lane((2, 9, 9, 2), 0.1), Lane((1, 3, 9, 9), 0.4), Lane((1, 1, 9, 9), 0.2))
"""The first image is hit by its later lanes before the first, the second by the third before the second."""


def check_lanes(walk: Callable[..., Tensor] = run) -> None:
    """By hand. The third image is hit by none, and is nearest to an error where the second lane has left it.

    Rows (lane, image) in four slots: 00 01 02 03 twice, 01 02 11 12 twice, 11 12 21 22, 12 22, 22 twice. In 12: all,
    00 01 02 03 11 12 13 22 23, 01 02 11 12 22, 01 02 12 22.
    """
    x, y, index = torch.tensor([0.1, 0.2, 0.05, 0.4]).view(4, 1, 1, 1), torch.zeros(4).long(), torch.arange(4) + 100
    for slots, passes in ((1, [1] * 23), (4, [4, 4, 4, 4, 4, 2, 1, 1]), (12, [12, 9, 5, 4])):
        left: list[int] = []
        by: list[Tensor] = []
        query = Query(Threshold(), rows=1)
        found = walk(LANES[0], query, x, y, index, then=LANES[1:], slots=slots, stepped=left.append, ended=by.append)
        torch.testing.assert_close(found.flatten(), torch.tensor([0.2, 0.6, 0.45, 0.5]))
        assert [told.tolist() for told in by] == [[0, 1, 3, 0]]
        assert sum(left) == 4 * 3 * 4
        assert query.forward == sum(passes) + 4  # in the end 01, 02, 12 and 22 are looked at
    query = Query(Threshold(), rows=1)
    found = walk(LANES[0], query, x, y, index, then=LANES[1:], slots=12, early=False)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.5, 0.6, 0.45, 0.8]))  # as if nothing were seen
    assert query.forward == 12 * 4 + 12


def test_lanes_of_an_image_are_as_if_one_came_after_another() -> None:
    check_lanes()


def test_what_searches_hand_back_unchanged_is_not_looked_at() -> None:
    x, y, index = torch.full((2, 1, 1, 1), 0.2), torch.zeros(2).long(), torch.arange(2) + 100
    still, moves = Lane((9, 9), 0.0), Lane((9, 9), 0.1)
    for lanes, looked, expected in (([still, still], 0, 0.2), ([still, moves, still], 2, 0.3)):
        query = Query(Threshold(), rows=1)
        found = run(lanes[0], query, x, y, index, then=lanes[1:])
        torch.testing.assert_close(found.flatten(), torch.tensor([expected] * 2))
        assert query.forward == 2 * 4 * len(lanes) + looked


def one_after_another(searches: list[Any], query: Query, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """Each image on its own: the example of the first search that breaks it; else the one of the least margin."""
    found = []
    for i in range(len(x)):
        row = slice(i, i + 1)
        margins, examples = [], []
        for search in searches:
            example = run(search, query, x[row], y[row], index[row], slots=1)
            with torch.no_grad():
                logits = query.model(example)[0]
            others = [logits[k].item() for k in range(len(logits)) if k != y[i]]
            examples.append(example)
            margins.append(math.inf if torch.equal(example, x[row]) else logits[y[i]].item() - max(others))
            if margins[-1] < 0:
                break
        found.append(examples[min(range(len(margins)), key=margins.__getitem__)])
    return torch.cat(found)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_slots_and_lanes_change_no_bit(norm: Norm, precision: str) -> None:
    model, (x, y, index) = net(), images(16)
    threat = Threat(norm, 0.015 if norm == "Linf" else 0.3)
    for searches in (
        [ApgdSearch(threat, 6, RNG.at(rank), Target(rank)) for rank in (1, 2, 3, 4)],
        [PgdSearch(threat, threat.epsilon / 4, 6, RNG.at(restart)) for restart in range(3)],
        [FabSearch(norm, threat.epsilon, rank, RNG, 6, bisections=0) for rank in (1, 2, 3, 4)],
    ):
        query = Query(model, precision=precision)
        expected = one_after_another(searches, query, x, y, index)
        assert 0.1 < wrong(model, expected, y).double().mean() < 0.9
        for slots in (1, 16, 250):
            found = run(searches[0], query, x, y, index, then=searches[1:], slots=slots)
            assert torch.equal(found, expected)
        rows = index[1::3]
        assert torch.equal(run(searches[0], query, x[rows], y[rows], rows, then=searches[1:]), expected[rows])


def test_few_images_fill_the_slots_with_later_lanes() -> None:
    """Ten images that withstand nine targets take as many passes as ninety images do."""
    model, (x, y, index) = Flat("rounded"), images(10)
    y = model(x).argmax(dim=1)
    searches = [PgdSearch(Threat("Linf", 1e-4), 1e-4, 5, RNG.at(restart)) for restart in range(9)]
    query = Query(model)
    run(searches[0], query, x, y, index, then=searches[1:])
    assert query.backward == 5 * (64 + 32)


def test_searches_that_step_differently_share_no_batch() -> None:
    x, y, index = images(2)
    one, other = (PgdSearch(Threat("Linf", 0.1), 0.1, steps, RNG) for steps in (2, 3))
    with pytest.raises(AssertionError, match="share no batch"):
        run(one, Query(net()), x, y, index, then=[other])


@dataclass(frozen=True)
class Leaps:
    """A `Countdown` of which each call takes three steps, or as many as are left."""

    steps: int = 8

    def begin(self, query: Query, state: State) -> State:
        return state

    def step(self, query: Query, state: State) -> State:
        taken = (state["step"] + 3).clamp(max=self.steps)
        return {**state, "step": taken, "hit": taken >= state["y"], "example": state["x"] + taken.view(-1, 1, 1, 1)}


def check_leaps(walk: Callable[..., Tensor] = run) -> None:
    x, y = torch.zeros(4, 1, 1, 1), torch.tensor([1, 5, 8, 9])
    left: list[int] = []
    found = walk(Leaps(), Query(nn.Flatten()), x, y, torch.arange(4), stepped=left.append)
    assert found.flatten().tolist() == [3, 6, 8, 8]
    assert left == [4 * 3 + 5, 3 * 3 + 2, 2 * 2]


def test_a_search_may_take_several_steps_at_once() -> None:
    check_leaps()


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: FabSearch("L2", None, 1, rng, 2, restarts=2),
        lambda rng: SquareSearch(Threat("L2", 0.01), rng, steps=2),
    ],
)
def test_searches_that_draw_in_their_steps_share_no_batch_unless_they_draw_the_same(
    make: Callable[[Stream], Any],
) -> None:
    x, y, index = images(2)
    with pytest.raises(AssertionError, match="share no batch"):
        run(make(RNG), Query(net()), x, y, index, then=[make(RNG.at(1))])


def test_no_images() -> None:
    x, y, index = images(4)
    found = run(PgdSearch(Threat("Linf", 0.1), 0.1, 2, RNG), Query(net()), x[:0], y[:0], index[:0])
    assert found.shape == (0, 3, 16, 16)


class Threshold(nn.Module):
    """Class 1 where the only pixel is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        ahead = 10 * (x.flatten(1) - 0.5)
        return torch.cat([-ahead, ahead], dim=1)


def test_early_exit_saves_the_passes_that_a_broken_image_needs_no_more() -> None:
    """Steps of 0.1 towards a half: an image k steps away is looked at k times and found wrong at the next look."""
    x = torch.tensor([0.45, 0.35, 0.25, 0.15, 0.05, 0.95]).view(6, 1, 1, 1)
    y = torch.tensor([0, 0, 0, 0, 0, 1])
    query = Query(Threshold(), rows=1)
    found = run(PgdSearch(Threat("Linf", 0.31), 0.1, 20, None), query, x, y, torch.arange(6))
    looks = [2, 3, 4, 20, 20, 20]
    assert query.forward == query.backward == sum(looks)
    assert wrong(Threshold(), found, y).tolist() == [True, True, True, False, False, False]
    torch.testing.assert_close(found.flatten(), torch.tensor([0.55, 0.55, 0.55, 0.46, 0.36, 0.64]))


def test_passes_and_operations_are_those_of_a_count() -> None:
    model, (x, y, index) = net(), images(40)
    query = Query(model)
    meter = Meter(model, torch.device("cpu"))
    with FlopCounterMode(display=False) as flops, meter.running():
        run(PgdSearch(Threat("Linf", 0.015), 0.004, 6, RNG), query, x, y, index)
    assert query.forward == query.backward == meter.forward.total() == meter.backward.total()
    assert 6 * 8 < query.forward < 6 * 48
    assert query.forward % 8 == 0
    per_image = forward_flops(model, x[:1])
    assert flops.get_total_flops() == 2 * query.forward * per_image
    assert list(meter.seconds) == ["attack"]


class Ties(nn.Module):
    """Class 0 where the first pixel is above 0.4. The logits are near 100, where bfloat16 knows multiples of 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.linear.weight.data.zero_()[0, 0] = 0.25
        self.linear.bias.data.copy_(torch.tensor([100.0, 100.1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def check_half_precision(walk: Callable[..., Tensor] = run) -> None:
    """bfloat16 always says class 0. The first image cannot be broken, the second in three steps, the third is wrong."""
    model = Ties()
    x, y = torch.tensor([[0.1], [0.345], [0.1]]).expand(3, 3).reshape(3, 3, 1, 1), torch.tensor([1, 1, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).argmax(dim=1).tolist() == [0, 0, 0]
    query = Query(model, precision="bfloat16", rows=1)
    left: list[int] = []
    made = PgdSearch(Threat("Linf", 0.1), 0.02, 8, None)
    found = walk(made, query, x, y, torch.arange(3), stepped=left.append)
    assert wrong(model, found, y).tolist() == [False, True, True]
    assert left[:3] == [3, 3, 3]
    assert sum(left) == 3 * 8
    assert query.backward == 8 + 4 + 8
    assert query.forward == query.backward + 8 + 4  # each claim about the first and the second is looked at again


def test_hits_in_half_precision_count_if_float32_agrees() -> None:
    check_half_precision()


def test_searches_follow_the_copy_and_verdicts_are_the_networks(planted: Plant) -> None:
    """Search passes go through what is followed; what a claimed example is confirmed by is the network itself."""

    def check(kind: type[Query]) -> None:
        (x, _, _), model, copy = images(3), net(), net()
        with torch.no_grad():
            next(copy.parameters()).mul_(-1)
        query = kind(model)
        query.follow = copy
        assert torch.equal(query.exact(x), Query(model).exact(x))
        assert torch.equal(query.logits(x), Query(copy).logits(x))
        assert not torch.equal(query.logits(x), query.exact(x))
        for ours, theirs in zip(
            query.gradient(x, lambda logits: logits[:, 0]),
            Query(copy).gradient(x, lambda logits: logits[:, 0]),
            strict=True,
        ):
            assert torch.equal(ours, theirs)

    check(Query)
    for kept in ("self.follow", "self.model"):
        with pytest.raises(AssertionError):
            check(planted(Query, "(self.model if exact else self.follow)", kept))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_padding_never_leaks(precision: str, planted: Plant) -> None:
    """Answers for few images are rows of the answer for many, bit for bit; the value is asked about no other image."""

    def check(kind: type[Query]) -> None:
        model, (x, y, _) = net(), images(48)
        query = kind(model, precision=precision)
        seen: list[int] = []

        def value(logits: Tensor) -> Tensor:
            seen.append(len(logits))
            return logits.square().sum(dim=1)

        logits, gradient = query.gradient(x, value)
        assert (gradient != 0).any(dim=(1, 2, 3)).all()
        assert torch.equal(query.logits(x), logits)
        for n in (1, 2, 5, 7, 8, 9, 15, 17, 33):
            before = query.forward, query.backward
            few = query.gradient(x[-n:], value)
            assert seen[-1] == n
            assert torch.equal(few[0], logits[-n:])
            assert torch.equal(few[1], gradient[-n:])
            assert torch.equal(query.logits(x[-n:]), logits[-n:])
            assert torch.equal(query.exact(x[-n:]), query.exact(x)[-n:])
            rows = -(-n // 8) * 8
            assert (query.forward, query.backward) == (before[0] + 3 * rows + 48, before[1] + rows)
            assert torch.equal(kind(model, precision=precision, rows=64).logits(x[:n]).argmax(1), y[:n])

    check(Query)
    for old, new in (
        ("return -(-n // step) * step", "return n"),
        ("logits = self._pass(points + zero)[: len(points)]", "logits = self._pass(points + zero)"),
    ):
        with pytest.raises(AssertionError):
            check(planted(Query, old, new))


def flags(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]


class Failing(nn.Module):
    """Raises at the n-th pass."""

    def __init__(self, model: nn.Module, n: int) -> None:
        super().__init__()
        self.model = model
        self.passes = iter(range(n))

    def forward(self, x: Tensor) -> Tensor:
        if next(self.passes, None) is None:
            raise RuntimeError("planned")
        assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
        assert not any(module.training for module in self.modules())
        return self.model(x)


def check_caller(walk: Callable[..., Tensor] = run, *, fails: bool = False, precision: str = "float32") -> None:
    """A network in train mode, one layer of it frozen, with gradients of the caller's."""
    model = net().train()
    model[4].eval()
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    x, y, index = images(20)
    whole = Failing(model, 4 if fails else 1000)
    before, were = {key: value.clone() for key, value in model.state_dict().items()}, flags(whole)
    copies = [tensor.clone() for tensor in (x, y, index)]
    conv = torch.backends.mkldnn.conv.fp32_precision
    threat = Threat("Linf", 0.01)
    for made in (PgdSearch(threat, 0.01, 6, RNG), ApgdSearch(threat, 6, RNG), ApgdSearch(threat, 6, RNG, Target(1))):
        query = Query(whole, precision=precision)
        if fails:
            whole.passes = iter(range(4))
            with pytest.raises(RuntimeError, match="planned"):
                walk(made, query, x, y, index, slots=8)
        else:
            with torch.no_grad():
                found = walk(made, query, x, y, index, slots=8)
                assert not torch.is_grad_enabled()
            assert not found.requires_grad
            assert (found != x).any(dim=(1, 2, 3)).all()
            with torch.autocast("cpu", dtype=torch.bfloat16):  # the caller's precision is not the search's
                assert torch.equal(walk(made, Query(net(), precision=precision), x, y, index, slots=8), found)
        assert flags(whole) == were
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(torch.equal(now, copied) for now, copied in zip((x, y, index), copies, strict=True))
        grads = [parameter.grad for parameter in model.parameters()]
        assert grads[0] is not None
        assert (grads[0] == 1).all()
        assert all(grad is None for grad in grads[1:])
        assert torch.backends.mkldnn.conv.fp32_precision == conv
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_caller_changes(fails: bool, precision: str) -> None:
    check_caller(fails=fails, precision=precision)


def test_inference_mode_is_refused() -> None:
    x, y, index = images(2)
    with torch.inference_mode(), pytest.raises(AssertionError, match="inference mode"):
        run(PgdSearch(Threat("Linf", 0.1), 0.1, 2, RNG), Query(net()), x, y, index)


class Flat(nn.Module):
    """Logits that are no differentiable function of the image, in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1)[:, :5]
        if self.how == "detached":
            return logits.detach()
        if self.how == "detached, with parameters":
            return logits.detach() + self.bias
        return (4 * logits).round() + self.bias


@pytest.mark.parametrize("how", ["detached", "detached, with parameters", "rounded"])
def test_without_a_derivative_the_gradient_is_zero_and_the_search_ends(how: str) -> None:
    model, x, index = Flat(how), images(5)[0], torch.arange(5)
    y = model(x).argmax(dim=1)
    query = Query(model)
    logits, gradient = query.gradient(x, lambda logits: logits.sum(dim=1))
    assert torch.equal(logits, model(x).detach())
    assert not logits.requires_grad
    assert gradient.shape == x.shape
    assert (gradient == 0).all()
    assert query.backward == (8 if how != "detached" else 0)
    threat = Threat("Linf", 1e-4)
    for made in (PgdSearch(threat, 1e-4, 7, RNG), ApgdSearch(threat, 7, RNG), ApgdSearch(threat, 7, RNG, Target(1))):
        query = Query(model)
        found = run(made, query, x, y, index)
        assert query.forward == (made.steps + isinstance(made.loss, Target)) * 8  # one pass finds the target
        assert (distance(x, found, "Linf") <= 1e-4).all()
        start = made.begin(query, {"x": x, "y": y, "index": index})["point"]
        torch.testing.assert_close(found, start, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_with_early_exit_is_pgd_until_the_exit(norm: Norm) -> None:
    """The first iterate of `pgd` that is misclassified, or its last one if none before is: bit for bit."""
    model, (x, y, index) = net(), images(32)
    epsilon, steps = (0.015, 6) if norm == "Linf" else (0.25, 6)
    start = random_start(x, epsilon=epsilon, norm=norm, rng=RNG, index=index)
    iterates = [
        pgd(model, x, y, epsilon=epsilon, step=epsilon / 4, steps=k, norm=norm, start=start) for k in range(steps + 1)
    ]
    first = torch.stack([wrong(model, iterate, y) for iterate in (*iterates[:steps], x)])
    first[steps] = True
    exits = first.int().argmax(dim=0)
    assert len(exits.unique()) >= 4
    expected = torch.stack(iterates)[exits, index]
    for slots in (16, 32):
        found = run(PgdSearch(Threat(norm, epsilon), epsilon / 4, steps, RNG), Query(model), x, y, index, slots=slots)
        assert torch.equal(found, expected)
    plain = PgdSearch(Threat(norm, epsilon), epsilon / 4, 1, None, logit_ratio)
    one = pgd(model, x, y, epsilon=epsilon, step=epsilon / 4, steps=1, norm=norm, loss=logit_ratio)
    assert torch.equal(run(plain, Query(model), x, y, index), one)


MUTANTS = {
    "an example at another image's place": ("found[rows[leaving]] =", "found[leaving] ="),
    "rows and images fall apart": ("rows = rows.index_select(0, staying)", "rows = rows[: len(staying)]"),
    "the last step is missing": ('state["step"] >= search.steps', 'state["step"] >= search.steps - 1'),
    "a step too many": ('state["step"] >= search.steps', 'state["step"] > search.steps'),
    "no refill": ("if len(rows) < slots and", "if not len(rows) and"),
    "no early exit": ("            if early:", "            if not early:"),
    "numbers from 0": ("y[images], index[images]", "y[images], images"),
    "labels of other images": ("x[images], y[images]", "x[images], y[: len(images)]"),
    "one search for all lanes": ("_begun(lanes[lane],", "_begun(lanes[0],"),
    "lanes do not wait for room": ("[: slots - len(rows)]", ""),
    "later lanes begin after a hit": ("waiting[waiting // n < first[waiting % n]]", "waiting"),
    "later lanes stay after a hit": ("done |= rows // n >= first[rows % n]", "done |= rows // n == first[rows % n]"),
    "earlier lanes leave after a hit": (
        "done |= rows // n >=",
        "done |= (first[rows % n] < len(lanes)) | rows // n >=",
    ),
    "the last lane that hits": ('"amin")', '"amax", include_self=False)'),
    "spared lanes are not told": ("(until - entered - len(new)) * search.steps", "0"),
    "the first lane in any case": ("lead.argmax(dim=0)", "lead.argmax(dim=0) * 0"),
    "every image is told to be broken": ("lead.amax(dim=0) == torch.inf", "lead.amax(dim=0) > -torch.inf"),
    "the furthest from an error": ("near = -margin(", "near = margin("),
    "errors are as good as nothing": ("!= label] = torch.inf", "!= label] = -torch.inf"),
    "one step a call": ('if state["step"] is step:', 'if state["step"] is not None:'),
    "half precision is believed": ('if query.precision == "float32" or', "if True or"),
    "the network as it is": ('attack_mode(query.model, "eval")', 'attack_mode(query.model, "train")'),
    "precision as it is": (", true_float32():", ":"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_is_found(name: str, planted: Plant) -> None:
    mistaken = planted(run, *MUTANTS[name])
    with pytest.raises(AssertionError):
        check_refill(mistaken)
        check_lanes(mistaken)
        check_leaps(mistaken)
        check_half_precision(mistaken)
        check_caller(mistaken)
