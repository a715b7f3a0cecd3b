"""Distances against closed forms and searches run alone; quantile intervals against binomial sums and coverage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from robusteval.attacks.fab import FabSearch
from robusteval.attacks.geometry import distance
from robusteval.attacks.search import Query, run
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.randomness import Stream
from robusteval.stats import t_interval, wilson
from robusteval.tasks import Context, portions
from robusteval.tasks.minimum_norm import QUANTILES, MinimumNorm, nearest_distances, quantile
from robusteval.tasks.predict import to_input
from robusteval.tasks.task import Observation

Line = Callable[[int], nn.Module]
Mutant = Callable[[str, str, str], ModuleType]
Floats = npt.NDArray[np.float64]


def closed_form(model: nn.Module, data: ImageSet, norm: str) -> Floats:
    """The distance of each image from a linear network's boundary; 0 where it is wrong."""
    weight = model.weight.detach().double()
    margin = (1 - 2 * data.labels.double()) * ((data.images.double() / 255 - 0.5).flatten(1) @ weight)
    return (margin / (weight.abs().sum() if norm == "Linf" else weight.norm())).clamp(min=0).numpy()


def searched(task: MinimumNorm, model: nn.Module, data: ImageSet, context: Context) -> Floats:
    searches = task.searches(len(data.classes), Stream.of(context.seed))
    return nearest_distances(model, data, searches, task.norm, context, where="main", key="k").values


def by_metric(found: list[Observation]) -> dict[tuple[object, ...], Observation]:
    return {(o.measurement.metric, o.measurement.where.get("quantile")): o for o in found}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_distances_of_a_linear_network(norm: str, line: Line, grains: ImageSet, context: Context) -> None:
    expected = closed_form(line(0), grains, norm)
    found = searched(build(MinimumNorm, {"norm": norm, "targets": 1}, "test"), line(0), grains, context)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert 5 < (expected == 0).sum() < 30
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    assert (found >= expected * (1 - 1e-4)).all()  # no example is nearer than the nearest


def test_distances_of_a_linear_network_by_the_other_attack(line: Line, grains: ImageSet, context: Context) -> None:
    data = grains.first(30)
    expected = closed_form(line(0), data, "L2")
    found = searched(MinimumNorm(norm="L2", attack="cw", rounds=6, iterations=150), line(0), data, context)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert (found >= expected * (1 - 1e-4)).all()
    assert np.median(found[found > 0] / expected[found > 0]) < 1.05


def check_distribution(task: type[MinimumNorm], line: Line, data: ImageSet, context: Context) -> None:
    expected = closed_form(line(0), data, "Linf")
    chosen = task(norm="Linf", targets=1)
    found = by_metric(list(chosen.measure({"main": line(0)}, data, context)))
    assert len(found) == 2 + len(QUANTILES)
    share, outcomes = found["unbroken_share", None]
    assert (share.value, share.low, share.high) == (0, *wilson(0, 90))
    assert not outcomes.any()
    mean = found["mean_distance", None].measurement
    interval = t_interval(expected)
    assert mean.value == pytest.approx(expected.mean(), rel=1e-3)
    assert (mean.low, mean.high) == pytest.approx(interval, rel=1e-3)
    ordered = np.sort(expected)
    for level in QUANTILES:
        measurement, outcomes = found["distance_quantile", level]
        assert (measurement.unit, measurement.n, outcomes) == ("number", 90, None)
        assert measurement.value == pytest.approx(ordered[math.ceil(90 * level) - 1], rel=1e-3, abs=1e-9)
        low, high = ranks(90, level)
        assert measurement.low == pytest.approx(ordered[low - 1], rel=1e-3, abs=1e-9)
        assert measurement.high == pytest.approx(ordered[high - 1], rel=1e-3)
        assert measurement.note == ""


def ranks(n: int, share: float) -> tuple[int, int]:
    """The ranks, from 1, of the ends: each is passed by the true quantile with at most 2.5 %."""
    chance = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    low = max(k for k in range(n + 1) if sum(chance[:k]) <= 0.025)
    high = min(k for k in range(n + 2) if sum(chance[k:]) <= 0.025)
    return low, high


