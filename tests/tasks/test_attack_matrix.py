"""The matrix against closed forms of linear branches, against PGD written out, and against the task ``pgd``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.randomness import Stream
from robusteval.tasks import Context, Outcomes, Pgd, attack_matrix
from robusteval.tasks.attack_matrix import AttackMatrix, MeanLogits
from robusteval.tasks.predict import to_input

Line = Callable[[int], nn.Module]
Matrix = dict[tuple[str, str], Outcomes]
Mutant = Callable[[str, str, str], ModuleType]


def matrix(task: Any, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Matrix:
    found: Matrix = {}
    for measurement, outcomes in task.measure(models, data, context):
        assert (measurement.task, measurement.metric) == ("attack_matrix", "robust_accuracy")
        assert outcomes is not None
        assert measurement.value == outcomes.mean()
        key = str(measurement.where["attack_branch"]), str(measurement.where["branch"])
        assert key not in found
        found[key] = outcomes
    return found


def assert_same(found: Matrix, expected: Mapping[tuple[str, str], npt.NDArray[np.bool_]]) -> None:
    assert found.keys() == expected.keys()
    for key, outcomes in expected.items():
        np.testing.assert_array_equal(found[key], outcomes, err_msg=str(key))


def margins(weight: Tensor, data: ImageSet) -> Tensor:
    """By how much a linear network's logit of the label exceeds the other, float64."""
    return (1 - 2 * data.labels.double()) * ((data.images.double() / 255 - 0.5).flatten(1) @ weight.double())


def closed_form(models: Mapping[str, nn.Module], data: ImageSet, norm: str, epsilon: float) -> Matrix:
    """An attack on a linear network moves every image by epsilon against the direction of its weight.

    The mean of linear networks is the linear network of the mean weight.
    """
    weights = {name: model.weight.detach().double() for name, model in models.items()}
    sources = weights | {"mean": sum(weights.values())}
    expected: Matrix = {}
    for made_on, weight in sources.items():
        unit = weight.sign() if norm == "Linf" else weight / weight.norm()
        for branch, judge in weights.items():
            after = margins(judge, data) - epsilon * (judge @ unit)
            assert after.abs().min() > 2e-5  # no image is too close to call
            expected[made_on, branch] = ((after > 0) & (margins(judge, data) > 0)).numpy()
    for branch in weights:
        expected["worst", branch] = np.logical_and.reduce([expected[made_on, branch] for made_on in weights])
    return expected


def linear(line: Line) -> dict[str, nn.Module]:
    return {"main": line(0), "aux": line(1), "third": line(2)}


def check_linear(
    task: type[AttackMatrix], models: Mapping[str, nn.Module], data: ImageSet, context: Context, norm: str
) -> Matrix:
    epsilon = 0.006 if norm == "Linf" else 0.07
    options = {"norm": norm, "epsilon": epsilon, "step": epsilon / 2, "steps": 20}
    expected = closed_form(models, data, norm, epsilon)
    assert_same(matrix(build(task, options, "test"), models, data, context), expected)
    return expected


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_linear_branches(norm: str, line: Line, grains: ImageSet, context: Context) -> None:
    expected = check_linear(AttackMatrix, linear(line), grains, context, norm)
    shares = {key: outcomes.mean() for key, outcomes in expected.items()}
    for branch in ("main", "aux", "third"):
        own = expected[branch, branch]
        assert 0.1 < own.mean() < 0.9
        assert all(not (own & ~outcomes).any() for (_, b), outcomes in expected.items() if b == branch)
        assert shares["main", branch] != shares["aux", branch]  # a transposed matrix would be another


def test_the_worst_case_is_by_image(line: Line, grains: ImageSet, context: Context) -> None:
    """Two branches read one half of the pixels each, with opposite signs in common: neither's attack is the other's."""
    half = torch.arange(192) < 96
    one, two = line(0), line(1)
    with torch.no_grad():
        one.weight[~half] = 0
        two.weight.copy_(torch.where(half, -one.weight / 2, two.weight))
    models = {"main": one, "aux": two}
    found = matrix(AttackMatrix(epsilon=0.02, step=0.01, steps=12), models, grains, context)
    assert_same(found, closed_form(models, grains, "Linf", 0.02))
    assert found["main", "aux"].mean() > found["aux", "aux"].mean()  # an attack on the one helps the other


