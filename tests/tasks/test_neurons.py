"""Scores of grids that are made by hand, and the grid of a network against straight-line code."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robusteval.corruptions import corrupt
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.tasks.neurons import Neurons, scores
from robusteval.tasks.task import Context
from robusteval.testing import CLASSES, TinyNet

TASK = Neurons(names=("gaussian_noise", "contrast"), severity=4, source="generated")

KNOWN = {
    # classes are rows, nuisances columns: (grid, category neuron, S, I)
    "perfect": ([[1, 1, 1], [0, 0, 0], [0, 0, 0]], True, 1, 1),
    "half invariant": ([[0, 0, 0], [1, 0.5, 0.75], [0, 0, 0]], True, 1, 0.5),
    "half selective": ([[1, 1, 1], [0.5, 0.5, 0.5], [0, 1, 0]], True, (1 - 5 / 12) / (1 + 5 / 12), 1),
    "nuisance": ([[1, 0, 0], [1, 0, 0], [1, 0, 0]], False, 0, 0),
    "as much one as the other": ([[1, 0.5, 0], [0.5, 0, 0], [0, 0, 0]], True, (0.5 - 1 / 12) / (0.5 + 1 / 12), 0),
    "largest where the class is weak": (
        [[1, 0.1, 0.1], [0.9, 0.9, 0.9], [0, 0, 0]],
        True,
        (0.4 - 0.45) / (0.4 + 0.45),
        0.1,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (7.0, 3.0), (0.01, -5.0)])
def test_scores_of_known_grids(name: str, factor: float, offset: float) -> None:
    grid, category, selectivity, invariance = KNOWN[name]
    found = scores(np.array([grid]) * factor + offset)
    assert not found.dead[0]
    assert found.category[0] == category
    assert found.selectivity[0] == pytest.approx(selectivity, abs=1e-9)
    assert found.invariance[0] == pytest.approx(invariance, abs=1e-9)
    assert found.specialisation[0] == pytest.approx(math.sqrt(max(selectivity, 0) * invariance), abs=1e-6)


def test_neurons_are_scored_apart_and_dead_ones_not_at_all() -> None:
    grids = [grid for grid, *_ in KNOWN.values()]
    grids.insert(2, np.full((3, 3), 4.0))
    found = scores(np.array(grids, dtype=np.float64))
    assert found.dead.tolist() == [False, False, True, False, False, False, False]
    assert not found.category[2]
    for values in (found.selectivity, found.invariance, found.specialisation):
        assert np.isnan(values).tolist() == found.dead.tolist()
    expected = [s for _, _, s, _ in KNOWN.values()]
    np.testing.assert_allclose(np.delete(found.selectivity, 2), expected, atol=1e-12)


def test_a_transposed_grid_swaps_the_kinds() -> None:
    draws = np.random.default_rng(0).random((200, 4, 4))
    one, other = scores(draws), scores(draws.transpose(0, 2, 1))
    assert 50 < one.category.sum() < 150
    np.testing.assert_array_equal(one.category, ~other.category)


def network() -> nn.Module:
    """TinyNet; at least one of its 16 neurons is dead."""
    torch.manual_seed(1)
    model = TinyNet().eval()
    model.bn2.running_mean.uniform_(-0.2, 0.2)
    model.bn2.bias.data[3] = -100
    model.frozen.weight.data.zero_()
    model.frozen.bias.data.zero_()
    return model


def grid_of(model: nn.Module, data: ImageSet, seed: int) -> np.ndarray:
    """Mean activations (16, classes, 3), image by image."""
    columns = []
    for name in (None, "gaussian_noise", "contrast"):
        images = data.images
        if name:
            images = corrupt(images, name, 4, seed=seed, index=torch.arange(len(images)))
        with torch.no_grad():
            x = torch.relu(model.bn1(model.bn1(model.conv1(images.float() / 255))))
            x = torch.relu(model.bn2(model.conv2(x))).mean(dim=(2, 3))
        present = sorted(set(data.labels.tolist()))
        columns.append(torch.stack([x[data.labels == label].double().mean(dim=0) for label in present], dim=1))
    return torch.stack(columns, dim=2).numpy()


def measured(models: dict[str, nn.Module], data: ImageSet, context: Context, task: Neurons = TASK):
    found = {}
    for measurement, outcomes in task.measure(models, data, context):
        assert outcomes is None
        assert measurement.where == {
            "branch": measurement.where["branch"],
            "nuisances": "clean gaussian_noise contrast",
            "severity": 4,
            "source": "generated",
        }
        found[measurement.where["branch"], measurement.metric] = measurement
    return found


def test_the_task_scores_the_grid_of_each_branch(data: ImageSet, context: Context) -> None:
    other = network()
    other.bn2.running_mean.neg_()
    models = {"main": network(), "aux": other}
    found = measured(models, data, context)
    assert len(found) == 2 * 5
    for branch, model in models.items():
        grid = scores(grid_of(model, data, context.seed))
        living = int((~grid.dead).sum())
        assert found[branch, "dead_share"].value == 1 - living / 16
        assert found[branch, "category_share"].value == grid.category.sum() / living
        assert 0 < grid.category.sum() < living < 16
        for metric in ("selectivity", "invariance", "specialisation"):
            expected = np.median(getattr(grid, metric)[grid.category])
            assert found[branch, metric].value == pytest.approx(expected, rel=1e-3)
            assert found[branch, metric].unit == "number"
    assert {m.unit for (_, metric), m in found.items() if metric.endswith("share")} == {"fraction"}
    assert {m.n for m in found.values()} == {53}
    assert found["main", "selectivity"].value != found["aux", "selectivity"].value


def test_classes_without_an_image_are_left_out(data: ImageSet, context: Context) -> None:
    few = data.first(4)
    assert len(set(few.labels.tolist())) < CLASSES
    found = measured({"main": network()}, data, context, replace(TASK, limit=4))
    grid = scores(grid_of(network(), few, context.seed))
    assert found["main", "selectivity"].value == pytest.approx(np.median(grid.selectivity[grid.category]), rel=1e-3)
    assert found["main", "selectivity"].n == 4


def test_what_cannot_be_measured_says_so(data: ImageSet, context: Context) -> None:
    found = measured({"main": network()}, data.first(1), context)
    assert {(m.value, m.note) for m in found.values()} == {(None, "the images are all of one class")}
    dead = network()
    nn.init.constant_(dead.bn2.bias, -100)
    found = measured({"main": dead}, data, context)
    assert found["main", "dead_share"].value == 1
    rest = {(m.value, m.note) for (_, metric), m in found.items() if metric != "dead_share"}
    assert rest == {(None, "no neuron is of this kind")}


def test_networks_are_left_as_they_were_and_progress_is_told(data: ImageSet, context: Context, counting: Any) -> None:
    model = network()
    model.bn1.train()
    before, state = copy.deepcopy(model), torch.random.get_rng_state()
    first = measured({"main": model}, data, replace(context, progress=counting))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert counting.stages == [("neurons", counting.done)]
    assert counting.done == 3 * 4
    for (key, one), other in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(one, other), key
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert first == measured({"main": model}, data, context)


def test_a_network_without_finite_logits_is_not_scored(data: ImageSet, context: Context) -> None:
    model = network()
    model.head.bias.data[0] = torch.nan
    with pytest.raises(UserError, match="main: the network's logits are not finite"):
        measured({"main": model}, data, context)


def test_the_source_of_the_images_is_settled(data: ImageSet) -> None:
    assert Neurons().resolved(data, None).source == "generated"
    with pytest.raises(UserError, match="no published files"):
        Neurons(source="official").resolved(data, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": ["gausian_noise"]}, "unknown corruption 'gausian_noise'; did you mean 'gaussian_noise'?"),
        ({"names": ["fog", "fog"]}, "names: one is listed twice"),
        ({"severity": 6}, "severity: .*less than or equal to 5"),
        ({"limit": 0}, "limit: .*greater than or equal to 1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"^suite.toml: .*{message}"):
        build(Neurons, values, "suite.toml")
