"""Auto-PGD and AutoAttack as tasks: what they are made of, known scores, what their records say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks.apgd import ApgdSearch, Target
from robusteval.attacks.fab import FabSearch
from robusteval.attacks.pgd import PgdSearch
from robusteval.attacks.search import Threat
from robusteval.attacks.square import SquareSearch
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.losses import cross_entropy, logit_ratio
from robusteval.options import build
from robusteval.records import Measurement
from robusteval.tasks import (
    Apgd,
    AutoAttack,
    Clean,
    Context,
    CorruptedAttack,
    EpsilonCurve,
    Fgsm,
    Outcomes,
    Pgd,
    Task,
    portions,
    robust,
)
from robusteval.tasks.predict import to_input
from robusteval.tasks.withstand import Stage, Stand, withstand

FEW = {"steps": 10, "queries": 60}


def measured(task: Task, model: nn.Module, data: ImageSet, context: Context) -> tuple[Measurement, Outcomes]:
    if not isinstance(task, Clean):
        task = replace(task, checked=0)
    (found,) = task.measure({"main": model}, data, context)
    assert found.outcomes is not None
    assert found.measurement.value == found.outcomes.mean()
    return found.measurement, found.outcomes


@pytest.fixture
def linear(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> tuple[nn.Module, ImageSet, Tensor]:
    """A linear network of which two classes matter, its images, and their distance from the boundary in Linf.

    Pixels keep a distance of 0.15 to the box, save the first, whose weight is set to 0.
    """
    model = known["linear"]
    weight = model.patterns.data
    weight[:, 0] = 0
    model.register_forward_hook(lambda module, inputs, logits: logits - torch.tensor([0.0, 0, 99, 99, 99]))
    two = data.labels < 2
    data = replace(data, images=data.images[two], labels=data.labels[two])
    apart = (weight[0] - weight[1]).double()
    margin = (1 - 2 * data.labels.double()) * (
        (to_input(data.images, context.device).flatten(1).double() - 0.5) @ apart
    )
    return model, data, margin / apart.abs().sum()


@pytest.mark.parametrize(
    "task",
    [
        lambda e: Fgsm(epsilon=e),
        lambda e: Apgd(epsilon=e, steps=12),
        lambda e: Apgd(epsilon=e, steps=12, loss="dlr"),
        lambda e: Apgd(epsilon=e, steps=12, loss="targeted", restarts=2),
        lambda e: AutoAttack(epsilon=e, attacks=("fab-t",), steps=50),
        lambda e: AutoAttack(epsilon=e, **FEW),
    ],
)
def test_robust_accuracy_of_a_linear_network(
    task: Callable[[float], Task], linear: tuple[nn.Module, ImageSet, Tensor], context: Context
) -> None:
    """FAB overshoots by up to a percent: it answers for the images that are not that near to the radius."""
    model, data, radius = linear
    alone = getattr(task(0.1), "attacks", ()) == ("fab-t",)
    ranked = radius.sort().values
    for place in (5, 10, 15):
        epsilon = float(ranked[place : place + 2].mean())
        _, found = measured(task(epsilon), model, data, context)
        clear = ((radius / epsilon - 1).abs() > 0.01 * alone).numpy()
        assert clear.sum() >= 12
        np.testing.assert_array_equal(found[clear], (radius > epsilon).numpy()[clear])


def test_no_radius_is_clean_and_the_whole_range_leaves_nothing(
    network: Callable[[], nn.Module], known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    _, clean = measured(Clean(), network(), data, context)
    assert 0 < clean.sum() < 53
    for task in (Fgsm(epsilon=0.0), Apgd(epsilon=0.0, steps=3), AutoAttack(epsilon=0.0, **FEW)):
        np.testing.assert_array_equal(measured(task, network(), data, context)[1], clean)
    for task in (Apgd(epsilon=1.0, steps=10), AutoAttack(epsilon=1.0, **FEW)):
        assert not measured(task, known["linear"], data, context)[1].any()


def test_square_breaks_what_has_no_gradient(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    """A label that is read from a rounded pixel: only a search without gradients gets at it."""
    blind = AutoAttack(epsilon=22 / 255, attacks=("apgd-ce", "apgd-t"), steps=3)
    assert measured(blind, known["reads"], data, context)[1].mean() > 0.5
    found, left = measured(
        AutoAttack(epsilon=22 / 255, attacks=("apgd-ce", "square"), steps=3, queries=200), known["reads"], data, context
    )
    assert left.mean() < 0.3
    assert found.note.startswith("still right: ")
    assert found.note.endswith(f", {left.sum()} after square")


def test_the_standard_ensemble_is_what_its_paper_says(
    data: ImageSet, context: Context, network: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Stage] = []

    def kept(target: object, data: ImageSet, stages: list[Stage], *rest: object, **more: object) -> Stand:
        made.extend(stages)
        nothing = np.zeros(len(data.labels), dtype=np.bool_)
        return Stand(nothing, nothing, {stage.name: nothing for stage in stages}, torch.empty(0), {})

    monkeypatch.setattr(robust, "withstand", kept)
    ten = replace(data, classes=tuple("abcdefghijk"))  # eleven: one more than nine targets need
    found, _ = measured(AutoAttack(epsilon="8/255"), network(), ten, context)
    assert found.where == {
        "branch": "main",
        "attack_branch": "main",
        "norm": "Linf",
        "epsilon": "8/255",
        "attack": "standard",
    }
    assert [stage.name for stage in made] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert [stage.exact for stage in made] == [False, False, True, False]
    (first,), targeted, fab, (last,) = ((stage.search, *stage.then) for stage in made)
    threat = Threat("Linf", 8 / 255)
    assert isinstance(first, ApgdSearch)
    assert (first.threat, first.iterations, first.loss) == (threat, 100, cross_entropy)
    assert (len(targeted), len(fab)) == (9, 9)
    for rank, search in enumerate(targeted, 1):
        assert isinstance(search, ApgdSearch)
        assert (search.threat, search.iterations, search.loss) == (threat, 100, Target(rank))
    for rank, search in enumerate(fab, 1):
        assert isinstance(search, FabSearch)
        assert (search.norm, search.epsilon, search.rank) == ("Linf", 8 / 255, rank)
        assert (search.iterations, search.restarts, search.bisections) == (100, 1, 0)
    assert isinstance(last, SquareSearch)
    assert (last.threat, last.steps, last.p) == (threat, 5000, 0.8)
    draws = [search.rng.key for search in (first, *targeted, *fab, last)]
    assert len(set(draws)) == 20

    made.clear()
    found, _ = measured(AutoAttack(epsilon="8/255", steps=50), network(), data, context)
    assert found.where["attack"] == "apgd-ce apgd-t fab-t square"
    assert (found.where["steps"], found.where["queries"]) == (50, 5000)
    assert [1 + len(stage.then) for stage in made] == [1, 4, 4, 1]  # five classes have four wrong ones

    made.clear()
    measured(Apgd(loss="dlr", restarts=3, steps=7), network(), data, context)
    assert [stage.name for stage in made] == ["apgd-dlr"]
    restarts = (made[0].search, *made[0].then)
    assert all(isinstance(search, ApgdSearch) and search.loss is logit_ratio for search in restarts)
    assert len({search.rng.key for search in restarts}) == 3


def test_all_restarts_are_counted(network: Callable[[], nn.Module], data: ImageSet, context: Context) -> None:
    one, all_of_them = (
        measured(Apgd(epsilon=0.02, steps=2, restarts=restarts), network(), data, context)[1] for restarts in (1, 6)
    )
    assert all_of_them.sum() <= one.sum()
    assert not (all_of_them & ~one).any()


@pytest.mark.parametrize("batch_size", [16, 64, 250])
def test_outcomes_do_not_depend_on_batches_or_shards(
    batch_size: int, network: Callable[[], nn.Module], data: ImageSet, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = network(), AutoAttack(epsilon=0.002, steps=3, queries=20)
    _, expected = measured(task, model, data, replace(context, batch_size=100))
    assert 0 < expected.sum() < 53
    monkeypatch.setattr(portions, "SLOTS", batch_size)
    monkeypatch.setattr(portions, "FILLS", 1)  # portions are shards
    _, found = measured(task, model, data, replace(context, batch_size=batch_size))
    np.testing.assert_array_equal(found, expected)


def test_too_few_classes_are_refused(network: Callable[[], nn.Module], data: ImageSet, context: Context) -> None:
    three = replace(data, classes=("a", "b", "c"))
    with pytest.raises(UserError, match=r"^apgd-t: the data have 3 classes; allowed: 4 or more, or another attack$"):
        list(Apgd(loss="targeted").measure({"main": network()}, three, context))


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (Apgd, {"epsilon": 8}, "epsilon: 8 is more than the whole pixel range"),
        (Fgsm, {"epsilon": 8}, "epsilon: 8 is more than the whole pixel range"),
        (AutoAttack, {"epsilon": 8}, "epsilon: 8 is more than the whole pixel range"),
        (AutoAttack, {"attacks": ["square", "square"]}, "attacks: one is listed twice; allowed: each once"),
        (AutoAttack, {"attacks": []}, "attacks: .*at least 1"),
        (AutoAttack, {"attacks": ["fab"]}, "attacks.0: .*'fab-t'"),
        (Apgd, {"loss": "margin"}, "loss: .*'ce', 'dlr' or 'targeted'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(cls: type[Task], values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(cls, values, "suite")


def test_the_strong_attack_is_no_weaker_than_pgd(
    network: Callable[[], nn.Module], data: ImageSet, context: Context
) -> None:
    model = network()
    _, pgd = measured(Pgd(epsilon=0.01, step=0.0025), model, data, context)
    _, strong = measured(AutoAttack(epsilon=0.01, steps=20, queries=100), model, data, context)
    assert strong.sum() <= pgd.sum()


@pytest.mark.parametrize(
    "task",
    [
        Apgd(epsilon=0.1015, steps=20),
        Apgd(epsilon=0.1015, steps=20, loss="targeted"),
        AutoAttack(epsilon=0.1015, attacks=("apgd-ce", "apgd-t"), steps=20),
        AutoAttack(epsilon=0.1015, attacks=("apgd-ce", "fab-t"), steps=20),
        AutoAttack(epsilon=0.1015, attacks=("fab-t",), steps=50),
        AutoAttack(epsilon=0.1015, attacks=("apgd-ce", "square"), steps=20, queries=20),
        Pgd(epsilon=0.0, steps=3),
        AutoAttack(epsilon=0.0, steps=3, queries=5),
    ],
    ids=["ce", "targeted", "ce+t", "ce+fab", "fab", "ce+square", "pgd 0", "autoattack 0"],
)
def test_an_honest_network_raises_no_doubt(
    task: Task, known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    (found,) = task.measure({"main": known["linear"]}, data, context)
    assert [str(reason) for reason in found.measurement.reasons if reason.level == "doubt"] == []
    assert found.measurement.trust == "ok"
    assert 0 < found.measurement.value < 1 or task.epsilon == 0


def test_an_attack_without_gradients_is_told_by_one_with_them(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    task = AutoAttack(epsilon=0.105, attacks=("square",), queries=5)
    (found,) = task.measure({"main": known["linear"]}, data, context)
    assert found.measurement.trust == "flagged"
    assert "white-box" in {reason.name for reason in found.measurement.reasons}


def test_the_kept_example_is_the_one_nearest_to_a_mistake(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    model, threat = known["linear"], Threat("Linf", 0.07)
    strong, weak = (Stage(name, PgdSearch(threat, 0.03, n, None)) for name, n in (("strong", 10), ("weak", 1)))
    kept = {}
    for stages in ([strong], [weak], [strong, weak]):
        stand = withstand(model, data, stages, threat, context, where="", key="k", keep=53)
        np.testing.assert_array_equal(stand.robust, stand.clean)
        kept[tuple(stage.name for stage in stages)] = stand.examples
    assert torch.equal(kept["strong", "weak"], kept[("strong",)])
    assert not torch.equal(kept[("weak",)], kept[("strong",)])


def test_a_limit_outside_the_task_is_remarked_as_one_inside(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    for task, images in ((Pgd(limit=20, checked=9), data), (Pgd(checked=9), data.first(20))):
        (found,) = task.measure({"main": known["linear"]}, images, context)
        assert "subset: 20 of 53 images" in {str(reason) for reason in found.measurement.reasons}


@pytest.mark.parametrize("task", [Pgd(loss="dlr"), EpsilonCurve(loss="dlr"), CorruptedAttack(loss="dlr")])
def test_a_loss_that_needs_three_classes_says_so(
    task: Task, network: Callable[[], nn.Module], data: ImageSet, context: Context
) -> None:
    two = replace(data, classes=("a", "b"), labels=data.labels % 2)
    with pytest.raises(UserError, match=f"^{task.name}: loss: 'dlr' needs 3 classes, the data have 2; allowed: "):
        list(task.measure({"main": network()}, two, context))
