"""Robust accuracy: closed forms, restarts, precision, and what the options refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.randomness import Stream
from robusteval.tasks import Clean, Context, Outcomes, Pgd
from robusteval.tasks.predict import predict, to_input


def outcomes(task: Pgd | Clean, model: nn.Module, data: ImageSet, context: Context) -> Outcomes:
    task = replace(task, checked=0) if isinstance(task, Pgd) else task
    (found,) = task.measure({"main": model}, data, context)
    assert found.outcomes is not None
    assert found.measurement.value == found.outcomes.mean()
    return found.outcomes


def test_the_measurement_says_what_was_done(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    task = Pgd(steps=1, restarts=2, loss="margin", checked=0)
    found = [o.measurement for o in task.measure(known, data, context)]
    assert [m.where["branch"] for m in found] == list(known)
    assert {(m.task, m.metric, m.n) for m in found} == {("pgd", "robust_accuracy", 53)}
    assert found[0].where == {
        "branch": "reads",
        "attack_branch": "reads",
        "norm": "Linf",
        "epsilon": "8/255",
        "step": "2/255",
        "steps": 1,
        "restarts": 2,
        "loss": "margin",
    }


def test_networks_without_a_gradient_have_their_known_score(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """Labels are 40 grey levels apart: a start within 19 of the pixel misleads nobody, one within 60 does."""
    assert outcomes(Pgd(epsilon=19 / 255), known["reads"], data, context).all()
    assert not outcomes(Pgd(epsilon=60 / 255, restarts=20), known["reads"], data, context).any()
    share = outcomes(Pgd(epsilon=1.0), known["constant"], data, context)
    np.testing.assert_array_equal(share, (data.labels == 2).numpy())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_robust_accuracy_of_a_linear_network(
    norm: str, loss: str, known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """Right within epsilon iff the margin exceeds epsilon times the dual norm of the weights' difference.

    Two classes matter, the others are far below. Pixels keep a distance of 0.15 to the box, save the
    first, whose weight is set to 0.
    """
    model = known["linear"]
    weight = model.patterns.data
    weight[:, 0] = 0
    model.register_forward_hook(lambda module, inputs, logits: logits - torch.tensor([0.0, 0, 99, 99, 99]))
    two = data.labels < 2
    data = replace(data, images=data.images[two], labels=data.labels[two])
    sign = 1 - 2 * data.labels.double()
    apart = (weight[0] - weight[1]).double()
    margin = sign * ((to_input(data.images, context.device).flatten(1).double() - 0.5) @ apart)
    radius = margin / (apart.abs().sum() if norm == "Linf" else apart.norm())
    epsilon = float(radius.sort().values[9:11].mean())  # halfway between two images: about half are robust
    assert 0.01 < epsilon < (0.15 if norm == "Linf" else 6)
    task = build(Pgd, {"norm": norm, "epsilon": epsilon, "step": epsilon / 2, "steps": 12, "loss": loss}, "test")
    found = outcomes(task, model, data, context)
    np.testing.assert_array_equal(found, (radius > epsilon).numpy())
    assert found.any()


def test_no_radius_is_clean_and_a_huge_one_leaves_nothing(
    network: Callable[[], nn.Module], known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    clean = outcomes(Clean(), network(), data, context)
    assert 0 < clean.sum() < 53
    np.testing.assert_array_equal(outcomes(Pgd(epsilon=0.0, restarts=2), network(), data, context), clean)
    assert not outcomes(Pgd(epsilon=1.0, step=0.3), known["linear"], data, context).any()
    assert not outcomes(Pgd(norm="L2", epsilon=60.0, step=20.0), known["linear"], data, context).any()


class Shy(nn.Module):
    """Reads the label from the first pixel, but errs on images whose pixels are all whole grey levels: clean ones."""

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, 0, 0] * 255 / 40).round().long()
        grey = x.flatten(1) * 255
        clean = ((grey - grey.round()).abs() < 1e-3).all(1).long()
        return nn.functional.one_hot((label + clean) % 5, 5).float()


def test_wrong_on_the_clean_image_is_not_robust(data: ImageSet, context: Context) -> None:
    model, task = Shy(), Pgd(epsilon=10 / 255, steps=1)
    x = to_input(data.images, context.device)
    start = random_start(x, epsilon=10 / 255, norm="Linf", rng=Stream.of(3).at("pgd", 0), index=torch.arange(53))
    assert (predict(model, (x + start).clamp(0, 1), classes=5, where="") == data.labels).all()
    assert not outcomes(task, model, data, context).any()


def test_the_margin_sees_through_saturated_logits(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """Cross-entropy of logits hundreds apart is exactly 0 in float32, and so is its gradient."""
    model = known["linear"]
    model.patterns.data *= 100
    assert not outcomes(Pgd(epsilon=0.3, step=0.1, steps=10, loss="margin"), model, data, context).any()
    assert outcomes(Pgd(epsilon=0.3, step=0.1, steps=10, loss="ce"), model, data, context).mean() > 0.9


def straight(model: nn.Module, data: ImageSet, *, restarts: int) -> Outcomes:
    """All images at once, every restart, clean included: what `Pgd` defines."""
    x, index = to_input(data.images, torch.device("cpu")), torch.arange(53)
    robust = predict(model, x, classes=5, where="main") == data.labels
    for restart in range(restarts):
        rng = Stream.of(3).at("pgd", restart)
        start = random_start(x, epsilon=0.3, norm="Linf", rng=rng, index=index)
        for steps in (0, 1):
            iterate = pgd(model, x, data.labels, epsilon=0.3, step=0.001, steps=steps, start=start)
            robust &= predict(model, iterate, classes=5, where="main") == data.labels
    return robust.numpy()


def test_the_worst_restart_counts(network: Callable[[], nn.Module], data: ImageSet, context: Context) -> None:
    model, counts = trained(network(), data), []
    for restarts in (1, 2, 8):
        found = outcomes(Pgd(epsilon=0.3, step=0.001, steps=1, restarts=restarts), model, data, context)
        np.testing.assert_array_equal(found, straight(model, data, restarts=restarts))
        counts.append(int(found.sum()))
    assert counts[0] >= counts[1] >= counts[2]
    assert counts[0] > counts[2]
    other = outcomes(Pgd(epsilon=0.3, step=0.001, steps=1), model, data, replace(context, seed=4))
    assert (other != straight(model, data, restarts=1)).any()


def trained(model: nn.Module, data: ImageSet) -> nn.Module:
    """A few steps, so that clean and robust accuracy differ."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    x = to_input(data.images, torch.device("cpu"))
    model.eval()
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), data.labels).backward()
        optimizer.step()
    return model


