"""APGD against a straight-line computation, closed forms on linear networks, and the published code."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.attacks.apgd import ApgdSearch, Target
from robusteval.attacks.geometry import distance
from robusteval.attacks.objectives import Objective
from robusteval.attacks.pgd import pgd
from robusteval.attacks.search import Query, State, Threat, run
from robusteval.data import load
from robusteval.data.augment import as_float
from robusteval.losses import cross_entropy, logit_ratio
from robusteval.options import Norm
from robusteval.randomness import Stream

NORMS: tuple[Norm, ...] = ("Linf", "L2")
CLASSES = 6
IMAGES = 12
RNG = Stream.of(11)


class Smooth(nn.Module):
    """A curved network on 3 x 4 x 4 pixels that computes in float64: two ways of attacking it differ by no rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(2 * Stream.of(1).normal(torch.arange(24), 48).double())
        self.second = nn.Parameter(Stream.of(2).normal(torch.arange(CLASSES), 24).double())

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.sin((x.double().flatten(1) - 0.5) @ self.first.T)
        return (hidden @ self.second.T).float()


def images(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Images in, at and near the border of the pixel range, and the classes that the network sees in them."""
    x = (1.4 * Stream.of(3).uniform(torch.arange(IMAGES), 3, 4, 4) - 0.2).clamp(0, 1)
    with torch.no_grad():
        return x, model(x).argmax(1)


class Visit(NamedTuple):
    """What is known of an image when a step has looked at a point."""

    point: np.ndarray
    size: float
    best_loss: float
    hit: bool


@dataclass(frozen=True)
class Recorded:
    """A search that notes what each of its steps saw, by the image's number."""

    search: ApgdSearch
    visits: dict[int, list[Visit]] = field(default_factory=lambda: defaultdict(list))
    neighbours: set[tuple[int, ...]] = field(default_factory=set)

    @property
    def steps(self) -> int:
        return self.search.steps

    def begin(self, query: Query, state: State) -> State:
        return self.search.begin(query, state)

    def step(self, query: Query, state: State) -> State:
        self.neighbours.add(tuple(state["step"].tolist()))
        after = self.search.step(query, state)
        for row, number in enumerate(state["index"].tolist()):
            seen = (after["size"][row].item(), after["best_loss"][row].item(), bool(after["hit"][row]))
            self.visits[number].append(Visit(state["point"][row].double().numpy(), *seen))
        return after


def onto(center: np.ndarray, point: np.ndarray, threat: Threat) -> np.ndarray:
    """The projection on the ball, and then into the pixel range."""
    delta = point - center
    if threat.norm == "Linf":
        delta = np.clip(delta, -threat.epsilon, threat.epsilon)
    else:
        delta = delta * min(1.0, threat.epsilon / max(np.sqrt((delta**2).sum()), 1e-300))
    return np.clip(center + delta, 0.0, 1.0)


def paper_checkpoints(iterations: int) -> list[int]:
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return [math.ceil(round(p * iterations, 9)) for p in shares]


def written_out(
    model: nn.Module, x: Tensor, y: int, path: list[np.ndarray], threat: Threat, iterations: int, loss: str, rank: int
) -> tuple[list[Visit], set[str]]:
    """Algorithm 1 for one image with the paper's checkpoints, in float64; and what happened on the way, by name.

    Each point of the path has to be where the points before it lead; rounding is not carried on, so that ties of
    losses near an optimum are ties here, too.
    """
    center = x.double().numpy()
    clean = model(x.unsqueeze(0))[0].tolist()
    target = sorted((k for k in range(CLASSES) if k != y), key=lambda k: -clean[k])[rank - 1]
    checkpoints = paper_checkpoints(iterations)

    def look(point: np.ndarray) -> tuple[float, np.ndarray, bool]:
        leaf = torch.tensor(point, dtype=torch.float32).unsqueeze(0).requires_grad_()
        logits = model(leaf)[0]
        ranked = sorted(logits, reverse=True)
        others = [logits[k] for k in range(CLASSES) if k != y]
        if loss == "ce":
            value = F.cross_entropy(logits, torch.tensor(y))
        elif loss == "dlr":
            value = -(logits[y] - max(others)) / (ranked[0] - ranked[2])
        else:
            value = -(logits[y] - logits[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)
        value.backward()
        assert leaf.grad is not None
        return value.item(), leaf.grad[0].double().numpy(), bool(logits.argmax() != y)

    def climbed(point: np.ndarray, gradient: np.ndarray, size: float) -> np.ndarray:
        way = np.sign(gradient) if threat.norm == "Linf" else gradient / np.sqrt((gradient**2).sum())
        return onto(center, point + size * way, threat)

    happened: set[str] = set()
    size, here, before = 2 * threat.epsilon, path[0], path[0]
    best, (best_loss, gradient, hit) = here, look(here)
    best_gradient, losses = gradient, [best_loss]
    visits = [Visit(here, size, best_loss, hit)]
    best_then, halved = best_loss, True
    for k in range(1, iterations + 1):
        if hit:
            return visits, happened | {"hit"}
        ahead = climbed(here, gradient, size)
        share = 1.0 if k == 1 else 0.75
        following = onto(center, here + share * (ahead - here) + (1 - share) * (here - before), threat)
        assert k < len(path)
        np.testing.assert_allclose(path[k], following, rtol=0, atol=1e-6)
        before, here = here, path[k]
        value, gradient, hit = look(here)
        losses.append(value)
        if value > best_loss:
            best, best_loss, best_gradient = here, value, gradient
        if k in checkpoints:
            span = range(checkpoints[checkpoints.index(k) - 1], k)
            # The published code compares the first step's loss with 0.
            rises = sum(losses[i + 1] > (losses[i] if i else 0.0) for i in span)
            few, stuck = rises <= 0.75 * len(span), not halved and best_loss == best_then
            halved, best_then = few or stuck, best_loss
            if halved:
                size, here, gradient = size / 2, best, best_gradient
            happened |= {"few" if few else "stuck" if stuck else "kept"}
            happened |= {"exactly rho"} if rises == 0.75 * len(span) else set()
        visits.append(Visit(path[k], size, best_loss, hit))
    return visits, happened


LOSSES: dict[str, tuple[str, int, Objective | Target]] = {
    "ce": ("ce", 1, cross_entropy),
    "dlr": ("dlr", 1, logit_ratio),
    "target 1": ("target", 1, Target(1)),
    "target 3": ("target", 3, Target(3)),
    "target 5": ("target", 5, Target(5)),
}
RADII: dict[Norm, float] = {"Linf": 0.014, "L2": 0.05}
"""With which every decision of the algorithm is taken for some image."""


def compare(norm: Norm, name: str, *, iterations: int = 100, search: type[ApgdSearch] = ApgdSearch) -> set[str]:
    """Four slots for twelve images: points, step sizes and best losses of every image at every step."""
    model, threat = Smooth(), Threat(norm, RADII[norm])
    x, y = images(model)
    loss, rank, objective = LOSSES[name]
    if isinstance(objective, Target):  # a planted mistake's module has a class of its own
        objective = inspect.getmodule(search).Target(objective.rank)
    recorded = Recorded(search(threat, iterations, RNG, objective))
    found = run(recorded, Query(model), x, y, torch.arange(IMAGES), slots=4)
    happened: set[str] = set()
    for i in range(IMAGES):
        visits = recorded.visits[i]
        path = [visit.point for visit in visits]
        expected, what = written_out(model, x[i], int(y[i]), path, threat, iterations, loss, rank)
        happened |= what
        assert len(visits) == len(expected)
        for one, other in zip(visits, expected, strict=True):
            np.testing.assert_allclose((one.size, one.best_loss), (other.size, other.best_loss), rtol=1e-6)
            assert one.hit == other.hit
        last = expected[-1]
        best = last if last.hit else next(visit for visit in expected if visit.best_loss == last.best_loss)
        np.testing.assert_array_equal(found[i].double().numpy(), best.point)
    mixed = [steps for steps in recorded.neighbours if len(set(steps)) > 1]
    return happened | ({"mixed"} if mixed else set())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_whole_trajectory_is_that_of_a_straight_line_computation(norm: Norm, name: str) -> None:
    happened = compare(norm, name)
    assert happened >= {"hit", "mixed", "few"}
    if norm == "L2":
        assert "kept" in happened
        assert {"stuck", "exactly rho"} <= happened or name not in ("target 3", "target 5")


def test_other_numbers_of_steps() -> None:
    """The paper's checkpoints are the code's for multiples of 100."""
    assert "kept" in compare("L2", "target 5", iterations=200)


class Scripted(Query):
    """A query whose answer is a table of losses: a row for each point that is looked at, a column for each image."""

    def __init__(self, losses: Tensor) -> None:
        super().__init__(nn.Identity())
        self.losses = iter(losses)

    def gradient(self, points: Tensor, value: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        loss = next(self.losses)
        return torch.stack([torch.full_like(loss, 1e6), loss], dim=1), torch.ones_like(points)


def walks(n: int, steps: int) -> Tensor:
    """Losses (steps, n) that rise about as often as makes the difference, stand still or fall, far or not, cross 0."""
    kind = torch.arange(n)
    uniform = Stream.of(5).uniform(kind, steps).T
    shares = torch.tensor([0.72, 0.75, 0.78, 0.85, 0.95])[kind % 5]
    fall = torch.tensor([0.0, 2.0, 40.0])[kind // 5 % 3]
    moves = torch.where(uniform < shares, 1.0, -fall)
    moves[0] = torch.tensor([-9.0, -0.5, 3.0])[kind // 15 % 3]
    moves[1] += torch.tensor([0.0, -30.0])[kind // 45 % 2]
    return moves.cumsum(dim=0)


def compare_schedule(search: type[ApgdSearch] = ApgdSearch) -> None:
    """Step sizes for given losses are those of the two conditions, counted one image at a time."""
    n, iterations = 360, 100
    losses = walks(n, iterations + 1)
    made = search(Threat("Linf", 0.25), iterations, RNG, lambda logits, y: logits[:, 1])
    query = Scripted(losses)
    index, x = torch.arange(n), torch.full((n, 1, 1, 1), 0.5)
    state = made.begin(query, {"x": x, "y": torch.zeros_like(index), "index": index, "step": torch.zeros_like(index)})
    sizes = []
    for step in range(iterations + 1):
        state = made.step(query, state | {"step": torch.full_like(index, step)})
        sizes.append(state["size"])
    checkpoints = paper_checkpoints(iterations)
    reasons = set()
    for i in range(n):
        loss, size, halved, best_then = losses[:, i].tolist(), 0.5, True, -math.inf
        for k in range(iterations + 1):
            if k in checkpoints[1:]:
                since = checkpoints[checkpoints.index(k) - 1]
                rises = sum(loss[j] > (loss[j - 1] if j > 1 else 0.0) for j in range(since + 1, k + 1))
                best = max(loss[: k + 1])
                few, stuck = rises <= 0.75 * (k - since), not halved and best == best_then
                halved, best_then = few or stuck, best
                size = size / 2 if halved else size
                reasons.add(("few" if few else "stuck" if stuck else "kept", k))
            assert sizes[k][i].item() == size
    assert {reason for reason, k in reasons if k > 22} == {"few", "stuck", "kept"}


def test_step_sizes_for_given_losses() -> None:
    compare_schedule()


MUTANTS = {
    "weak momentum": ("_MOMENTUM = 0.75", "_MOMENTUM = 0.9"),
    "momentum from the first step": ('state["step"] == 0, 1.0, _MOMENTUM', 'state["step"] < 0, 1.0, _MOMENTUM'),
    "momentum from where a restart left": ('"before": here', '"before": point'),
    "rho": ("_RISES = 0.75", "_RISES = 0.7"),
    "not more than rho": ("rises <= _RISES", "rises < _RISES"),
    "first checkpoint": ("self._part(0.22)", "self._part(0.23)"),
    "spans do not shrink": ("self._part(0.03)", "self._part(0.00)"),
    "spans shrink to nothing": ("self._part(0.06)", "self._part(0.01)"),
    "a checkpoint every time": ('due = state["step"] == state["checkpoint"]', 'due = state["step"] >= 1'),
    "ascents of earlier spans count": ("torch.where(due, 0.0, rises)", "rises"),
    "the start counts as an ascent": ('"last_loss": zero + torch.inf', '"last_loss": zero - torch.inf'),
    "first step against the start": ('torch.where(state["step"] == 0, 0.0, loss)', "loss"),
    "condition 1 off": ("due & (restless | stuck)", "due & stuck"),
    "condition 2 off": ("due & (restless | stuck)", "due & restless"),
    "condition 2 right after a halving": ('~state["halved"] & (best_loss', "(best_loss"),
    "condition 2 at the first checkpoint": ('"best_then": zero - torch.inf', '"best_then": zero + torch.inf'),
    "condition 2 against the start": ('torch.where(due, best_loss, state["best_then"])', 'state["best_then"]'),
    "a third of the size": ('state["size"] / 2', 'state["size"] / 3'),
    "size of one radius": ("zero + 2 * self", "zero + 1 * self"),
    "no restart from the best point": ("here = torch.where(_wide(halve, point), best, point)", "here = point"),
    "gradient of the point given up": (
        "_wide(halve, point), best_gradient, gradient",
        "_wide(halve, point), gradient, gradient",
    ),
    "best of ties": ("better = loss > ", "better = loss >= "),
    "hands back the last point": ("_wide(hit, point), point, best)", "_wide(hit, point), point, point)"),
    "descends": ("ball.step(here, uphill,", "ball.step(here, -uphill,"),
    "momentum leaves the ball": ('ball.point(here - state["x"] + moved)', "(here + moved)"),
    "first step leaves the ball": (
        "ball.step(here, uphill, _wide(size, point))",
        "here + _wide(size, point) * uphill.sign()",
    ),
    "least likely targets": ("descending=True", "descending=False"),
    "the label as a target": ("wrong = logits.scatter(1, y.unsqueeze(1), -torch.inf)", "wrong = logits"),
    "targets one further": ("[:, target.rank - 1]", "[:, target.rank]"),
    "stops on any image": ("logits.argmax(dim=1) != y", "logits.argmax(dim=1) == y"),
    "stops on no image": ("logits.argmax(dim=1) != y", "logits.argmax(dim=1) < 0"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_is_found(name: str, planted: Callable[[Any, str, str], Any]) -> None:
    mistaken = planted(ApgdSearch, *MUTANTS[name])
    with pytest.raises(AssertionError):
        compare_schedule(mistaken)
        for norm, loss in (("L2", "target 5"), ("Linf", "target 3")):
            compare(norm, loss, search=mistaken)


class Linear(nn.Module):
    """Logits ``W (x - 0.5) + b``, computed in float64."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = Stream.of(6).normal(torch.arange(classes), 48).double()
        self.bias = 0.1 * Stream.of(7).normal(torch.arange(classes), 1)[:, 0].double()

    def forward(self, x: Tensor) -> Tensor:
        return ((x.double().flatten(1) - 0.5) @ self.weight.T + self.bias).float()

    def radii(self, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """The class of each image (B,) and its distance from every class (B, K), infinite from its own."""
        logits = (x.double().flatten(1) - 0.5) @ self.weight.T + self.bias
        y = logits.argmax(dim=1)
        dual = (self.weight[y].unsqueeze(1) - self.weight).norm(p=1 if norm == "Linf" else 2, dim=2)
        return y, ((logits.gather(1, y.unsqueeze(1)) - logits) / dual).nan_to_num(nan=torch.inf)


def linear_images(n: int) -> Tensor:
    return 0.45 + 0.1 * Stream.of(8).uniform(torch.arange(n), 3, 4, 4)


def broken(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, loss: Objective | Target) -> Tensor:
    index = torch.arange(len(x))
    found = run(ApgdSearch(threat, 100, RNG, loss), Query(model), x, y, index)
    assert (distance(x, found, threat.norm) <= threat.epsilon * (1 + 1e-6 * (threat.norm == "L2"))).all()
    return model(found).argmax(dim=1) != y


@pytest.mark.parametrize("norm", NORMS)
def test_two_classes_break_where_the_closed_form_says(norm: Norm) -> None:
    """A linear network is robust iff its margin exceeds epsilon times the dual norm: to 1e-6 in epsilon."""
    model, x = Linear(2), linear_images(6)
    y, radii = model.radii(x, norm)
    for i, radius in enumerate(radii.amin(dim=1).tolist()):
        for epsilon, expected in ((radius - 1e-6, False), (radius + 1e-6, True)):
            found = broken(model, x[i : i + 1], y[i : i + 1], Threat(norm, epsilon), cross_entropy)
            assert found.item() == expected


@pytest.mark.parametrize("norm", NORMS)
def test_six_classes_break_where_the_closed_form_says(norm: Norm) -> None:
    """All targets together break the images within epsilon of any other class; no search breaks another."""
    model, x = Linear(6), linear_images(200)
    y, radii = model.radii(x, norm)
    closest = radii.amin(dim=1)
    epsilon = closest.median().item() + 2e-4
    assert (closest - epsilon).abs().min() > 1e-6
    near = closest < epsilon
    robust = torch.ones_like(near)
    for rank in range(1, 6):
        rows = torch.nonzero(robust).squeeze(1)
        robust[rows] = ~broken(model, x[rows], y[rows], Threat(norm, epsilon), Target(rank))
    assert (robust == ~near).all()
    assert robust.double().mean() == pytest.approx(0.5, abs=0.05)
    for loss in (cross_entropy, logit_ratio):
        found = broken(model, x, y, Threat(norm, epsilon), loss)
        assert not (found & ~near).any()
        assert found.sum() >= 0.8 * near.sum()


def test_no_class_is_left_for_a_target() -> None:
    model, x = Linear(4), linear_images(2)
    y, _ = model.radii(x, "Linf")
    broken(model, x, y, Threat("Linf", 0.01), Target(3))
    for rank in (0, 4):
        with pytest.raises(AssertionError, match="wrong class"):
            broken(model, x, y, Threat("Linf", 0.01), Target(rank))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", [cross_entropy, logit_ratio, Target(2)], ids=["ce", "dlr", "targeted"])
def test_without_a_radius_the_image_is_handed_back(norm: Norm, loss: Objective | Target) -> None:
    model = Smooth()
    x, y = images(model)
    assert torch.equal(run(ApgdSearch(Threat(norm, 0.0), 30, RNG, loss), Query(model), x, y, torch.arange(IMAGES)), x)


@pytest.mark.parametrize("norm", NORMS)
def test_starts_are_on_the_border_and_have_no_direction_in_common(norm: Norm) -> None:
    """The published code's: a cube's uniform draw scaled by its largest entry, a normal draw scaled to length 1."""
    threat, index = Threat(norm, 0.1), torch.arange(400)
    x = torch.full((400, 3, 4, 4), 0.5)
    state = {"x": x, "y": torch.zeros_like(index), "index": index}
    point = ApgdSearch(threat, 100, RNG).begin(Query(nn.Flatten()), state)["point"]
    delta = (point - x).flatten(1).double()
    torch.testing.assert_close(distance(x, point, norm), torch.full((400,), 0.1).double(), rtol=1e-5, atol=0)
    assert delta.mean(dim=0).abs().max() < 5 * delta.std() / 20
    # The mean square of an entry: a third, less the scaling by the greatest of 48 draws; a 48th of the squared length.
    expected = 0.1**2 / 3 * (49 / 48) ** 2 if norm == "Linf" else 0.1**2 / 48
    assert delta.square().mean().item() == pytest.approx(expected, rel=0.03)
    other = ApgdSearch(threat, 100, Stream.of(12)).begin(Query(nn.Flatten()), state)["point"]
    assert (other != point).any(dim=(1, 2, 3)).all()
    again = ApgdSearch(threat, 100, RNG).begin(Query(nn.Flatten()), {k: v[7:9] for k, v in state.items()})["point"]
    assert (again == point[7:9]).all()


class Trained(nn.Module):
    """A small convolutional network, trained against fast gradient steps on a few photographs; evaluated in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 12, 4, 2, 1), nn.ReLU(), nn.Conv2d(12, 16, 4, 2, 1), nn.ReLU(), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(1024, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.to(self.layers[0].weight.dtype) - 0.5).float()

    def fit(self, x: Tensor, y: Tensor) -> None:
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        for step in range(60):
            rows = (torch.arange(64) + 64 * step) % len(x)
            there = pgd(self, x[rows], y[rows], epsilon=2 / 255, step=2 / 255, steps=1)
            optimizer.zero_grad()
            F.cross_entropy(self(there), y[rows]).backward()
            optimizer.step()
        self.double().eval().requires_grad_(False)


@pytest.mark.parametrize("norm", NORMS)
def test_the_published_code_takes_the_same_decisions(norm: Norm) -> None:
    """From the same starts, `pyautoattack` breaks the same images and finds the same highest losses."""
    base = pytest.importorskip("pyautoattack.autopgd_base", reason="compares with the package pyautoattack")
    data = load("cifar10-sample", "train")
    x, y = as_float(data.images[:1000]), data.labels[:1000]
    model = Trained()
    model.fit(x, y)
    right = torch.nonzero(model(x[:200]).argmax(dim=1) == y[:200]).squeeze(1)
    x, y, index = x[right], y[right], right
    threat = Threat(norm, 4 / 255 if norm == "Linf" else 0.25)
    for loss in (cross_entropy, logit_ratio, Target(2)):
        search = ApgdSearch(threat, 100, RNG, loss)
        start = search.begin(Query(model), {"x": x, "y": y, "index": index})["point"]
        if isinstance(loss, Target):
            peer = base.APGDAttack_targeted(model, norm=norm, eps=threat.epsilon, device="cpu")
            peer.y_target = model(x).sort(dim=1)[1][:, -1 - loss.rank]
        else:
            name = "ce" if loss is cross_entropy else "dlr"
            peer = base.APGDAttack(model, norm=norm, eps=threat.epsilon, device="cpu", loss=name)
        peer.init_hyperparam(x)
        best, right_ever, best_loss, _ = peer.attack_single_run(x, y, x_init=start)
        found = run(search, Query(model), x, y, index)
        wrong = model(found).argmax(dim=1) != y
        assert (wrong == (right_ever == 0)).all()
        assert 0.02 < wrong.double().mean() < 0.8
        # Rounding differs, and the sign of a tiny gradient with it.
        robust = torch.nonzero(~wrong).squeeze(1)
        assert (found - best).flatten(1).abs().amax(dim=1)[robust].median() < 1e-5
        if not isinstance(loss, Target):
            torch.testing.assert_close(loss(model(found), y)[robust], best_loss[robust], rtol=1e-3, atol=1e-4)
