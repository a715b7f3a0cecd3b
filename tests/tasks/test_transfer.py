"""Attacks through other methods' networks: closed forms, missing runs, drafts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.methods.standard import Standard
from robusteval.options import build
from robusteval.tasks import Context, Observation
from robusteval.tasks.attack_matrix import AttackMatrix
from robusteval.tasks.task import Origin
from robusteval.tasks.transfer import Transfer
from robusteval.training import Training

Line = Callable[[int], nn.Module]
Mutant = Callable[[str, str, str], ModuleType]
EPSILON = 0.006
TASK = Transfer(epsilon=EPSILON, step=EPSILON / 2, steps=10)


def beside(context: Context, data: ImageSet, siblings: Mapping[str, nn.Module]) -> Context:
    """The context of a run whose folder has such networks of other methods."""
    return replace(context, origin=Origin(Standard(), Training(), nn.Module(), data, siblings.get))


def by_place(found: list[Observation]) -> dict[tuple[str, str], Observation]:
    places = {(str(o.measurement.where["made_on"]), str(o.measurement.where["branch"])): o for o in found}
    assert len(places) == len(found)
    return places


def check(task: type[Transfer], line: Line, data: ImageSet, context: Context) -> None:
    models, siblings = {"main": line(0), "aux": line(1)}, {"standard": line(2), "pgd_at": line(3)}
    options = {"epsilon": EPSILON, "step": EPSILON / 2, "steps": 10}
    found = by_place(list(build(task, options, "test").measure(models, data, beside(context, data, siblings))))
    sign, x = 1 - 2 * data.labels.double(), (data.images.double() / 255 - 0.5).flatten(1)
    assert list(found) == [(source, branch) for source in siblings for branch in models]
    for (source, branch), (measurement, outcomes) in found.items():
        weight, direction = models[branch].weight.detach().double(), siblings[source].weight.detach().sign()
        clean = sign * (x @ weight)
        after = clean - EPSILON * float(weight @ direction.double())
        assert after.abs().min() > 2e-5  # no image is too close to call
        np.testing.assert_array_equal(outcomes, ((clean > 0) & (after > 0)).numpy())
        assert measurement.value == outcomes.mean()
        assert 0.1 < measurement.value < 0.9
        assert measurement.passes == pytest.approx(11 * 2 * 96 / 90)
    assert len({o.outcomes.tobytes() for o in found.values() if o.outcomes is not None}) == 4


def test_linear_networks(line: Line, grains: ImageSet, context: Context) -> None:
    check(Transfer, line, grains, context)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("judged(surrogate, models", "judged(next(iter(models.values())), models"),  # white-box on the first branch
        ("clean[branch] & right", "clean[branch]"),
        ("sibling(source)", "sibling(self.sources[0])"),
    ],
)
def test_planted_mistakes_are_found(
    old: str, new: str, line: Line, grains: ImageSet, context: Context, mutant: Mutant
) -> None:
    with pytest.raises(AssertionError):
        check(mutant("robusteval.tasks.transfer", old, new).Transfer, line, grains, context)


def test_wrong_unchanged_is_not_robust(line: Line, grains: ImageSet, context: Context) -> None:
    opposite = line(0)
    with torch.no_grad():
        opposite.weight.neg_()  # an attack on it makes every image easier for the other
    task = replace(TASK, sources=("trades",), epsilon=0.2, step=0.1)
    (found,) = task.measure({"main": line(0)}, grains, beside(context, grains, {"trades": opposite}))
    sign, x = 1 - 2 * grains.labels, (grains.images / 255 - 0.5).flatten(1)
    clean = (sign * (x @ line(0).weight.detach()) > 0).numpy()
    assert 0 < clean.sum() < 90
    np.testing.assert_array_equal(found.outcomes, clean)


def test_it_is_the_attack_of_the_matrix(line: Line, grains: ImageSet, context: Context) -> None:
    """A branch's own examples, made once as another method's."""
    models = {"main": line(0), "aux": line(1)}
    attack = {"epsilon": EPSILON, "step": EPSILON / 2, "steps": 2}
    siblings = {"standard": line(0), "pgd_at": line(1)}
    found = by_place(list(Transfer(**attack).measure(models, grains, beside(context, grains, siblings))))
    names = {"main": "standard", "aux": "pgd_at"}
    for measurement, outcomes in AttackMatrix(**attack).measure(models, grains, context):
        made_on = str(measurement.where["attack_branch"])
        if made_on in names:
            mine = found[names[made_on], str(measurement.where["branch"])]
            np.testing.assert_array_equal(mine.outcomes, outcomes)


def test_a_run_that_is_not_there_is_missing(line: Line, grains: ImageSet, context: Context, counting: Any) -> None:
    models = {"main": line(0), "aux": line(1)}
    context = replace(beside(context, grains, {"pgd_at": line(3)}), progress=counting)
    found = by_place(list(replace(TASK, limit=20).measure(models, grains, context)))
    for branch in models:
        measurement, outcomes = found["standard", branch]
        assert (measurement.value, measurement.n, outcomes, measurement.passes) == (None, 0, None, None)
        assert measurement.note.startswith("there is no run of method standard with this data set")
        there = found["pgd_at", branch].measurement
        assert (there.n, there.metric, there.task) == (20, "robust_accuracy", "transfer")
        assert there.where == {
            "branch": branch,
            "made_on": "pgd_at",
            "norm": "Linf",
            "epsilon": "0.006",
            "step": "0.003",
            "steps": 10,
        }
        assert measurement.where == there.where | {"made_on": "standard"}
    # Of each source: ten steps and a look at the last iterate; each branch examined with ten steps of its own.
    assert counting.stages == [("transfer", 2 * (20 * 11 + 2 * 20 * 10))]
    assert counting.done == counting.stages[0][1]


def test_a_bare_checkpoint_has_no_siblings(line: Line, grains: ImageSet, context: Context) -> None:
    assert list(TASK.measure({"main": line(0)}, grains, context)) == []


def test_a_draft_made_on_other_weights_is_not_taken_up(
    line: Line, grains: ImageSet, context: Context, notes: Any
) -> None:
    models = {"main": line(0)}
    task = replace(TASK, sources=("standard",), checked=0)
    asked: list[int] = []

    def value(number: int) -> float | None:
        source = line(number)
        source.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
        here = replace(beside(context, grains, {"standard": source}), draft=notes)
        (found,) = task.measure(models, grains, here)
        return found.measurement.value

    first = value(2)
    assert len(asked) == 11 * 2  # 64 slots, then the rest
    assert value(2) == first
    assert len(asked) == 11 * 2
    assert value(3) != first
    assert len(asked) == 11 * 4


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown method 'standart'; did you mean 'standard'\?"):
        build(Transfer, {"sources": ["standart"]}, "suite.toml")
    with pytest.raises(UserError, match="sources: one is listed twice; allowed: each once"):
        build(Transfer, {"sources": ["standard", "standard"]}, "suite.toml")
    with pytest.raises(UserError, match=r"sources: .*at least 1"):
        build(Transfer, {"sources": []}, "suite.toml")
    with pytest.raises(UserError, match="step: 2 is more than the whole pixel range"):
        build(Transfer, {"step": 2.0}, "suite.toml")
