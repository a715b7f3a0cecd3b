"""Curves against closed forms and against PGD written out radius by radius."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks import PgdSearch, pgd, random_start
from robusteval.attacks.geometry import OutsideTheBall
from robusteval.attacks.search import Threat
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.randomness import Stream
from robusteval.stats import wilson
from robusteval.tasks import Clean, Context, Outcomes
from robusteval.tasks.epsilon_curve import EpsilonCurve
from robusteval.tasks.predict import to_input
from robusteval.tasks.withstand import Stage, withstand

Line = Callable[[int], nn.Module]
Mutant = Callable[[str, str, str], ModuleType]


def curve(task: Any, model: nn.Module, data: ImageSet, context: Context) -> dict[str, Outcomes]:
    found = {}
    for measurement, outcomes in task.measure({"main": model}, data, context):
        assert (measurement.task, measurement.metric, measurement.n) == ("epsilon_curve", "robust_accuracy", 90)
        assert outcomes is not None
        assert (measurement.low, measurement.high) == wilson(int(outcomes.sum()), 90)
        assert measurement.value == outcomes.mean()
        found[str(measurement.where["epsilon"])] = outcomes
    return found


def radii(model: nn.Module, data: ImageSet, norm: str) -> Tensor:
    """How far a linear network's boundary is from each image; negative where it is wrong."""
    weight = model.weight.detach().double()
    margin = (1 - 2 * data.labels.double()) * ((data.images.double() / 255 - 0.5).flatten(1) @ weight)
    return margin / (weight.abs().sum() if norm == "Linf" else weight.norm())


@pytest.mark.parametrize(("norm", "unit"), [("Linf", 0.002), ("L2", 0.025)])
def test_a_linear_network(norm: str, unit: float, line: Line, grains: ImageSet, context: Context) -> None:
    model, radius = line(0), radii(line(0), grains, norm)
    epsilons = [0.0, *(unit * k for k in (0.5, 1, 2, 3, 4, 6, 9, 12)), 1.0]
    assert min(float((radius - epsilon).abs().min()) for epsilon in epsilons) > unit / 1000
    task = build(EpsilonCurve, {"norm": norm, "epsilons": epsilons, "steps": 12, "travel": 6.0}, "test")
    found = curve(task, model, grains, context)
    assert len(found) == 10
    for epsilon, outcomes in zip(epsilons, found.values(), strict=True):
        np.testing.assert_array_equal(outcomes, (radius > epsilon).numpy())
    assert len({int(outcomes.sum()) for outcomes in found.values()}) >= 8


def test_radius_0_is_clean_and_radius_1_leaves_nothing(
    network: Callable[[], nn.Module], data: ImageSet, context: Context, line: Line, grains: ImageSet
) -> None:
    models = {"main": network()}
    (alone,) = EpsilonCurve(epsilons=(0.0,)).measure(models, data, context)
    (clean,) = Clean().measure(models, data, context)
    np.testing.assert_array_equal(alone.outcomes, clean.outcomes)
    assert 0 < clean.outcomes.sum() < 53
    assert alone.measurement.passes == 0
    found = curve(EpsilonCurve(epsilons=(0.0, 1.0)), line(1), grains, context)
    assert 0 < found["0"].sum() < 90
    assert not found["1"].any()