def test_restarts_that_can_change_nothing_are_left_out(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    calls = []
    known["constant"].register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    never_right = replace(data, labels=torch.full_like(data.labels, 4))
    assert not outcomes(Pgd(steps=3, restarts=4), known["constant"], never_right, context).any()
    assert calls == [16] * 4  # the clean look at each batch
    calls.clear()
    outcomes(Pgd(steps=3, restarts=4), known["constant"], data, context)
    assert 0 < (data.labels == 2).sum() <= 16
    # Three steps of all restarts together, what became nearest to an error by any, and the verdict.
    rows = -(-4 * int((data.labels == 2).sum()) // 8) * 8
    assert calls == [16] * 4 + [rows] * 4 + [16]


def test_gradients_are_half_precision_and_outcomes_are_not(
    network: Callable[[], nn.Module], data: ImageSet, context: Context
) -> None:
    model = trained(network(), data)
    seen: list[tuple[torch.dtype, torch.dtype, bool]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if len(output) > 2:  # not the look at a copy whose layers are merged
            seen.append((inputs[0].dtype, output.dtype, output.requires_grad))

    model[0].register_forward_hook(keep)
    exact = outcomes(Pgd(steps=2), model, data, context)
    assert {(came, went) for came, went, _ in seen} == {(torch.float32, torch.float32)}
    seen.clear()
    half = outcomes(Pgd(steps=2), model, data, replace(context, precision="bfloat16"))
    attacks = [entry for entry in seen if entry[2]]
    scores = [entry for entry in seen if not entry[2]]
    assert set(attacks) == {(torch.float32, torch.bfloat16, True)}
    assert set(scores) == {(torch.float32, torch.float32, False)}
    assert len(attacks) == 2
    assert len(scores) >= 4 + 1
    assert (half != exact).sum() <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"epsilon": 8},
            "^quick.toml: epsilon: 8 is more than the whole pixel range; "
            'allowed for Linf: 0 to 1, for example "8/255"$',
        ),
        ({"epsilon": "8/25a"}, "epsilon: .*number"),
        ({"epsilon": -0.1}, "epsilon: .*greater than or equal to 0"),
        ({"epsilon": float("nan")}, "epsilon: .*given: nan"),
        ({"norm": "linf"}, "norm: .*'Linf'"),
        ({"loss": "cw"}, "loss: .*'ce', 'margin', 'dlr' or 'targeted'"),
        ({"steps": 0}, "steps: .*greater than or equal to 1"),
        ({"steps": "20"}, "steps: .*integer"),
        ({"restart": 2}, "unknown key 'restart'; did you mean 'restarts'?"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Pgd, values, "quick.toml")


def test_fractions_are_accepted() -> None:
    task = build(Pgd, {"epsilon": "8/255", "step": "0.5/255", "norm": "L2"}, "quick.toml")
    assert (task.epsilon, task.step) == (8 / 255, 0.5 / 255)
    assert build(Pgd, {"epsilon": 3.0, "norm": "L2"}, "quick.toml").epsilon == 3.0


def test_targeted_attacks_reach_the_nearest_class_wherever_it_is(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """Towards each wrong class of a linear network: broken iff epsilon exceeds the distance to one of the borders."""
    model = known["linear"]
    model.patterns.data[:, 0] = 0  # the pixel that is near the end of its range
    weight = model.patterns.data.double()
    x = to_input(data.images, context.device).flatten(1).double() - 0.5
    apart = weight[data.labels].unsqueeze(1) - weight
    radii = torch.einsum("np,ncp->nc", x, apart) / apart.abs().sum(2).clamp(min=1e-9)
    radius = radii.scatter(1, data.labels.unsqueeze(1), torch.inf).amin(1)
    epsilon = float(radius.sort().values[25:27].mean())
    task = Pgd(epsilon=epsilon, step=epsilon / 4, steps=12, loss="targeted")
    np.testing.assert_array_equal(outcomes(task, model, data, context), (radius > epsilon).numpy())
    (stage,) = task.stages(Stream.of(3), classes=5, where="pgd")
    assert [search.loss.rank for search in (stage.search, *stage.then)] == [1, 2, 3, 4]
    (stage,) = Pgd(loss="targeted", restarts=2).stages(Stream.of(3), classes=100, where="pgd")
    assert len(stage.then) == 17
    assert len({search.rng.key for search in (stage.search, *stage.then)}) == 2
