"""Statistics of the bank, precise ones and adapted ones, each against networks whose buffers are written by hand."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robusteval.branches import MAIN, add_branches
from robusteval.corruptions import corrupt
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.methods.advprop import AdvProp
from robusteval.methods.standard import Standard
from robusteval.options import build
from robusteval.randomness import Stream
from robusteval.shadow import ShadowBank, add_bank, bank_of
from robusteval.stats import mean_interval
from robusteval.tasks.adversarial import Pgd
from robusteval.tasks.bn_bank import BnBank, _reestimated
from robusteval.tasks.clean import Clean
from robusteval.tasks.corruption import Corruption
from robusteval.tasks.task import Context, Origin
from robusteval.testing import CLASSES, TinyNet
from robusteval.training import Training

TASK = BnBank(
    names=("gaussian_noise", "brightness"),
    severities=(1, 2),
    source="generated",
    adapt=(5, 30),
    precise_batches=2,
    steps=2,
    attack_limit=16,
)
CONDITIONS = [("clean", None), ("gaussian_noise", 1), ("gaussian_noise", 2), ("brightness", 1), ("brightness", 2)]


class Pixels(TinyNet):
    """TinyNet whose head sees single pixels, so that its answers differ from image to image without training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16 * 16 * 16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.again(self.bn1(self.conv1(x))))
        return self.head(torch.relu(self.bn2(self.conv2(x))).flatten(1))


@functools.cache
def started() -> nn.Module:
    """A network with statistics of other images than the tests', and logits that are 0 on average."""
    torch.manual_seed(4)
    model = Pixels().train()
    x = torch.rand(100, 3, 32, 32)
    with torch.no_grad():
        for _ in range(20):
            model(x)
        model.eval().head.bias.sub_(model(x).mean(dim=0))
    return model


def network() -> nn.Module:
    return copy.deepcopy(started())


def with_statistics(model: nn.Module, statistics) -> nn.Module:
    """A copy with these (mean, var) by layer."""
    other = copy.deepcopy(model)
    for layer, (mean, var) in statistics.items():
        other.get_submodule(layer).running_mean.copy_(mean)
        other.get_submodule(layer).running_var.copy_(var)
    return other


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=True)


def statistics_of(model: nn.Module, batches):
    """The mean over batches of what TinyNet's layers see in train mode, written out; bn1 counts both of its uses."""
    first, second = [], []
    for x in batches:
        a = model.conv1(x)
        first.append(moments(a))
        b = F.batch_norm(a, None, None, model.bn1.weight, model.bn1.bias, training=True)
        first.append(moments(b))
        c = F.relu(F.batch_norm(b, None, None, model.bn1.weight, model.bn1.bias, training=True))
        second.append(moments(model.conv2(c)))
    return {
        layer: tuple(torch.stack(kind).mean(dim=0).detach() for kind in zip(*found, strict=True))
        for layer, found in (("bn1", first), ("bn2", second))
    }