class Waves(nn.Module):
    """A network whose margin goes up and down along every direction."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(192, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.sin(torch.linspace(1, 20, 48) * self.inner((x - 0.5).flatten(1))))


def waves(data: ImageSet) -> nn.Module:
    model, x = Waves(), to_input(data.images, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), data.labels).backward()
        optimizer.step()
    return model


EPSILONS = (0.0, 0.015, 0.02, 0.025, 0.03, 0.08)

TRAVEL = 5.0


@torch.no_grad()
def straight(model: nn.Module, data: ImageSet) -> tuple[dict[str, Outcomes], bool]:
    """All images at every radius, every iterate; broken once, broken for good. And whether that made a difference."""
    x, y, index = to_input(data.images, torch.device("cpu")), data.labels, torch.arange(90)
    found, standing = {}, model(x).argmax(1) == y
    alone = {}
    for epsilon in EPSILONS:
        if epsilon:
            start = random_start(x, epsilon=epsilon, norm="Linf", rng=Stream.of(3).at("epsilon_curve"), index=index)
            here = torch.ones_like(standing)
            for steps in range(6):
                iterate = pgd(model, x, y, epsilon=epsilon, step=TRAVEL * epsilon / 5, steps=steps, start=start)
                here &= model(iterate).argmax(1) == y
            alone[epsilon] = here
            standing = standing & here
        found[f"{epsilon:g}"] = standing.numpy().copy()
    return found, any((alone[epsilon].numpy() & ~found[f"{epsilon:g}"]).any() for epsilon in EPSILONS[1:])


def check_waves(task: type[EpsilonCurve], data: ImageSet, context: Context) -> None:
    model = waves(data)
    expected, _ = straight(model, data)
    found = curve(task(epsilons=EPSILONS, steps=5, travel=TRAVEL), model, data, context)
    assert list(found) == list(expected)
    for epsilon, outcomes in expected.items():
        np.testing.assert_array_equal(found[epsilon], outcomes)


def test_against_every_radius_written_out(grains: ImageSet, context: Context) -> None:
    check_waves(EpsilonCurve, grains, context)
    expected, broken_before_only = straight(waves(grains), grains)
    assert broken_before_only
    counts = [int(outcomes.sum()) for outcomes in expected.values()]
    assert counts[0] > counts[1] > counts[2] > counts[3]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.travel * epsilon / self.steps", "self.travel * self.epsilons[-1] / self.steps"),  # one step for all
        ("threat = Threat(self.norm, epsilon)", "threat = Threat(self.norm, self.epsilons[1])"),
        ("epsilon else stand.clean", "epsilon else stand.robust"),
        ("stand.after[stages[epsilon].name] if", "stand.robust if"),
    ],
)
def test_planted_mistakes_are_found(old: str, new: str, grains: ImageSet, context: Context, mutant: Mutant) -> None:
    task = mutant("robusteval.tasks.epsilon_curve", old, new).EpsilonCurve
    with pytest.raises(AssertionError):
        check_waves(task, grains, context)


def test_what_is_broken_costs_nothing_more(line: Line, grains: ImageSet, context: Context) -> None:
    """Radii far below every image's distance: those right unchanged take all steps, each time."""
    radius = radii(line(0), grains, "Linf")
    right = int((radius > 0).sum())
    assert 64 < right < 80
    assert radius[radius > 0].min() > 3e-5
    task = EpsilonCurve(epsilons=(0.0, 1e-5, 2e-5, 0.5), steps=4)
    found = [o.measurement for o in task.measure({"main": line(0)}, grains, context)]
    passes = [m.passes for m in found if m.passes is not None]
    # 64 slots first, then the rest, padded to a multiple of 16, forward and backward.
    each = 4 * 2 * (64 + 16) / 90
    assert passes[:3] == pytest.approx([0, each, 2 * each])
    assert found[3].value == 0
    assert 2 * each < passes[3] < 3 * each


def test_records_say_what_was_done(line: Line, grains: ImageSet, context: Context) -> None:
    task = build(EpsilonCurve, {"epsilons": [0, "2/255", "8/255"], "steps": 5, "loss": "margin", "limit": 20}, "test")
    models: Mapping[str, nn.Module] = {"main": line(0), "aux": line(1)}
    found = [o.measurement for o in task.measure(models, grains, context)]
    assert [(m.where["branch"], m.where["epsilon"], m.where["step"]) for m in found] == [
        (branch, epsilon, step)
        for branch in models
        for epsilon, step in (("0", "0"), ("2/255", "1/255"), ("8/255", "4/255"))
    ]
    assert found[1].where == {
        "branch": "main",
        "attack_branch": "main",
        "norm": "Linf",
        "epsilon": "2/255",
        "step": "1/255",
        "steps": 5,
        "loss": "margin",
    }
    assert {m.n for m in found} == {20}


def test_an_example_beyond_its_own_radius_is_an_error(line: Line, grains: ImageSet, context: Context) -> None:
    search = PgdSearch(Threat("Linf", 0.002), 0.002, 3, None)
    stages = [Stage("narrow", search, Threat("Linf", 0.001))]
    with pytest.raises(OutsideTheBall, match=r"ball of radius 0\.001"):
        withstand(line(0), grains, stages, Threat("Linf", 0.1), context, where="main", key="k")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilons": ["8/255", "4/255"]}, "epsilons: 8/255, 4/255 do not grow; allowed: each once, from small to"),
        ({"epsilons": [0.1, 0.1]}, "epsilons: 0.1, 0.1 do not grow"),
        ({"epsilons": [0.1, 0.10000001]}, "epsilons: 0.1, 0.1 do not grow"),
        ({"epsilons": [0, 8]}, "epsilons: 8 is more than the whole pixel range"),
        ({"epsilons": []}, "epsilons: .*at least 1"),
        ({"epsilons": [-0.1]}, "epsilons.0: .*greater than or equal to 0"),
        ({"travel": 0.0}, "travel: .*greater than 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(EpsilonCurve, values, "suite.toml")
