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


def test_the_worst_case_makes_up_for_transfer_alone() -> None:
    beaten, idle = reason("transfer", "3 of 100"), reason("no-progress", "9 of 100")
    assert Verdict.on([beaten]).without("transfer") == Verdict("ok")
    assert Verdict.on([beaten, idle]).without("transfer") == Verdict("flagged", (idle,))
    assert UNCHECKED.without("transfer") == UNCHECKED


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