@pytest.fixture
def origin(data: ImageSet) -> Origin:
    """A model whose bank holds two momenta, and 45 training images in batches of 20."""
    model = network()
    add_bank(model, (0.5, 0.01))
    for buffer in bank_of(model).buffers():
        buffer.mul_(torch.empty_like(buffer).uniform_(0.8, 1.25))
    train = replace(data.first(45), split="train", images=255 - data.images[:45] // 2)
    return Origin(Standard(), Training(batch_size=20), model, train, lambda _: None)


@pytest.fixture
def judged(context: Context, origin: Origin) -> Context:
    return replace(context, origin=origin)


def measured(task: BnBank, data: ImageSet, context: Context, model: nn.Module | None = None):
    """Observations by (statistics, momentum, n, images, severity), with "mean" or "pgd" last where those are meant."""
    found = {}
    for observation in task.measure({MAIN: network() if model is None else model}, data, context):
        where = observation.measurement.where
        rest = ("pgd",) if "norm" in where else ("mean",)
        if "images" in where:
            rest = (where["images"], where.get("severity"))
        key = (where["statistics"], where.get("momentum"), where.get("n"), *rest)
        assert key not in found
        found[key] = observation
    return found


def plain_outcomes(model: nn.Module, data: ImageSet, context: Context, image: str, severity: int | None):
    """Outcomes of a network with fixed statistics, by the tasks that measure nothing else."""
    if image == "clean":
        (found,) = Clean().measure({MAIN: model}, data, context)
    else:
        task = Corruption(names=(image,), severities=(severity,), source="generated")
        found, _ = task.measure({MAIN: model}, data, context)
    return found.outcomes


def test_every_statistics_gives_the_outcomes_of_a_network_that_has_it(
    data: ImageSet, judged: Context, origin: Origin
) -> None:
    found = measured(TASK, data, judged)
    bank = bank_of(origin.model)
    expected = {("own", None, None): network()}
    for momentum in (0.5, 0.01):
        expected["moving", momentum, None] = with_statistics(network(), bank.statistics(momentum))
    order = Stream.of(judged.seed).at("bn_bank").permutation(45)
    batches = [origin.data.images[order[i : i + 20]].float() / 255 for i in (0, 20)]
    expected["precise", None, 40] = with_statistics(network(), statistics_of(network(), batches))
    assert len(found) == 6 * 5 + 6 + 6
    different = set()
    for image, severity in CONDITIONS:
        images = data.images
        if severity:
            images = corrupt(images, image, severity, seed=judged.seed, index=torch.arange(53))
        for n in (5, 30):
            adapted = statistics_of(network(), [images[:n].float() / 255])
            expected["adapted", None, n] = with_statistics(network(), adapted)
        for kind, model in expected.items():
            outcomes = plain_outcomes(model, data, judged, image, severity)
            np.testing.assert_array_equal(found[(*kind, image, severity)].outcomes, outcomes)
            different.add(outcomes.tobytes())
            if image == "clean":
                (attacked,) = Pgd(steps=2, limit=16).measure({MAIN: model}, data, judged)
                np.testing.assert_array_equal(found[(*kind, "pgd")].outcomes, attacked.outcomes)
                assert found[(*kind, "pgd")].measurement.metric == "robust_accuracy"
    assert len(different) > 20  # the statistics matter


def test_reestimated_statistics_are_plain_means(data: ImageSet) -> None:
    model = network()
    batches = [data.images[start : start + 17].float() / 255 for start in (0, 17, 34)]
    other = _reestimated(model, batches)
    for layer, (mean, var) in statistics_of(model, batches).items():
        torch.testing.assert_close(other.get_submodule(layer).running_mean, mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other.get_submodule(layer).running_var, var, rtol=1e-5, atol=1e-6)
    assert other.head.weight is model.head.weight
    assert not any(module.training for module in other.modules())


def test_only_batchnorm_is_in_train_mode_while_statistics_are_estimated() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3)).eval()
    x = torch.rand(8, 3, 4, 4)
    torch.testing.assert_close(_reestimated(model, [x])[1].running_mean, x.mean(dim=(0, 2, 3)))


def test_the_runs_own_momentum_gives_its_ordinary_accuracy(data: ImageSet, judged: Context) -> None:
    model = network()
    bank = ShadowBank(model, (0.1,))
    origin = replace(judged.origin, model=nn.Module())
    origin.model.training_only = nn.ModuleDict({"shadow": bank})
    found = measured(TASK, data, replace(judged, origin=origin))
    for image, severity in CONDITIONS:
        own, moving = found["own", None, None, image, severity], found["moving", 0.1, None, image, severity]
        np.testing.assert_array_equal(own.outcomes, moving.outcomes)
        np.testing.assert_array_equal(own.outcomes, plain_outcomes(network(), data, judged, image, severity))


def test_the_mean_is_over_corruptions_with_images_as_units(data: ImageSet, judged: Context) -> None:
    found = measured(TASK, data, judged)
    kind = ("adapted", None, 30)
    scores = np.mean([found[(*kind, image, severity)].outcomes for image, severity in CONDITIONS[1:]], axis=0)
    mean = found[(*kind, "mean")].measurement
    assert mean.value == pytest.approx(scores.mean(), abs=1e-12)
    assert (mean.low, mean.high) == pytest.approx(mean_interval(scores), abs=1e-12)
    assert (mean.metric, mean.n) == ("mean_accuracy", 53)
    assert mean.where == {
        "branch": "main",
        "statistics": "adapted",
        "n": 30,
        "corruptions": 2,
        "severities": 2,
        "names": "gaussian_noise brightness",
        "source": "generated",
    }


def test_records_say_where_they_were_taken(data: ImageSet, judged: Context) -> None:
    found = measured(TASK, data, judged)
    cell = found["moving", 0.5, None, "brightness", 2].measurement
    assert cell.where == {
        "branch": "main",
        "statistics": "moving",
        "momentum": 0.5,
        "images": "brightness",
        "severity": 2,
        "source": "generated",
        "generator": "1",
        "table": "cifar",
        "seed": 3,
    }
    assert (cell.task, cell.metric, cell.unit, cell.n) == ("bn_bank", "accuracy", "fraction", 53)
    assert cell.low < cell.value < cell.high


