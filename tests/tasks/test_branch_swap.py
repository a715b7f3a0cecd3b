"""Distances against closed forms, swapped networks against ones put together from state dicts."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gaussian
from torch.distributions import kl_divergence

from robusteval.branches import add_branches, keep_branch
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.tasks.adversarial import Pgd
from robusteval.tasks.branches import Branches, Normal, distances
from robusteval.tasks.clean import Clean
from robusteval.tasks.corruption import Corruption
from robusteval.tasks.task import Context
from robusteval.testing import CLASSES, TinyNet

TASK = Branches(
    names=("gaussian_noise", "brightness"),
    severities=(1, 3),
    source="generated",
    epsilon=0.02,
    step=0.01,
    steps=2,
    attack_limit=37,
)
PARTS = (
    Clean(limit=500),
    Corruption(names=("gaussian_noise", "brightness"), severities=(1, 3), source="generated"),
    Pgd(epsilon=0.02, step=0.01, steps=2, limit=37),
)
DISTANCES = ("mean_distance", "variance_distance", "symmetric_kl", "scale_distance", "shift_distance")


class Pixels(TinyNet):
    """TinyNet whose head sees single pixels, so that its answers differ from image to image without training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16 * 16 * 16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.again(self.bn1(self.conv1(x))))
        return self.head(torch.relu(self.bn2(self.conv2(x))).flatten(1))


def branches(*names: str) -> dict[str, nn.Module]:
    """The plain network of each branch, with statistics and affine parameters of its own."""
    torch.manual_seed(4)
    model = Pixels().train()
    add_branches(model, names)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if "bn" in name and tensor.is_floating_point():
            tensor.data.add_(0.3 * torch.rand_like(tensor))
    return {name: keep_branch(model, name).eval() for name in ("main", *names)}


def measured(models: dict[str, nn.Module], data: ImageSet, context: Context, task: Branches = TASK):
    return list(task.measure(models, data, context))


def accuracies(found):
    """Observations by (statistics, affine), each by the rest of its place."""
    cells: dict[tuple[object, object], dict[tuple[object, ...], object]] = {}
    for observation in found:
        where = dict(observation.measurement.where)
        if "statistics" in where:
            pair = where.pop("statistics"), where.pop("affine")
            key = (observation.measurement.metric, *where.items())
            assert key not in cells.setdefault(pair, {})
            cells[pair][key] = observation
    return cells


def of_parts(model: nn.Module, data: ImageSet, context: Context):
    """What the three tasks say of one network."""
    return [o for task in PARTS for o in task.measure({"main": model}, data, context)]


def assert_measured_as(cell, expected) -> None:
    assert len(cell) == len(expected) == 1 + 5 + 1
    for observation, other in zip(cell.values(), expected, strict=True):
        one, two = observation.measurement, other.measurement
        assert (one.task, one.metric, one.value, one.n) == ("branches", two.metric, two.value, two.n)
        assert (one.low, one.high, one.unit) == (two.low, two.high, "fraction")
        if other.outcomes is None:
            assert observation.outcomes is None
        else:
            np.testing.assert_array_equal(observation.outcomes, other.outcomes)


def test_the_diagonal_is_each_branchs_own_number(data: ImageSet, context: Context) -> None:
    models = branches("aux", "third")
    cells = accuracies(measured(models, data, context))
    assert len(cells) == 9
    values = set()
    for branch, model in models.items():
        assert_measured_as(cells[branch, branch], of_parts(model, data, context))
        values.add(tuple(o.measurement.value for o in cells[branch, branch].values()))
    assert len(values) == 3


def test_a_swapped_network_has_the_ones_statistics_and_the_others_affine_map(data: ImageSet, context: Context) -> None:
    models = branches("aux")
    cells = accuracies(measured(models, data, context))
    states = {branch: model.state_dict() for branch, model in models.items()}
    outcomes = set()
    for statistics in models:
        for affine in models:
            network = Pixels().eval()
            network.load_state_dict(
                {key: states[statistics if "running" in key else affine][key] for key in states["main"]}
            )
            assert_measured_as(cells[statistics, affine], of_parts(network, data, context))
            outcomes.add(
                b"".join(o.outcomes.tobytes() for o in cells[statistics, affine].values() if o.outcomes is not None)
            )
    assert len(outcomes) == 4  # every part matters


