"""Verdicts on numbers that are no plain robust accuracies: what each kind can be doubted for, and what it cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks import PgdSearch
from robusteval.attacks.doubts import CHECKS, NETWORK, SLOPES, reason, state_of
from robusteval.data.sets import ImageSet
from robusteval.methods.standard import Standard
from robusteval.records import Measurement, Reason
from robusteval.tasks import (
    AttackMatrix,
    Clean,
    Context,
    CorruptedAttack,
    EpsilonCurve,
    MinimumNorm,
    Observation,
    Pgd,
    Task,
    Transfer,
)
from robusteval.tasks.examination import UNCHECKED, Verdict, subject_of, transferred
from robusteval.tasks.minimum_norm import SLACK, nearest_distances
from robusteval.tasks.task import Origin
from robusteval.training import Training

BALL = {"epsilon": 0.004, "step": 0.001}
FEW = {"names": ("gaussian_noise",), "severities": (1,), "source": "generated"}
TASKS: Mapping[str, Task] = {
    "attack_matrix": AttackMatrix(**BALL, steps=20),
    "epsilon_curve": EpsilonCurve(epsilons=(0.0, 0.002, 0.004), steps=20),
    "minimum_norm": MinimumNorm(iterations=20, targets=4),
    "corrupted_attack": CorruptedAttack(**BALL, **FEW, steps=20),
    "transfer": Transfer(**BALL, steps=20, sources=("standard",)),
}


class Rounded(nn.Module):
    """Grey levels in steps before the network: no gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 32).round() / 32)


class Noisy(Rounded):
    """Draws before each prediction."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.05 * torch.randn_like(x))


def verdicts(
    name: str, network: nn.Module, data: ImageSet, context: Context, *, source: nn.Module | None = None, **changes: Any
) -> dict[str, set[tuple[str, frozenset[str]]]]:
    """By metric, the verdicts of the task's numbers with the names of their doubts."""
    siblings = {"standard": source or network}
    context = replace(context, origin=Origin(Standard(), Training(), nn.Module(), data, siblings.get))
    models = {"main": network, "aux": copy.deepcopy(network)} if name == "attack_matrix" else {"main": network}
    found: dict[str, set[tuple[str, frozenset[str]]]] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for measurement, _ in replace(TASKS[name], **changes).measure(models, data, context):
            doubts = frozenset(one.name for one in measurement.reasons if one.level == "doubt")
            at = measurement.metric + (" at 0" if measurement.where.get("epsilon") == "0" else "")
            found.setdefault(at, set()).add((measurement.trust, doubts))
    return found


PLAIN = {"corrupted_attack": {"accuracy", "mean_accuracy"}, "epsilon_curve": {"robust_accuracy at 0"}}
"""Numbers of these tasks that no attack made."""


