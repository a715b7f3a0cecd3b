"""Attacks on corrupted images against closed forms, and against PGD on images corrupted beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.corruptions import corrupt
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.stats import mean_interval
from robusteval.tasks import Clean, Context, Observation, Pgd
from robusteval.tasks.corrupted_attack import CorruptedAttack

Mutant = Callable[[str, str, str], ModuleType]
OPTIONS = {"names": ["gaussian_noise", "brightness"], "severities": [3], "source": "generated"}
ATTACK = {"epsilon": 0.3, "step": 0.001, "steps": 1, "restarts": 2, "loss": "margin"}
CELLS = [("gaussian_noise", 3), ("brightness", 3)]


def of_images(data: ImageSet, context: Context) -> dict[tuple[object, object], ImageSet]:
    """The set in each condition, corrupted here."""
    index = torch.arange(len(data.labels))
    made = {cell: corrupt(data.images, *cell, seed=context.seed, index=index) for cell in CELLS}
    return {("clean", None): data} | {cell: replace(data, images=images) for cell, images in made.items()}


def by_place(found: list[Observation]) -> dict[tuple[object, ...], Observation]:
    keys = ("branch", "images", "severity")
    places = {(o.measurement.metric, *(o.measurement.where.get(key) for key in keys)): o for o in found}
    assert len(places) == len(found)
    return places


def check(task: type[CorruptedAttack], models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    found = by_place(list(build(task, OPTIONS | ATTACK, "test").measure(models, data, context)))
    assert len(found) == 2 * (2 * 3 + 2)
    rows: dict[tuple[str, str], list[np.ndarray]] = {}
    for cell, images in of_images(data, context).items():
        for metric, part in (("accuracy", Clean()), ("robust_accuracy", Pgd(**ATTACK, checked=0))):
            for measurement, outcomes in part.measure(models, images, context):
                branch = str(measurement.where["branch"])
                mine, right = found[metric, branch, *cell]
                np.testing.assert_array_equal(right, outcomes)
                assert (mine.value, mine.low, mine.high) == (measurement.value, measurement.low, measurement.high)
                assert mine.passes == measurement.passes
                if cell[0] != "clean":
                    rows.setdefault((metric, branch), []).append(outcomes)
    for (metric, branch), outcomes in rows.items():
        mean = found[f"mean_{metric}", branch, None, None].measurement
        scores = np.mean(outcomes, axis=0)
        assert mean.value == pytest.approx(scores.mean())
        assert (mean.low, mean.high) == pytest.approx(mean_interval(scores))
        assert mean.n == len(data.labels)


def branches(network: Callable[[], nn.Module], data: ImageSet) -> dict[str, nn.Module]:
    models = {"main": network(), "aux": network()}
    for steps, model in zip((15, 25), models.values(), strict=True):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        model.eval()
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.images.float() / 255), data.labels).backward()
            optimizer.step()
    return models


def test_against_pgd_on_images_corrupted_beforehand(
    network: Callable[[], nn.Module], data: ImageSet, context: Context
) -> None:
    models = branches(network, data)
    check(CorruptedAttack, models, data, context)
    found = list(build(CorruptedAttack, OPTIONS | ATTACK, "test").measure(models, data, context))
    assert len({o.outcomes.tobytes() for o in found if o.outcomes is not None}) >= 9  # the cells differ


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("withstand(model, view.data", "withstand(model, data"),  # attacks the images as they were
        ('"steps", "restarts", "loss"', '"steps", "loss"'),  # the first restart only
        ('"accuracy", stand.clean', '"accuracy", stand.robust'),
        ("robust[branch].append(stand.robust)", "robust[branch].append(stand.clean)"),
        (".mean(axis=0)", ".min(axis=0).astype(float)"),
    ],
)
def test_planted_mistakes_are_found(
    old: str, new: str, network: Callable[[], nn.Module], data: ImageSet, context: Context, mutant: Mutant
) -> None:
    task = mutant("robusteval.tasks.corrupted_attack", old, new).CorruptedAttack
    with pytest.raises(AssertionError):
        check(task, branches(network, data), data, context)


def test_the_ball_is_around_the_corrupted_image(
    line: Callable[[int], nn.Module], grains: ImageSet, context: Context
) -> None:
    """Brightness moves every pixel up; a linear network's radii move with the sum of its weights."""
    model, epsilon = line(0), 0.005
    model.weight = nn.Parameter(model.weight.detach().reshape(3, 8, 8).repeat(1, 4, 4).flatten() / 16)
    data = replace(grains, images=grains.images.repeat(1, 1, 4, 4))
    weight = model.weight.detach().double()

    def radius(images: Tensor) -> Tensor:
        sign = 1 - 2 * data.labels.double()
        return sign * ((images.double() / 255 - 0.5).flatten(1) @ weight) / weight.abs().sum()

    bright = corrupt(data.images, "brightness", 1, seed=context.seed, index=torch.arange(90))
    assert bright.max() < 255 * (1 - epsilon)  # the box is far from all
    options = {"names": ["brightness"], "severities": [1], "source": "generated", "epsilon": epsilon, "step": epsilon}
    task = build(CorruptedAttack, options, "test")
    found = by_place(list(task.measure({"main": model}, data, context)))
    for images, severity, pixels in (("clean", None, data.images), ("brightness", 1, bright)):
        expected = radius(pixels)
        assert (expected - epsilon).abs().min() > 1e-6
        right = found["accuracy", "main", images, severity].outcomes
        np.testing.assert_array_equal(right, (expected > 0).numpy())
        robust = found["robust_accuracy", "main", images, severity].outcomes
        np.testing.assert_array_equal(robust, (expected > epsilon).numpy())
        assert 0.2 < robust.mean() < 0.8
    assert ((radius(data.images) > epsilon) != (radius(bright) > epsilon)).any()


def test_records_say_what_was_done(network: Callable[[], nn.Module], data: ImageSet, context: Context) -> None:
    task = build(CorruptedAttack, OPTIONS | ATTACK | {"limit": 20}, "test")
    found = [o.measurement for o in task.measure({"main": network()}, data, context)]
    attack = {"norm": "Linf", "epsilon": "0.3", "step": "0.001", "steps": 1, "restarts": 2, "loss": "margin"}
    branch, both = {"branch": "main"}, {"branch": "main", "attack_branch": "main"}
    assert [(m.metric, m.where["images"]) for m in found[:-2]] == [
        (metric, images)
        for images in ("clean", "gaussian_noise", "brightness")
        for metric in ("accuracy", "robust_accuracy")
    ]
    assert (found[0].where, found[1].where) == (branch | {"images": "clean"}, both | {"images": "clean"} | attack)
    corrupted = {"images": "gaussian_noise", "severity": 3, "source": "generated"}
    assert found[3].where.items() >= (corrupted | attack).items()
    over = {"corruptions": 2, "severities": 1, "names": "gaussian_noise brightness", "source": "generated"}
    assert [m.where for m in found[-2:]] == [branch | over, both | over | attack]
    assert {m.n for m in found} == {20}


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'fog'"):
        build(CorruptedAttack, {"names": ["fogg"]}, "suite.toml")
    with pytest.raises(UserError, match="epsilon: 8 is more than the whole pixel range"):
        build(CorruptedAttack, {"epsilon": 8.0}, "suite.toml")
    with pytest.raises(UserError, match="listed twice"):
        build(CorruptedAttack, {"names": ["fog", "fog"]}, "suite.toml")
