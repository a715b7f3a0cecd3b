"""Histograms of entropies against straight-line code, counts of selections against known ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.data.augment import mixup
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.method import Method, Setting, attached
from robusteval.methods.entprop import EntProp
from robusteval.methods.standard import Standard
from robusteval.options import build
from robusteval.randomness import Stream
from robusteval.records import Measurement
from robusteval.stats import wilson
from robusteval.tasks.selection import Selection, _gini
from robusteval.tasks.task import Context, Origin
from robusteval.training import Training

Network = Callable[[], nn.Module]


def measured(task: Selection, models: dict[str, nn.Module], data: ImageSet, context: Context) -> list[Measurement]:
    found = list(task.measure(models, data, context))
    assert all(outcomes is None for _, outcomes in found)
    places = [(m.metric, *m.where.items()) for m, _ in found]
    assert len(set(places)) == len(places)
    return [measurement for measurement, _ in found]


def trained_by(method: Method, network: Network, data: ImageSet, *, batch_size: int = 16, epochs: int = 10) -> Origin:
    setting = Setting(classes=5, images=len(data.labels), batch_size=batch_size, shape=(3, 32, 32))
    model = method.wrap(network(), setting)
    training = Training(epochs=epochs, batch_size=batch_size)
    return Origin(method, training, model, replace(data, split="train"), lambda name: None)


def entropies(logits: Tensor) -> Tensor:
    p = logits.detach().double().softmax(1)
    return -(p * p.log()).sum(1)


def straight(
    model: nn.Module, data: ImageSet, *, size: int, k: float, steps: int, alpha: float, step: float = 1 / 255
) -> dict[str, Tensor]:
    """What the task defines, with the seed of its context; PGD from the mixture in a ball that does not bind."""
    model = model.eval()
    rng = Stream.of(3).at("selection")
    order = rng.at("order").permutation(len(data.labels))
    found: dict[str, list[Tensor]] = {"clean": [], "mixed": [], "selected": [], "adversarial": []}
    for number in range(len(order) // size):
        rows = order[number * size : (number + 1) * size]
        x, y = data.images[rows].float() / 255, data.labels[rows]
        found["clean"].append(entropies(model(x)))
        x, ya, yb, lam = mixup(x, y, rng.at(number), alpha=alpha)
        mixed = entropies(model(x))
        found["mixed"].append(mixed)
        chosen = mixed.argsort(descending=True)[: round(k * size)]
        found["selected"].append(mixed[chosen])
        x, ya, yb, lam = x[chosen], ya[chosen], yb[chosen], lam[chosen]
        for _ in range(steps):
            x = x.detach().requires_grad_()
            logits = model(x)
            a, b = (F.cross_entropy(logits, y, reduction="none") for y in (ya, yb))
            (gradient,) = torch.autograd.grad((lam * a + (1 - lam) * b).sum(), x)
            x = (x + step * gradient.sign()).clamp(0, 1)
        found["adversarial"].append(entropies(model(x)))
    return {images: torch.cat(parts) for images, parts in found.items()}


def compare(found: list[Measurement], expected: dict[str, Tensor], *, bins: int, split: str, branch: str) -> None:
    top = math.log(5)
    for images, values in expected.items():
        mine = [m for m in found if m.where.get("images") == images and m.where["branch"] == branch]
        shares = [m for m in mine if m.metric == "entropy_share"]
        (mean,) = (m for m in mine if m.metric == "mean_entropy")
        assert len(shares) == bins
        assert {(m.n, m.where["split"], m.unit) for m in shares} == {(len(values), split, "fraction")}
        assert [m.where["low"] for m in shares] == [round(top * i / bins, 4) for i in range(bins)]
        assert [m.where["high"] for m in shares] == [round(top * (i + 1) / bins, 4) for i in range(bins)]
        counts = np.histogram(values.numpy(), bins=bins, range=(0, top))[0]
        np.testing.assert_allclose([m.value for m in shares], counts / len(values), atol=1e-12)
        for m, count in zip(shares, counts, strict=True):
            assert (m.low, m.high) == wilson(int(count), len(values))
        assert mean.unit == "number"
        assert mean.value == pytest.approx(float(values.mean()), abs=1e-5)
        assert mean.low is not None
        assert mean.high is not None
        assert 0 <= mean.low < mean.value < mean.high <= top


def sharpened(network: Network, factor: float) -> nn.Module:
    """Logits of a few units, so that entropies spread; ``factor`` makes another network of it."""
    model = network()
    with torch.no_grad():
        model[5].weight.mul_(factor)
    return model


def test_without_training_the_test_images_are_shown_what_entprop_would_select(
    network: Network, data: ImageSet, context: Context
) -> None:
    models = {"main": sharpened(network, 8), "aux": sharpened(network, 4)}
    found = measured(Selection(k=0.3, mix_alpha=0.7, bins=6), models, data, context)
    for branch, model in models.items():
        expected = straight(model, data, size=53, k=0.3, steps=1, alpha=0.7)
        assert expected["selected"].mean() > expected["mixed"].mean()
        compare(found, expected, bins=6, split="test", branch=branch)
    assert {m.metric for m in found} == {"entropy_share", "mean_entropy"}


def test_entprop_is_shown_its_own_selection_and_attack_in_its_own_batches(
    network: Network, data: ImageSet, context: Context
) -> None:
    origin = trained_by(EntProp(k=0.25, steps=3, mix_alpha=0.5), network, data)
    models = {"main": sharpened(network, 8)}
    found = measured(Selection(k=0.9, bins=5), models, data.first(3), replace(context, origin=origin))
    expected = straight(models["main"], data, size=16, k=0.25, steps=3, alpha=0.5)
    assert {images: len(values) for images, values in expected.items()} == {
        "clean": 48,
        "mixed": 48,
        "selected": 12,
        "adversarial": 12,
    }
    assert (expected["adversarial"] - expected["selected"]).abs().max() > 1e-3
    compare(found, expected, bins=5, split="train", branch="main")


def test_another_method_has_entropies_and_no_counts(network: Network, data: ImageSet, context: Context) -> None:
    origin = trained_by(Standard(), network, data, batch_size=20)
    models = {"main": sharpened(network, 8)}
    found = measured(Selection(bins=4), models, data, replace(context, origin=origin))
    compare(
        found, straight(models["main"], data, size=20, k=0.2, steps=1, alpha=1.0), bins=4, split="train", branch="main"
    )
    assert {m.metric for m in found} == {"entropy_share", "mean_entropy"}


def test_what_the_method_leaves_out_is_left_out(network: Network, data: ImageSet, context: Context) -> None:
    origin = trained_by(EntProp(steps=0, mix="none"), network, data)
    found = measured(Selection(), {"main": network()}, data, replace(context, origin=origin))
    assert {m.where["images"] for m in found if "images" in m.where} == {"clean", "selected"}


@pytest.mark.parametrize("metric", ["confidence", "margin", "random"])
def test_other_scores_select_other_images(metric: str, network: Network, data: ImageSet, context: Context) -> None:
    def selected(method: EntProp) -> float | None:
        origin = trained_by(method, network, data)
        found = measured(Selection(), {"main": sharpened(network, 8)}, data, replace(context, origin=origin))
        (mean,) = (m for m in found if m.metric == "mean_entropy" and m.where["images"] == "selected")
        return mean.value

    most, other = selected(EntProp()), selected(build(EntProp, {"metric": metric}, "test"))
    assert most is not None
    assert other is not None
    assert other < most


def test_how_often_images_were_selected(network: Network, data: ImageSet, context: Context) -> None:
    origin = trained_by(EntProp(), network, data, epochs=10)
    counts = attached(origin.model, "selections").counts
    assert isinstance(counts, Tensor)
    counts[:20] = torch.tensor([1] * 8 + [2] * 4 + [5] * 3 + [6] * 2 + [10] * 3, dtype=torch.int32)
    found = measured(Selection(bins=5), {"main": network()}, data, replace(context, origin=origin))
    shares = {(m.where["times_low"], m.where["times_high"]): m for m in found if m.metric == "selected_share"}
    assert {ends: round((m.value or 0) * 53) for ends, m in shares.items()} == {
        (0, 0): 33,
        (1, 2): 12,
        (3, 4): 0,
        (5, 6): 5,
        (7, 8): 0,
        (9, 10): 3,
    }
    assert sum(m.value or 0 for m in shares.values()) == pytest.approx(1)
    (never,) = (m for m in found if m.metric == "never_selected")
    assert (never.value, never.n, (never.low, never.high)) == (33 / 53, 53, wilson(33, 53))
    (gini,) = (m for m in found if m.metric == "selection_gini")
    values = counts.double()
    pairs = (values[:, None] - values[None, :]).abs().mean()
    assert gini.value == pytest.approx(float(pairs / (2 * values.mean())))
    assert gini.unit == "number"
    few = measured(Selection(limit=12), {"main": network()}, data, replace(context, origin=origin))
    assert [m.value for m in few if m.metric == "never_selected"] == [0]


def test_counts_beyond_the_epochs_have_a_bin_and_none_at_all_no_gini(
    network: Network, data: ImageSet, context: Context
) -> None:
    origin = trained_by(EntProp(), network, data, epochs=2)
    context = replace(context, origin=origin)
    found = measured(Selection(), {"main": network()}, data, context)
    assert [m.value for m in found if m.metric == "selected_share"] == [1, 0, 0]
    assert not [m for m in found if m.metric == "selection_gini"]
    counts = attached(origin.model, "selections").counts
    assert isinstance(counts, Tensor)
    counts[0] = 3
    found = measured(Selection(), {"main": network()}, data, context)
    ends = [(m.where["times_low"], m.where["times_high"], m.value) for m in found if m.metric == "selected_share"]
    assert ends == [(0, 0, 52 / 53), (1, 1, 0), (2, 2, 0), (3, 3, 1 / 53)]


def test_gini_at_its_ends() -> None:
    assert _gini(np.full(7, 3)) == pytest.approx(0)
    assert _gini(np.array([0, 0, 0, 5])) == pytest.approx(0.75)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_are_left_as_they_were_and_twice_is_the_same(
    precision: str, network: Network, data: ImageSet, context: Context, counting: Any
) -> None:
    origin = trained_by(EntProp(steps=2), network, data)
    models = {"main": network(), "aux": network()}
    models["main"][1].eval()
    flags = [m.training for model in models.values() for m in model.modules()]
    before = [t.clone() for t in (*models["main"].state_dict().values(), *origin.model.state_dict().values())]
    images, draws = data.images.clone(), torch.random.get_rng_state()
    context = replace(context, origin=origin, precision=precision, progress=counting)
    first, second = (measured(Selection(bins=3), models, data, context) for _ in range(2))
    assert first == second
    assert [m.training for model in models.values() for m in model.modules()] == flags
    after = (*models["main"].state_dict().values(), *origin.model.state_dict().values())
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert all(p.grad is None for model in (*models.values(), origin.model) for p in model.parameters())
    assert torch.equal(data.images, images)
    assert torch.equal(torch.random.get_rng_state(), draws)
    assert counting.stages == [("selection", 6)] * 2
    assert counting.done == 12
    assert all(Measurement.model_validate_json(m.model_dump_json()) == m for m in first)


def test_a_network_without_finite_logits_of_the_classes_is_refused(data: ImageSet, context: Context) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    with pytest.raises(UserError, match="main: the network's logits are not finite"):
        list(Selection().measure({"main": model}, data, context))
    with pytest.raises(UserError, match=r"main: the network's output is \(53, 4\); allowed: logits \(53, 5\)"):
        list(Selection().measure({"main": nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))}, data, context))


@pytest.mark.parametrize(("values", "message"), [({"k": 0.0}, "k: .*greater than 0"), ({"bins": 0}, "bins: .*1")])
def test_options_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Selection, values, "test")