@pytest.mark.parametrize("name", TASKS)
def test_honest_networks_are_not_flagged(
    name: str, known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    found = verdicts(name, known["linear"], data, context)
    plain = PLAIN.get(name, set())
    assert plain < found.keys()
    for metric, those in found.items():
        assert those == {("plain" if metric in plain else "ok", frozenset())}, metric


@pytest.mark.parametrize("name", TASKS)
def test_without_checks_numbers_await_them(
    name: str, known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    found = verdicts(name, known["linear"], data, context, checked=0)
    for metric, those in found.items():
        assert those == {("plain" if metric in PLAIN.get(name, set()) else "unchecked", frozenset())}, metric


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("broken", "doubt"), [(Rounded, "zero-gradient"), (Noisy, "randomised")])
def test_broken_defences_are_flagged(
    name: str,
    broken: type[Rounded],
    doubt: str,
    known: Mapping[str, nn.Module],
    data: ImageSet,
    context: Context,
) -> None:
    found = verdicts(name, broken(known["linear"]), data, context)
    for metric, those in found.items():
        if metric not in PLAIN.get(name, set()):
            assert {trust for trust, _ in those} == {"flagged"}, metric
            assert all(doubt in doubts for _, doubts in those), metric


def test_labels_that_are_mixed_up_are_seen_on_the_images_as_they_are(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    mixed = replace(data, labels=(data.labels + 1) % 5)
    found = verdicts("corrupted_attack", known["linear"], mixed, context)
    assert found["mean_robust_accuracy"] == {("flagged", frozenset({"clean-at-chance"}))}


def test_a_source_without_gradients_is_a_doubt_about_the_transfer(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """The judged network is honest; nothing was transferred to it."""
    found = verdicts("transfer", known["linear"], data, context, source=Rounded(known["linear"]))
    assert found == {"robust_accuracy": {("flagged", frozenset({"zero-gradient"}))}}


def test_transfer_that_beats_white_box_is_a_doubt(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """The judged network hides its gradients; those of the source, which is the same without, lead out of the ball."""
    hidden, few = Rounded(known["linear"]), data.first(50)
    with torch.no_grad():
        right = hidden(few.images / 255).argmax(1) == few.labels
    subject = subject_of(
        hidden,
        few,
        context,
        attacked=known["linear"],
        threat=Pgd(epsilon=0.3).threat,
        robust=np.zeros(50, dtype=bool),
        examples=few.images / 255,
        before=state_of(hidden),
        images=50,
    )
    white = PgdSearch(subject.threat, 0.1, 5, rng=None)
    verdict = transferred(subject, "standard", white)
    assert verdict.trust == "flagged"
    (found,) = [one for one in verdict.reasons if one.name == "transfer"]
    count = int(right.sum())  # without gradients no image is moved
    assert count > 20
    assert found.evidence.startswith(f"examples made on standard break {count} of 50 images that the same attack")
    honest = replace(subject, model=known["linear"], before=state_of(known["linear"]))
    assert [r.name for r in transferred(honest, "standard", white).reasons if r.level == "doubt"] == []


def test_distances_are_doubted_where_examples_are_nearer(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All distances twice what they are."""
    honest = MinimumNorm(iterations=20, targets=4)

    def doubled(*given: Any, **named: Any) -> Any:
        found = nearest_distances(*given, **named)
        return found._replace(values=found.values * np.where(np.arange(len(found.values)) % 2, 2.0, 1.0))

    assert {o.measurement.trust for o in honest.measure({"main": known["linear"]}, data, context)} == {"ok"}
    monkeypatch.setattr("robusteval.tasks.minimum_norm.nearest_distances", doubled)
    found = list(honest.measure({"main": known["linear"]}, data, context))
    assert {o.measurement.trust for o in found} == {"flagged"}
    names = {one.name for one in found[0].measurement.reasons}
    assert "silent-success" in names  # the attack knew better
    assert all(one.evidence.startswith("at distance ") for one in found[0].measurement.reasons if one.level == "doubt")
    assert SLACK < 2


@pytest.mark.parametrize("factors", [(2.0, 1.0), (2.0, 2.0)])
def test_distances_that_are_all_alike_are_doubted(
    factors: tuple[float, float],
    known: Mapping[str, nn.Module],
    data: ImageSet,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The images are all as far, so that none is further than another by the slack."""
    alike = at_one_distance(known["linear"], data)
    honest = MinimumNorm(iterations=20, targets=4)

    def doubled(*given: Any, **named: Any) -> Any:
        found = nearest_distances(*given, **named)
        return found._replace(values=found.values * np.resize(factors, len(found.values)))

    (first, *rest) = honest.measure({"main": known["linear"]}, alike, context)
    values = [o.measurement.value for o in rest if o.measurement.metric == "distance_quantile"]
    spread = [value for value in values if value is not None]
    assert len(spread) == len(values)
    assert max(spread) < SLACK * min(spread)
    assert first.measurement.trust == "ok"
    monkeypatch.setattr("robusteval.tasks.minimum_norm.nearest_distances", doubled)
    assert next(iter(honest.measure({"main": known["linear"]}, alike, context))).measurement.trust == "flagged"


def at_one_distance(network: nn.Module, data: ImageSet) -> ImageSet:
    """Copies of one image that the network gets right."""
    with torch.no_grad():
        right = network(data.images / 255).argmax(1) == data.labels
    row = int(torch.nonzero(right)[0])
    return replace(data, images=data.images[[row] * 40], labels=data.labels[[row] * 40])


def test_the_worst_case_makes_up_for_transfer_that_is_among_its_attacks(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """It is asked again: examples that the other branches' own attacks did not find remain a doubt."""
    few, threat = data.first(50), Pgd(epsilon=0.3).threat
    right = (known["linear"](few.images / 255).argmax(1) == few.labels).detach().numpy()
    subject = subject_of(
        known["linear"],
        few,
        context,
        threat=threat,
        robust=right,
        examples=few.images / 255,
        before=state_of(known["linear"]),
        images=50,
        others={"aux": copy.deepcopy(known["linear"])},
    )
    beaten, idle = reason("transfer", "3 of 100"), reason("no-progress", "9 of 100")
    none = np.zeros(50, dtype=bool)
    assert Verdict.on([beaten]).reconsidered(subject, "transfer", none) == Verdict("ok")
    assert Verdict.on([beaten, idle]).reconsidered(subject, "transfer", none) == Verdict("flagged", (idle,))
    assert UNCHECKED.reconsidered(subject, "transfer", none) == UNCHECKED
    (left,) = Verdict.on([beaten]).reconsidered(subject, "transfer", right).reasons
    assert left.name == "transfer"
    assert left.evidence != beaten.evidence


def test_a_curve_that_does_not_fall_is_examined_where_it_claims_most(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """Without gradients nothing is broken at any radius; at the greatest, others break the most."""
    curve = EpsilonCurve(epsilons=(0.002, 0.004, 0.008), steps=5)
    found = list(curve.measure({"main": Rounded(known["linear"])}, data, context))
    assert len({o.measurement.value for o in found}) == 1
    (seen,) = {r.evidence.partition(",")[0] for o in found for r in o.measurement.reasons if r.level == "doubt"}
    assert seen == "at epsilon 0.008"


def test_numbers_that_no_attack_made_are_plain() -> None:
    plain = Measurement(task="clean", metric="accuracy", value=0.5, n=2, where={"branch": "main"})
    assert plain.trust == "plain"
    assert Measurement.model_validate(plain.model_dump() | {"trust": "unchecked"}).trust == "plain"  # an older record
    doubted = plain.model_dump() | {"trust": "flagged", "reasons": [Reason(name="a", evidence="b", text="c")]}
    assert Measurement.model_validate(doubted).trust == "flagged"
    for changes in (
        {"metric": "mean_robust_accuracy"},
        {"where": {"attack_branch": "aux"}},
        {"where": {"made_on": "x"}},
    ):
        assert Measurement.model_validate(plain.model_dump() | changes | {"trust": "unchecked"}).trust == "unchecked"
    lacking = plain.model_dump() | {"value": None, "n": 0, "where": {"made_on": "x"}, "trust": "unchecked"}
    assert Measurement.model_validate(lacking).trust == "plain"  # there is no number


def test_plain_tasks_make_plain_numbers(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    for observation in Clean().measure(known, data, context):
        assert observation.measurement.trust == "plain"


def test_the_groups_are_of_checks() -> None:
    assert {*NETWORK, *SLOPES} < CHECKS.keys()
    assert not {*NETWORK} & {*SLOPES}


def test_a_verdict_changes_nothing_else(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    make: Callable[[], list[Observation]] = lambda: list(Clean().measure(known, data, context))  # noqa: E731 - used once
    first = make()[0]
    judged = Verdict.on([reason("noise", "all")]).of(first, passes=3.0)
    assert judged.outcomes is first.outcomes
    kept = {"trust", "reasons", "passes"}
    assert judged.measurement.model_dump(exclude=kept) == first.measurement.model_dump(exclude=kept)
    assert (judged.measurement.trust, judged.measurement.passes) == ("flagged", 3.0)