def test_the_deployed_branch_has_its_own_statistics(data: ImageSet, context: Context) -> None:
    method = AdvProp()
    model = network()
    add_branches(model, ["aux"])
    model.bn1.aux_bn["aux"].running_mean.add_(0.2)
    add_bank(model, (0.5,))
    for buffer in bank_of(model).buffers():
        buffer.mul_(torch.empty_like(buffer).uniform_(0.8, 1.25))
    models = {branch: method.deploy(model, branch) for branch in method.branches}
    origin = Origin(method, Training(batch_size=20), model, data, lambda _: None)
    context = replace(context, origin=origin, deployed="aux")
    for observation in TASK.measure(models, data, context):
        where = observation.measurement.where
        assert where["branch"] == "aux"
        if where["statistics"] == "own" and where.get("images") == "clean":
            outcomes = plain_outcomes(models["aux"], data, context, "clean", None)
            np.testing.assert_array_equal(observation.outcomes, outcomes)
            assert (outcomes != plain_outcomes(models["main"], data, context, "clean", None)).any()
        if where["statistics"] == "moving" and where.get("images") == "clean":
            expected = with_statistics(models["aux"], bank_of(model).statistics(0.5, "aux"))
            np.testing.assert_array_equal(observation.outcomes, plain_outcomes(expected, data, context, "clean", None))


def kinds(found) -> set[str]:
    return {key[0] for key in found}


def test_what_there_is_not_is_not_measured(data: ImageSet, judged: Context, context: Context) -> None:
    assert kinds(measured(TASK, data, context)) == {"own", "adapted"}
    bare = replace(judged.origin, model=network())
    assert kinds(measured(TASK, data, replace(judged, origin=bare))) == {"own", "adapted", "precise"}
    for averaging in (Training(batch_size=20, ema=0.9), Training(batch_size=20, swa_start=0.5)):
        averaged = replace(judged.origin, training=averaging)
        assert kinds(measured(TASK, data, replace(judged, origin=averaged))) == {"own", "adapted", "precise"}
    assert measured(TASK, data, judged, nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))) == {}


def test_limits(data: ImageSet, judged: Context) -> None:
    whole = measured(TASK, data, judged)
    few = measured(replace(TASK, limit=11), data, judged)
    assert few.keys() == whole.keys()  # 30 images are adapted to, 11 judged
    for key, observation in few.items():
        if key[-1] == "pgd":
            assert observation.measurement.n == 16
            continue
        assert observation.measurement.n == 11
        if observation.outcomes is not None:
            np.testing.assert_array_equal(observation.outcomes, whole[key].outcomes[:11])
    small = measured(TASK, data.first(20), judged)
    assert {key[2] for key in small if key[0] == "adapted"} == {5}
    assert {key[2] for key in measured(replace(TASK, precise_batches=9), data, judged) if key[0] == "precise"} == {40}
    assert {key[2] for key in measured(replace(TASK, precise_batches=1), data, judged) if key[0] == "precise"} == {20}
    assert "adapted" not in kinds(measured(replace(TASK, adapt=(), limit=5), data, judged))


def test_networks_are_left_as_they_were_and_progress_is_told(data: ImageSet, judged: Context, counting: Any) -> None:
    model = network()
    model.bn1.train()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    before = copy.deepcopy(model)
    bank = copy.deepcopy(bank_of(judged.origin.model).state_dict())
    state = torch.random.get_rng_state()
    first = measured(TASK, data, replace(judged, progress=counting), model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert counting.stages == [("bn_bank", counting.done)]
    assert counting.done == (2 + 5 * 4) * 5 + 6 * 16 * TASK.steps  # batches of 16 images, steps
    for (key, one), other in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(one, other), key
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert torch.equal(model.conv1.weight.grad, torch.ones_like(model.conv1.weight))
    assert all(torch.equal(value, bank[key]) for key, value in bank_of(judged.origin.model).state_dict().items())
    second = measured(TASK, data, judged, model)
    assert [o.measurement for o in first.values()] == [o.measurement for o in second.values()]


def test_the_source_of_the_images_is_settled(data: ImageSet) -> None:
    assert BnBank().resolved(data, None).source == "generated"
    with pytest.raises(UserError, match="no published files"):
        BnBank(source="official").resolved(data, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": ["gausian_noise"]}, "unknown corruption 'gausian_noise'; did you mean 'gaussian_noise'?"),
        ({"severities": [3, 3]}, "severities: one is listed twice"),
        ({"severities": [6]}, "less than or equal to 5"),
        ({"adapt": [16, 16]}, "adapt: one is listed twice"),
        ({"adapt": [1]}, "adapt.0: .*greater than or equal to 2"),
        ({"precise_batches": 0}, "precise_batches: .*greater than or equal to 1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"^suite.toml: .*{message}"):
        build(BnBank, values, "suite.toml")