def test_places(data: ImageSet, context: Context) -> None:
    cell = accuracies(measured(branches("aux"), data, context))["main", "aux"]
    clean, noise, *_, mean, attacked = (dict(key[1:]) for key in cell)
    assert clean == {"images": "clean"}
    made = {"source": "generated", "generator": "1", "table": "cifar", "seed": 3}
    assert noise == {"images": "gaussian_noise", "severity": 1, **made}
    assert mean == {
        "corruptions": 2,
        "severities": "1+3",
        "names": "gaussian_noise brightness",
        **made,
    }
    assert attacked == {
        "norm": "Linf",
        "epsilon": "0.02",
        "step": "0.01",
        "steps": 2,
        "restarts": 1,
        "loss": "ce",
    }


def moments(mean: float, var: float, scale: float = 1.0, shift: float = 0.0, channels: int = 3) -> Normal:
    return Normal(*(torch.full((channels,), value, dtype=torch.float64) for value in (mean, var, scale, shift)))


def test_distances_of_known_moments() -> None:
    found = distances(moments(1.0, 2.0, 3.0, -1.0), moments(4.0, 6.0, 1.0, 1.0))
    assert found == pytest.approx(
        {
            "mean_distance": 3 / 2,  # 3 in units of sqrt((2 + 6) / 2)
            "variance_distance": math.log(3),
            "symmetric_kl": (16 / 12 + 9 * (1 / 2 + 1 / 6)) / 2,
            "scale_distance": 2 / math.sqrt(5),
            "shift_distance": 2 / math.sqrt(5),
        },
        rel=1e-12,
    )
    assert list(found) == list(DISTANCES)


def random_moments(seed: int) -> Normal:
    draws = torch.rand(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Normal(draws[0], draws[1] + 0.1, draws[2], draws[3])


def test_symmetric_kl_is_the_divergence_both_ways_averaged_over_channels() -> None:
    one, two = random_moments(0), random_moments(1)
    p, q = Gaussian(one.mean, one.var.sqrt()), Gaussian(two.mean, two.var.sqrt())
    expected = (kl_divergence(p, q) + kl_divergence(q, p)).mean()
    assert distances(one, two)["symmetric_kl"] == pytest.approx(float(expected), rel=1e-10)


def test_distances_are_symmetric_and_zero_to_oneself() -> None:
    one, two = random_moments(0), random_moments(1)
    assert distances(one, two) == pytest.approx(distances(two, one), rel=1e-12)
    assert distances(one, one) == dict.fromkeys(DISTANCES, 0.0)


def test_channels_are_averaged_as_the_formulas_say() -> None:
    one = Normal(*(torch.tensor(v, dtype=torch.float64) for v in ([0, 0], [1, 1], [1, 3], [0, 0])))
    two = Normal(*(torch.tensor(v, dtype=torch.float64) for v in ([3, 4], [1, math.e**2], [2, 3], [1, 1])))
    found = distances(one, two)
    assert found["mean_distance"] == pytest.approx(math.sqrt((9 + 16 / ((1 + math.e**2) / 2)) / 2))
    assert found["variance_distance"] == pytest.approx(1.0)
    assert found["scale_distance"] == pytest.approx(math.sqrt((1 / 2) / ((1 + 4 + 9 + 9) / 4)))
    assert found["shift_distance"] == pytest.approx(math.sqrt(1 / ((1 + 4 + 9 + 9) / 4)))


def test_a_scale_of_zero_in_both_branches_is_no_unit() -> None:
    found = distances(moments(0.0, 1.0, 0.0, 1.0), moments(0.0, 1.0, 0.0, 2.0))
    assert (found["scale_distance"], found["shift_distance"]) == (None, None)
    assert found["mean_distance"] == 0


def test_distances_of_layers_and_their_mean(data: ImageSet, context: Context) -> None:
    models = branches("aux", "third")
    found = [o.measurement for o in measured(models, data, context) if "other" in o.measurement.where]
    assert Counter((m.where["branch"], m.where["other"]) for m in found) == dict.fromkeys(
        [("main", "aux"), ("main", "third"), ("aux", "third")], 3 * len(DISTANCES)
    )
    one, two = models["aux"].bn2, models["third"].bn2
    expected = (((one.running_mean - two.running_mean) ** 2) / ((one.running_var + two.running_var) / 2 + 1e-5)).mean()
    by_place = {(m.metric, *m.where.values()): m for m in found}
    measurement = by_place["mean_distance", "aux", "third", "bn2"]
    assert measurement.value == pytest.approx(float(expected.sqrt()), rel=1e-5)
    assert (measurement.n, measurement.unit, measurement.low) == (16, "number", None)
    mean = by_place["mean_distance", "aux", "third", 2]
    layers = [by_place["mean_distance", "aux", "third", layer].value for layer in ("bn1", "bn2")]
    assert (mean.value, mean.where["layers"]) == (pytest.approx(sum(layers) / 2), 2)


def test_what_cannot_be_measured_says_so(data: ImageSet, context: Context) -> None:
    models = branches("aux")
    for model in models.values():
        nn.init.zeros_(model.bn1.weight)
    found = {(m.metric, m.where.get("layer")): m for m, _ in measured(models, data, context)}
    missing = found["scale_distance", "bn1"]
    assert (missing.value, missing.note) == (None, "the scale is 0 in both branches")
    mean = found["scale_distance", None]
    assert (mean.value, mean.n) == (found["scale_distance", "bn2"].value, 1)


def test_variances_are_those_that_the_layer_divides_by(data: ImageSet, context: Context) -> None:
    models = branches("aux")
    for shift, model in enumerate(models.values()):
        nn.init.zeros_(model.bn2.running_var)
        nn.init.constant_(model.bn2.running_mean, 0.01 * shift)
    found = {(m.metric, m.where.get("layer")): m.value for m, _ in measured(models, data, context)}
    assert found["variance_distance", "bn2"] == 0
    assert found["mean_distance", "bn2"] == pytest.approx(0.01 / math.sqrt(1e-5))


def test_layers_without_affine_parameters(data: ImageSet, context: Context) -> None:
    def network(shift: float) -> nn.Module:
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(3, affine=False)
        norm.running_mean.fill_(shift)
        return nn.Sequential(norm, nn.Flatten(), nn.Linear(3072, CLASSES)).eval()

    found = {
        (m.metric, m.where.get("layer")): m.value
        for m, _ in measured({"a": network(0), "b": network(1)}, data, context)
    }
    assert found["mean_distance", "0"] == pytest.approx(1, rel=1e-4)
    assert found["scale_distance", "0"] == found["shift_distance", "0"] == 0


def test_one_branch_or_no_batchnorm_is_not_measured(data: ImageSet, context: Context) -> None:
    assert measured({"main": Pixels()}, data, context) == []
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))
    assert measured({"main": plain, "aux": plain}, data, context) == []


