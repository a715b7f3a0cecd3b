"""Student, teacher and the standard network against straight-line code."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robusteval.corruptions import corrupt
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.method import Method, Setting, attached
from robusteval.methods.bn_free import BnFree
from robusteval.methods.counterbalancing_teacher import CounterbalancingTeacher
from robusteval.methods.standard import Standard
from robusteval.models.layers import NORMALIZATIONS
from robusteval.models.resnet import ResNet
from robusteval.options import build
from robusteval.stats import mean_interval, t_interval, wilson
from robusteval.tasks.task import Context, Observation, Origin
from robusteval.tasks.teacher import Teacher
from robusteval.training import Training

TASK = Teacher(names=("gaussian_noise", "contrast"), severities=(2,), source="generated", limit=37)
SETTING = Setting(classes=5, images=53, batch_size=16)


def network(seed: int) -> nn.Module:
    """A small network with two BatchNorm layers in its last stage and statistics of its own."""
    torch.manual_seed(seed)
    model = ResNet(classes=5, normalization=NORMALIZATIONS["cifar10"], widths=(4, 8), blocks=(1, 1), option="B")
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.rand(8, 3, 32, 32))
    return model


def origin_of(method: Method, data: ImageSet, *, siblings: Mapping[str, nn.Module]) -> tuple[Origin, nn.Module | None]:
    """What a run of the method leaves behind, and its teacher."""
    setting, teacher = SETTING, None
    taught_by = method.teacher()
    if taught_by is not None:
        torch.manual_seed(1)
        teacher = taught_by.deploy(taught_by.wrap(network(6), SETTING))
        with torch.no_grad():
            for parameter in teacher.parameters():  # as if it had trained: its blocks are no longer zero
                parameter.add_(0.1 * torch.randn_like(parameter))
        setting = replace(setting, teacher=teacher)
    model = method.wrap(network(7), setting)
    return Origin(method, Training(), model, data, siblings.get), teacher


def setting_of(
    data: ImageSet, context: Context, *, standard: bool = True
) -> tuple[dict[str, nn.Module], Context, dict[str, nn.Module]]:
    """The models to be judged, their context, and the networks that are compared."""
    method = CounterbalancingTeacher()
    siblings = {"standard": network(8).eval()} if standard else {}
    origin, teacher = origin_of(method, data, siblings=siblings)
    assert teacher is not None
    student = method.deploy(origin.model).eval()
    return {"main": student}, replace(context, origin=origin), {"student": student, "teacher": teacher} | siblings


def by_place(found: list[Observation]) -> dict[tuple[str, ...], Observation]:
    places = {(o.measurement.metric, *map(str, o.measurement.where.values())): o for o in found}
    assert len(places) == len(found)
    return places


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    model = copy.deepcopy(model).eval()
    h = model.layer1(model.bn1(model.conv1(model.normalize(images.float() / 255))).relu())
    block = model.layer2[0]
    first = block.bn1(block.conv1(h))
    second = block.bn2(block.conv2(first.relu()))
    return {
        "layer2.0.bn1": first.relu().mean((2, 3)),
        "layer2.0.bn2": second.relu().mean((2, 3)),
        "penultimate": (second + block.shortcut(h)).relu().mean((2, 3)),
    }


def test_features_are_compared_with_those_of_the_teacher(data: ImageSet, context: Context) -> None:
    models, context, networks = setting_of(data, context)
    found = by_place(list(TASK.measure(models, data, context)))
    theirs = features(networks["teacher"], data.images[:37])
    for name in ("student", "standard"):
        for layer, mine in features(networks[name], data.images[:37]).items():
            lengths = ((mine - theirs[layer]).double() ** 2).sum(1).sqrt()
            cosines = (mine * theirs[layer]).sum(1) / (mine.norm(dim=1) * theirs[layer].norm(dim=1))
            for metric, values in (("feature_distance", lengths), ("feature_cosine", cosines)):
                measurement, outcomes = found[metric, "main", name, layer]
                assert measurement.value == pytest.approx(float(values.mean()), rel=1e-4)
                interval = t_interval(values.numpy())
                assert interval is not None
                assert (measurement.low, measurement.high) == pytest.approx(interval, rel=1e-3)
                assert (measurement.n, measurement.unit, outcomes) == (37, "number", None)
                assert tuple(measurement.where) == ("branch", "network", "layer")
    assert sum(metric == "feature_distance" for metric, *_ in found) == 6
    distance = found["feature_distance", "main", "student", "penultimate"].measurement.value
    assert distance is not None
    assert distance > 0.1


def test_accuracies_in_and_out_of_domain(data: ImageSet, context: Context) -> None:
    models, context, networks = setting_of(data, context)
    found = list(TASK.measure(models, data, context))
    rows = [(m, right) for m, right in found if m.metric == "accuracy"]
    assert len(rows) == 3 * 3
    index, scores = torch.arange(37), {}
    for measurement, right in rows:
        where = measurement.where
        images = data.images[:37]
        if where["images"] != "clean":
            assert (where["severity"], where["source"]) == (2, "generated")
            images = corrupt(images, str(where["images"]), 2, seed=context.seed, index=index)
        model = copy.deepcopy(networks[str(where["network"])]).eval()
        with torch.no_grad():
            expected = (model(images.float() / 255).argmax(1) == data.labels[:37]).numpy()
        np.testing.assert_array_equal(right, expected)
        assert measurement.value == expected.mean()
        assert (measurement.low, measurement.high) == wilson(int(expected.sum()), 37)
        scores[where["network"], where["images"]] = expected
    for measurement, outcomes in found:
        if measurement.metric == "mean_accuracy":
            name = measurement.where["network"]
            both = (scores[name, "gaussian_noise"].astype(float) + scores[name, "contrast"]) / 2
            assert measurement.value == pytest.approx(both.mean())
            assert (measurement.low, measurement.high) == pytest.approx(mean_interval(both))
            assert outcomes is None
            assert measurement.where["corruptions"] == 2
    assert sum(m.metric == "mean_accuracy" for m, _ in found) == 3


def test_weights_are_compared_with_those_of_the_standard_network(data: ImageSet, context: Context) -> None:
    models, context, networks = setting_of(data, context)
    with torch.no_grad():
        networks["standard"].linear.weight.zero_()
    found = by_place(list(TASK.measure(models, data, context)))
    mine, theirs = networks["student"], networks["standard"]
    layers = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.shortcut.0"]
    squares = [0.0, 0.0]
    for layer in [*layers, "linear"]:
        a, b = (dict(net.named_parameters())[f"{layer}.weight"].detach() for net in (mine, theirs))
        distance, length = float(((a - b) ** 2).sum().sqrt()), float((b**2).sum().sqrt())
        squares[0], squares[1] = squares[0] + distance**2, squares[1] + length**2
        measured = found["weight_distance", "main", "standard", layer].measurement
        relative = found["relative_weight_distance", "main", "standard", layer].measurement
        assert measured.value == pytest.approx(distance, rel=1e-5)
        assert (measured.unit, relative.unit) == ("number", "number")
        if layer == "linear":
            assert (relative.value, relative.note) == (None, "the standard network's weights are zero")
        else:
            assert relative.value == pytest.approx(distance / length, rel=1e-5)
    whole = found["weight_distance", "main", "standard", "7"].measurement
    assert whole.value == pytest.approx(squares[0] ** 0.5, rel=1e-5)
    assert whole.where["layers"] == 7
    assert found["relative_weight_distance", "main", "standard", "7"].measurement.value == pytest.approx(
        (squares[0] / squares[1]) ** 0.5, rel=1e-5
    )
    assert sum(metric == "weight_distance" for metric, *_ in found) == 8


def test_without_a_standard_run_the_rest_is_measured(data: ImageSet, context: Context) -> None:
    models, context, _ = setting_of(data, context, standard=False)
    found = list(TASK.measure(models, data, context))
    missing = [m for m, _ in found if m.value is None]
    assert [(m.metric, m.unit, m.n) for m in missing] == [("accuracy", "fraction", 0), ("weight_distance", "number", 0)]
    assert all("no run of method standard" in m.note for m in missing)
    networks = {m.where.get("network") for m, _ in found if m.value is not None}
    assert networks == {"student", "teacher"}


def test_everything_is_left_as_it_was_and_twice_is_the_same(data: ImageSet, context: Context) -> None:
    models, context, networks = setting_of(data, context)
    assert context.origin is not None
    model = context.origin.model
    before = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    first, second = list(TASK.measure(models, data, context)), list(TASK.measure(models, data, context))
    assert [m for m, _ in first] == [m for m, _ in second]
    assert [m.training for m in model.modules()] == flags
    assert not any(m.training for m in attached(model, "teacher").modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for net in (model, *networks.values()) for p in net.parameters())
    assert not networks["student"]._forward_hooks


def test_progress_ends_at_its_total(data: ImageSet, context: Context, counting: Any) -> None:
    models, context, _ = setting_of(data, context)
    list(TASK.measure(models, data, replace(context, progress=counting)))
    assert counting.stages == [("teacher", 4 * 3)]
    assert counting.done == 12


@pytest.mark.parametrize("method", [Standard(), BnFree()])
def test_methods_without_a_teacher_are_not_measured(method: Method, data: ImageSet, context: Context) -> None:
    origin, _ = origin_of(method, data, siblings={})
    models = {"main": method.deploy(origin.model)}
    assert list(TASK.measure(models, data, replace(context, origin=origin))) == []
    assert list(TASK.measure(models, data, context)) == []


def test_options() -> None:
    assert Teacher(names=("fog",), severities=(1, 5)).limit == 500
    with pytest.raises(UserError, match=r"fogg.*did you mean 'fog'"):
        build(Teacher, {"names": ["fogg"]}, "suite.toml")
    with pytest.raises((ValidationError, UserError), match="listed twice"):
        Teacher(names=("fog", "fog"))