class Waves(nn.Module):
    """A network whose margin goes up and down along every direction: iterates cross and cross back."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner, self.outer = nn.Linear(192, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.sin(torch.linspace(1, 20, 48) * self.inner((x - 0.5).flatten(1))))


def waves(data: ImageSet) -> dict[str, nn.Module]:
    """Two such networks that are right on most images."""
    models = {"main": Waves(0), "aux": Waves(1)}
    x = to_input(data.images, torch.device("cpu"))
    for model in models.values():
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), data.labels).backward()
            optimizer.step()
    return models


class Straight(nn.Module):
    """All iterates of PGD, one attack for each: what the matrix is defined by."""

    def __init__(self, data: ImageSet, *, epsilon: float, step: float, steps: int, restart: int = 0) -> None:
        super().__init__()
        self.x, self.y, self.options = to_input(data.images, torch.device("cpu")), data.labels, (epsilon, step, steps)
        rng = Stream.of(3).at("pgd", restart)
        index = torch.arange(len(data.labels))
        self.start = random_start(self.x, epsilon=epsilon, norm="Linf", rng=rng, index=index)

    @torch.no_grad()
    def wrong(self, model: nn.Module, x: Tensor) -> Tensor:
        return model(x).argmax(1) != self.y

    def iterates(self, model: nn.Module) -> list[Tensor]:
        epsilon, step, steps = self.options
        count = range(steps + 1)
        return [pgd(model, self.x, self.y, epsilon=epsilon, step=step, steps=k, start=self.start) for k in count]

    @torch.no_grad()
    def furthest(self, model: nn.Module) -> Tensor:
        """The iterate of least margin of each image."""
        points = torch.stack(self.iterates(model))
        leads = []
        for point in points:
            logits = model(point)
            own = logits.gather(1, self.y.unsqueeze(1)).squeeze(1)
            leads.append(logits.scatter(1, self.y.unsqueeze(1), -torch.inf).amax(1) - own)
        return points[torch.stack(leads).argmax(0), torch.arange(len(self.y))]

    def matrix(self, models: Mapping[str, nn.Module]) -> Matrix:
        found: Matrix = {}
        mean = nn.Module()
        mean.forward = lambda x: sum(model(x) for model in models.values()) / len(models)
        for made_on, attacked in {**models, "mean": mean}.items():
            example = self.furthest(attacked)
            for branch, model in models.items():
                found[made_on, branch] = (~self.wrong(model, self.x) & ~self.wrong(model, example)).numpy()
        for branch in models:
            found["worst", branch] = found["main", branch] & found["aux", branch]
        return found


SETTING = {"epsilon": 0.05, "step": 0.06, "steps": 5}


def check_waves(task: type[AttackMatrix], data: ImageSet, context: Context) -> Matrix:
    models = waves(data)
    found = matrix(build(task, SETTING, "test"), models, data, context)
    assert_same(found, Straight(data, **SETTING).matrix(models))
    return found


def test_against_every_iterate_written_out(grains: ImageSet, context: Context) -> None:
    found = check_waves(AttackMatrix, grains, context)
    models, straight = waves(grains), Straight(grains, **SETTING)
    last, first = straight.iterates(models["main"])[-1], straight.furthest(models["main"])
    assert (straight.wrong(models["main"], first) & ~straight.wrong(models["main"], last)).any()
    assert len({outcomes.tobytes() for outcomes in found.values()}) == len(found) == 8


def test_the_diagonal_is_the_task_pgd(grains: ImageSet, context: Context) -> None:
    models = waves(grains)
    found = matrix(AttackMatrix(**SETTING), models, grains, context)
    for measurement, outcomes in Pgd(**SETTING, checked=0).measure(models, grains, context):
        branch = str(measurement.where["branch"])
        np.testing.assert_array_equal(found[branch, branch], outcomes)
        assert 0 < measurement.value < 0.2


def test_nothing_depends_on_the_images_that_follow(grains: ImageSet, context: Context) -> None:
    models = waves(grains)
    whole = matrix(AttackMatrix(**SETTING), models, grains, context)
    for few in (1, 17, 64):
        for found in (
            matrix(AttackMatrix(**SETTING, limit=few), models, grains, context),
            matrix(AttackMatrix(**SETTING), models, grains.first(few), context),
        ):
            assert_same(found, {key: outcomes[:few] for key, outcomes in whole.items()})


def test_radius_0_is_clean_and_radius_1_leaves_nothing(line: Line, grains: ImageSet, context: Context) -> None:
    models = waves(grains)
    straight = Straight(grains, **SETTING)
    for (_, branch), outcomes in matrix(AttackMatrix(epsilon=0.0, steps=3), models, grains, context).items():
        np.testing.assert_array_equal(outcomes, ~straight.wrong(models[branch], straight.x).numpy())
    lines = linear(line)
    for outcomes in matrix(AttackMatrix(epsilon=1.0, step=0.2, steps=10), lines, grains, context).values():
        assert not outcomes.any()


def test_records_say_what_was_done_and_what_it_took(line: Line, grains: ImageSet, context: Context) -> None:
    task = AttackMatrix(epsilon=0.02, step=0.01, steps=4, limit=20)
    found = [o.measurement for o in task.measure(linear(line), grains, context)]
    assert [(m.where["attack_branch"], m.where["branch"]) for m in found] == [
        (made_on, branch)
        for made_on in ("main", "aux", "third", "worst", "mean")
        for branch in ("main", "aux", "third")
    ]
    attack = {"norm": "Linf", "epsilon": "0.02", "step": "0.01", "steps": 4}
    assert all(list(m.where.items())[2:] == list(attack.items()) for m in found)
    # 20 images are padded to 24; four steps and a look at the last iterate, forward and backward.
    one = 5 * 2 * 24 / 20
    assert [m.passes for m in found] == pytest.approx([one] * 9 + [3 * one] * 6)


def test_one_branch_makes_no_matrix(line: Line, grains: ImageSet, context: Context) -> None:
    assert list(AttackMatrix().measure({"main": line(0)}, grains, context)) == []


def test_the_mean_of_logits_leaves_its_networks_alone(line: Line, grains: ImageSet) -> None:
    one, two = line(0), nn.Sequential(line(1), nn.Dropout()).train()
    one.eval()
    mean = MeanLogits([one, two])
    assert not one.training
    assert two.training
    x = to_input(grains.images, torch.device("cpu"))
    torch.testing.assert_close(mean.eval()(x), (one(x) + two[0](x)) / 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("for branch, right in verdicts.right.items()}", "for branch, right in clean.items()}"),
        ("{branch: standing[branch] & right for", "{branch: right for"),  # the worst case over the last row alone
        (".mean(dim=0)", "[0]"),  # the mean of one branch
        ("self.search(context.seed)", "self.search(context.seed + 1)"),  # other starts than those of the task pgd
        ("judged(network, models", "judged(models['main'], models"),  # every row through the same branch
        ("(MEAN, MeanLogits(models.values()))", "(MEAN, models['aux'])"),
    ],
)
def test_planted_mistakes_are_found(old: str, new: str, grains: ImageSet, context: Context, mutant: Mutant) -> None:
    with pytest.raises(AssertionError):
        check_waves(mutant("robusteval.tasks.attack_matrix", old, new).AttackMatrix, grains, context)


def test_wrong_unchanged_is_not_robust(line: Line, grains: ImageSet, context: Context, mutant: Mutant) -> None:
    """An attack on one branch helps the other out of its mistakes."""
    one, two = line(0), line(1)
    with torch.no_grad():
        two.weight.copy_(-one.weight)
    models = {"main": one, "aux": two}
    clean = (margins(two.weight.detach(), grains) > 0).numpy()
    assert 0 < clean.sum() < 45
    found = matrix(AttackMatrix(epsilon=0.3, step=0.1), models, grains, context)
    np.testing.assert_array_equal(found["main", "aux"], clean)
    careless = mutant(
        "robusteval.tasks.attack_matrix",
        "        standing, all_passes",
        "        clean = {b: r | True for b, r in clean.items()}\n        standing, all_passes",
    )
    assert matrix(careless.AttackMatrix(epsilon=0.3, step=0.1), models, grains, context)["main", "aux"].all()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('further = lead > state["lead"]', "further = lead > -torch.inf"),  # the last iterate
        ("return self.pgd.steps + 1", "return self.pgd.steps"),  # the last iterate is never looked at
        ('further = lead > state["lead"]', 'further = (lead > 0) & (state["lead"] <= 0)'),  # the first mistake
    ],
)
def test_planted_mistakes_of_the_search_are_found(
    old: str, new: str, grains: ImageSet, context: Context, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack_matrix, "judged", mutant("robusteval.tasks.surrogate", old, new).judged)
    with pytest.raises(AssertionError):
        check_waves(AttackMatrix, grains, context)


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UserError, match="epsilon: 8 is more than the whole pixel range"):
        build(AttackMatrix, {"epsilon": 8.0}, "suite.toml")
    with pytest.raises(UserError, match=r"steps: .*greater than or equal to 1"):
        build(AttackMatrix, {"steps": 0}, "suite.toml")
    assert replace(AttackMatrix(), epsilon=0.5).epsilon == 0.5