def test_networks_are_left_as_they_were_and_progress_is_told(data: ImageSet, context: Context, counting: Any) -> None:
    models = branches("aux")
    models["aux"].bn1.train()
    models["main"].conv1.weight.grad = torch.ones_like(models["main"].conv1.weight)
    before, state = copy.deepcopy(models), torch.random.get_rng_state()
    first = measured(models, data, replace(context, progress=counting))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert counting.stages == [("branches", counting.done)]
    assert counting.done == 5 * 4 * 5 + 4 * 37 * 2  # batches of 16 images, steps
    for branch, model in models.items():
        then = before[branch]
        for (key, one), other in zip(model.state_dict().items(), then.state_dict().values(), strict=True):
            assert torch.equal(one, other), key
        assert [m.training for m in model.modules()] == [m.training for m in then.modules()]
        assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in then.parameters()]
    assert torch.equal(models["main"].conv1.weight.grad, torch.ones_like(models["main"].conv1.weight))
    assert models["aux"].conv1.weight.grad is None
    second = measured(models, data, context)
    assert [o.measurement for o in first] == [o.measurement for o in second]


def test_limits(data: ImageSet, context: Context) -> None:
    found = measured(branches("aux"), data, context, replace(TASK, limit=11, attack_limit=7))
    images = {m.metric: m.n for m, _ in found if m.unit == "fraction"}
    assert images == {"accuracy": 11, "mean_accuracy": 11, "robust_accuracy": 7}


def test_the_source_of_the_images_is_settled(data: ImageSet) -> None:
    assert Branches().resolved(data, None).source == "generated"
    with pytest.raises(UserError, match="no published files"):
        Branches(source="official").resolved(data, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": ["gausian_noise"]}, "unknown corruption 'gausian_noise'; did you mean 'gaussian_noise'?"),
        (
            {"epsilon": 8},
            'epsilon: 8 is more than the whole pixel range; allowed for Linf: 0 to 1, for example "8/255"',
        ),
        ({"steps": 0}, "steps: .*greater than or equal to 1"),
        ({"attack_limit": 0}, "attack_limit: .*greater than or equal to 1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"^suite.toml: .*{message}"):
        build(Branches, values, "suite.toml")
