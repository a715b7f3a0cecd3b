"""What holds for every task in `TASKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.data.sets import ImageSet
from robusteval.records import Measurement
from robusteval.tasks import (
    TASKS,
    Apgd,
    AttackMatrix,
    AutoAttack,
    BnBank,
    Branches,
    Calibration,
    Clean,
    Context,
    CorruptedAttack,
    Corruption,
    EpsilonCurve,
    Features,
    Fgsm,
    Gradients,
    MinimumNorm,
    Neurons,
    Observation,
    Pgd,
    PyAutoAttack,
    Selection,
    Task,
    Teacher,
    Transfer,
)

SCORES: Mapping[str, Task] = {
    "clean": Clean(),
    "corruption": Corruption(names=("gaussian_noise", "defocus_blur"), severities=(1, 5), source="generated"),
    "fgsm": Fgsm(epsilon=0.01),
    "pgd": Pgd(epsilon=0.01, steps=2, restarts=2, checked=8),
    "apgd": Apgd(epsilon=0.01, steps=3, restarts=2, checked=0),
    "autoattack": AutoAttack(epsilon=0.002, steps=3, queries=5, checked=8),
}
"""One small configuration of each task whose numbers are shares of images that are right."""

_FEW = {"names": ("gaussian_noise",), "source": "generated"}
DIAGNOSTICS: Mapping[str, Task] = {
    "branches": Branches(**_FEW, steps=2, attack_limit=16),
    "bn_bank": BnBank(**_FEW, adapt=(16,), steps=2, attack_limit=16),
    "attack_matrix": AttackMatrix(epsilon=0.01, steps=2),
    "epsilon_curve": EpsilonCurve(epsilons=(0.0, 0.01, 0.02), steps=2),
    "minimum_norm": MinimumNorm(iterations=3, targets=2),
    "corrupted_attack": CorruptedAttack(**_FEW, epsilon=0.01, steps=2),
    "transfer": Transfer(epsilon=0.01, steps=2),
    "calibration": Calibration(**_FEW, bins=5),
    "features": Features(epsilon=0.01, steps=2),
    "gradients": Gradients(epsilon=0.01, steps=2, batch_size=16),
    "neurons": Neurons(**_FEW),
    "selection": Selection(bins=5),
    "teacher": Teacher(**_FEW),
}
"""One small configuration of each other task."""

PACKAGES: Mapping[str, Task] = {"pyautoattack": PyAutoAttack(epsilon=0.01, limit=4)}
"""Other people's code, which is held to less: its outcomes depend on its batches."""

SMALL: Mapping[str, Task] = {**SCORES, **DIAGNOSTICS, **PACKAGES}
NEEDS_A_RUN = {"teacher", "transfer"}
"""Tasks that have nothing to say about a bare checkpoint."""

Network = Callable[[], nn.Module]


def test_every_task_is_tested() -> None:
    assert set(SMALL) == set(TASKS)
    assert all(type(task) is TASKS[name] and task.name == name for name, task in SMALL.items())


def state(model: nn.Module) -> tuple[list[Tensor], list[bool], list[bool], list[Tensor | None]]:
    tensors = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return tensors, [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], grads


def assert_same(now: object, then: object) -> None:
    torch.testing.assert_close(now, then, rtol=0, atol=0)


def run(name: str, network: Network, data: ImageSet, context: Context) -> list[Observation]:
    other = network()
    with torch.no_grad():
        other[5].weight.neg_()
    return list(SMALL[name].measure({"main": network(), "aux": other}, data, context))


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("fails", [False, True])
def test_networks_and_data_are_left_as_they_were(
    name: str, fails: bool, network: Network, data: ImageSet, context: Context
) -> None:
    model = network()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    images, labels, before = data.images.clone(), data.labels.clone(), state(model)
    calls = iter(range(3))

    def fail_at_the_fourth(module: nn.Module, inputs: object) -> None:
        if fails and next(calls, None) is None:
            raise RuntimeError("planned")

    model[5].register_forward_pre_hook(fail_at_the_fourth)
    model.requires_grad_(True)[5].bias.requires_grad_(False)
    if fails:
        with pytest.raises(RuntimeError, match="planned"):
            list(SMALL[name].measure({"main": model}, data, context))
    else:
        list(SMALL[name].measure({"main": model}, data, context))
    for now, then in zip(state(model), before, strict=True):
        assert_same(now, then)
    assert_same([data.images, data.labels], [images, labels])


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_twice_is_the_same(name: str, precision: str, network: Network, data: ImageSet, context: Context) -> None:
    context = replace(context, precision=precision)
    first, second = run(name, network, data, context), run(name, network, data, context)
    assert [o.measurement for o in first] == [o.measurement for o in second]
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.outcomes, two.outcomes)