def test_the_distribution_of_a_linear_network(line: Line, grains: ImageSet, context: Context) -> None:
    check_distribution(MinimumNorm, line, grains, context)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("wrong = ~still_right(", "wrong = still_right("),  # wrong ones are attacked
        ("math.ceil(n * share - 1e-9) - 1", "math.ceil(n * share - 1e-9)"),
        ("ordered[high]) if high < n", "ordered[high - 1]) if high < n"),
        ("ordered[low - 1]) if low", "ordered[low]) if low"),
        ("np.minimum(nearest[nearest > 0], far", "np.maximum(nearest[nearest > 0], far"),
        ("masked_fill(unbroken", "masked_fill(~unbroken"),
        ("distance(portion.x[attacked], made, norm)", "distance(portion.x[attacked], made, 'L2')"),
    ],
)
def test_planted_mistakes_are_found(
    old: str, new: str, line: Line, grains: ImageSet, context: Context, mutant: Mutant
) -> None:
    task = mutant("robusteval.tasks.minimum_norm", old, new).MinimumNorm
    with pytest.raises((AssertionError, KeyError)):
        check_distribution(task, line, grains, context)


def test_the_nearest_of_all_targets_counts(network: Callable[[], nn.Module], data: ImageSet, context: Context) -> None:
    task = MinimumNorm(targets=9, iterations=8)
    x, index = to_input(data.images, context.device), torch.arange(53)
    right = network().eval()(x).argmax(1) == data.labels
    alone = []
    for rank in (1, 2, 3, 4):  # five classes have no more wrong ones
        search = FabSearch("Linf", None, rank, Stream.of(3).at("minimum_norm", rank), 8)
        made = run(search, Query(network().eval()), x, data.labels, index)
        assert (network().eval()(made).argmax(1) != data.labels).all()
        alone.append(distance(x, made, "Linf") * right)
    expected = torch.stack(alone)
    found = searched(task, network(), data, context)
    np.testing.assert_allclose(found, expected.amin(0).numpy(), atol=1e-6)  # merged layers round otherwise
    assert len(set(expected[:, right].argmin(0).tolist())) > 1
    np.testing.assert_allclose(searched(replace(task, targets=1), network(), data, context), alone[0], atol=1e-6)