@pytest.mark.parametrize("name", TASKS)
def test_tasks_draw_nothing_from_the_global_generator(
    name: str, network: Network, data: ImageSet, context: Context
) -> None:
    model = network()
    before = torch.random.get_rng_state()
    list(SMALL[name].measure({"main": model}, data, context))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_diagnostics_leave_networks_and_data_as_they_were(
    name: str, network: Network, data: ImageSet, context: Context
) -> None:
    models = {"main": network(), "aux": network()}
    for model in models.values():
        model[1].eval()
        model[0].weight.grad = torch.ones_like(model[0].weight)
    images, labels, before = data.images.clone(), data.labels.clone(), [state(model) for model in models.values()]
    list(DIAGNOSTICS[name].measure(models, data, context))
    for model, then in zip(models.values(), before, strict=True):
        for one, two in zip(state(model), then, strict=True):
            assert_same(one, two)
    assert_same([data.images, data.labels], [images, labels])


@pytest.mark.parametrize("name", sorted(DIAGNOSTICS.keys() - NEEDS_A_RUN))
def test_diagnostics_say_where_each_number_belongs(
    name: str, network: Network, data: ImageSet, context: Context
) -> None:
    found = [observation.measurement for observation in run(name, network, data, context)]
    places = [(one.metric, tuple(one.where.items())) for one in found]
    assert len(set(places)) == len(places) > 1
    for one in found:
        assert one.task == name
        assert one.n > 0
        assert one.value is not None
        assert one.unit == "number" or 0 <= one.value <= 1
        if one.low is not None and one.high is not None:
            assert one.low <= one.value <= one.high
        assert Measurement.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("limit", [1, 16, 37])
def test_outcomes_do_not_depend_on_how_many_images_follow(
    name: str, limit: int, network: Network, data: ImageSet, context: Context
) -> None:
    whole = run(name, network, data, context)
    for fewer in (
        run(name, network, data.first(limit), context),
        list(replace(SMALL[name], limit=limit).measure({"main": network()}, data, context)),
    ):
        by_place = {tuple(o.measurement.where.items()): o for o in whole}
        for observation in fewer:
            assert observation.measurement.n == limit
            if observation.outcomes is not None:
                full = by_place[tuple(observation.measurement.where.items())].outcomes
                assert full is not None
                np.testing.assert_array_equal(observation.outcomes, full[:limit])


@pytest.mark.parametrize("name", SCORES)
def test_measurements_say_what_the_outcomes_say(name: str, network: Network, data: ImageSet, context: Context) -> None:
    found = run(name, network, data, context)
    places = [tuple(o.measurement.where.items()) for o in found]
    assert len(set(places)) == len(places)
    assert {o.measurement.where["branch"] for o in found} == {"main", "aux"}
    values = set()
    for measurement, outcomes in found:
        assert measurement.task == name
        assert measurement.n == 53
        assert measurement.value is not None
        assert measurement.low is not None
        assert measurement.high is not None
        assert 0 <= measurement.low <= measurement.value <= measurement.high <= 1
        assert measurement.low < measurement.high
        assert Measurement.model_validate_json(measurement.model_dump_json()) == measurement
        values.add(measurement.value)
        if outcomes is not None:
            assert (outcomes.dtype, outcomes.shape) == (np.bool_, (53,))
            assert measurement.value == outcomes.mean()
    assert len(values) > 1  # the branches are different networks


@pytest.mark.parametrize("name", sorted(SMALL.keys() - NEEDS_A_RUN))
def test_progress_ends_at_its_total(
    name: str, network: Network, data: ImageSet, context: Context, counting: Any
) -> None:
    run(name, network, data, replace(context, progress=counting))
    assert [stage for stage, _ in counting.stages] == [name]
    assert counting.done == counting.stages[0][1] > 0


@pytest.mark.parametrize("name", SCORES)
def test_a_network_without_finite_logits_is_not_scored(name: str, data: ImageSet, context: Context) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    with pytest.raises(ValueError, match="main: the network's logits are not finite"):
        list(SMALL[name].measure({"main": model}, data, context))