def test_where_no_example_is_found(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    """It always answers class 2: images of that class have no adversarial example, all others need none."""
    unbroken = (data.labels == 2).numpy()
    assert 0.1 < unbroken.mean() < 0.25
    found = by_metric(list(MinimumNorm(iterations=2).measure({"main": known["constant"]}, data, context)))
    share, outcomes = found["unbroken_share", None]
    np.testing.assert_array_equal(outcomes, unbroken)
    assert share.value == unbroken.mean()
    mean = found["mean_distance", None].measurement
    assert (mean.value, mean.low, mean.n) == (None, None, 53)
    assert mean.note == f"no adversarial example was found of {unbroken.sum()} of 53 images"
    assert [found["distance_quantile", q].measurement.value for q in QUANTILES] == [0, 0, 0, 0, None]
    assert "no adversarial example" in found["distance_quantile", 0.9].measurement.note
    third = found["distance_quantile", 0.75].measurement
    assert (third.low, third.high, third.note) == (0, 0, "")
    few = by_metric(list(MinimumNorm(iterations=2).measure({"main": known["constant"]}, data.first(9), context)))
    third = few["distance_quantile", 0.75].measurement
    assert (third.value, third.low, third.high) == (0, None, None)
    assert third.note == "no interval: its upper end is not among the distances found"


def test_records_say_what_was_done_and_what_it_took(line: Line, grains: ImageSet, context: Context) -> None:
    task = MinimumNorm(norm="L2", targets=2, iterations=5, limit=20)
    found = [o.measurement for o in task.measure({"main": line(0), "aux": line(1)}, grains, context)]
    assert [m.where["branch"] for m in found] == ["main"] * 7 + ["aux"] * 7
    place = {"branch": "main", "attack_branch": "main", "norm": "L2", "attack": "fab", "iterations": 5, "targets": 2}
    assert found[1].where == place
    assert found[2].where == place | {"quantile": 0.1}
    # 15 images, padded to 16; a look at each; 5 gradients and a look, 3 looks to end with; towards two classes.
    assert (closed_form(line(0), grains.first(20), "L2") > 0).sum() == 15
    assert found[0].passes == pytest.approx(2 * 16 * (1 + 5 * 2 + 1 + 3) / 20)
    (cw,) = [m for m, _ in replace(task, attack="cw", rounds=1).measure({"main": line(0)}, grains, context)][1:2]
    assert {key: cw.where.get(key) for key in ("attack", "iterations", "rounds", "targets")} == {
        "attack": "cw",
        "iterations": 5,
        "rounds": 1,
        "targets": None,
    }


@pytest.mark.parametrize("survive", [0, 1, 4])
def test_portions_and_interruptions_change_nothing(
    survive: int,
    network: Callable[[], nn.Module],
    data: ImageSet,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    notes: Any,
    counting: Any,
) -> None:
    task = MinimumNorm(targets=2, iterations=4)
    whole = searched(task, network(), data, context)
    monkeypatch.setattr(portions, "SLOTS", 16)
    monkeypatch.setattr(portions, "FILLS", 2)  # 32 and 21 images, two searches each
    notes.survive = survive
    if survive < 4:
        with pytest.raises(KeyboardInterrupt):
            searched(task, network(), data, replace(context, draft=notes))
    else:
        searched(task, network(), data, replace(context, draft=notes))
    notes.survive = 1000
    again, asked = network(), []
    again.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    found = searched(task, again, data, replace(context, draft=notes, progress=counting))
    np.testing.assert_array_equal(found, whole)
    assert counting.done == 2 * 53 * (4 + 1 + 3)  # iterations, a last look and bisections of two searches
    assert bool(asked) == (survive < 4)


@pytest.mark.parametrize(("n", "share"), [(50, 0.5), (90, 0.1), (200, 0.75), (60, 0.9)])
def test_quantiles_and_their_intervals(n: int, share: float) -> None:
    values = np.arange(1.0, n + 1)
    value, interval = quantile(np.random.default_rng(0).permutation(values), share)
    assert value == math.ceil(n * share)
    low, high = ranks(n, share)
    assert interval == (low, high)
    assert low < value < high


def test_few_values_have_no_upper_end() -> None:
    assert quantile(np.arange(1.0, 21.0), 0.9) == (18, None)  # 0.9^20 is more than 2.5 %
    assert quantile(np.array([0.0]), 0.5) == (0, None)
    value, interval = quantile(np.array([*np.arange(1.0, 40.0), np.inf]), 0.5)
    assert (value, interval) == (20, ranks(40, 0.5))
    assert quantile(np.array([1.0] * 10 + [np.inf] * 10), 0.75) == (None, None)
    assert quantile(np.full(5, 2.0), 0.1)[1] is not None  # the lower end is 0, where no rank is low enough
    assert quantile(np.full(5, 2.0), 0.1)[1].low == 0


@pytest.mark.parametrize(("n", "share"), [(53, 0.25), (100, 0.5), (300, 0.9)])
def test_intervals_cover_the_true_quantile(n: int, share: float) -> None:
    """A third of the values are 0, the rest exponential: what distances look like."""
    rng = np.random.default_rng(1)
    tables = 4000
    values = rng.exponential(size=(tables, n)) * (rng.uniform(size=(tables, n)) > 1 / 3)
    true = max(0.0, -math.log((1 - share) * 1.5)) if share > 1 / 3 else 0.0
    covered = 0
    for row in values:
        _, interval = quantile(row, share)
        assert interval is not None
        covered += interval.low <= true <= interval.high
    assert covered / tables > 0.945
    if true:
        assert covered / tables < 0.98


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UserError, match="norm: cw does not minimise Linf; allowed with it: 'L2'"):
        build(MinimumNorm, {"attack": "cw"}, "suite.toml")
    with pytest.raises(UserError, match=r"attack: .*'fab' or 'cw'"):
        build(MinimumNorm, {"attack": "pgd"}, "suite.toml")


def test_half_precision_of_other_attacks_changes_nothing(
    network: Callable[[], nn.Module], data: ImageSet, context: Context
) -> None:
    task = MinimumNorm(targets=2, iterations=4)
    exact, half = (searched(task, network(), data, replace(context, precision=p)) for p in ("float32", "bfloat16"))
    np.testing.assert_array_equal(half, exact)
