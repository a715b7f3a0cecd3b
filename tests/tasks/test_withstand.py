"""Attacks one after another: order, drafts, portions, bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks import PgdSearch
from robusteval.attacks.geometry import OutsideTheBall
from robusteval.attacks.search import Query, State, Threat
from robusteval.data.sets import ImageSet
from robusteval.randomness import Stream
from robusteval.tasks import Context, portions
from robusteval.tasks.withstand import Stage, Stand, withstand

THREAT = Threat("Linf", 0.05)


@dataclass(frozen=True)
class Moves:
    """Adds an amount to every pixel of the images whose number is a multiple of ``of``; sure of all hits or of none."""

    amount: float
    of: int = 1
    steps: int = 1
    sure: bool = False

    def begin(self, query: Query, state: State) -> State:
        chosen = (state["index"] % self.of == 0).view(-1, 1, 1, 1)
        sure = torch.full_like(state["hit"], self.sure)
        return state | {"moved": torch.where(chosen, state["x"] + self.amount, state["x"]), "sure": sure}

    def step(self, query: Query, state: State) -> State:
        return state | {"example": state["moved"], "hit": state["sure"]}


class Bright(nn.Module):
    """Right (class 0) until the mean has risen by 0.03 above the grey of all images; counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        risen = x.flatten(1).mean(1) > 0.53
        return torch.stack([~risen, risen, risen & False], dim=1).float()


@pytest.fixture
def grey() -> ImageSet:
    """70 grey images of class 0, the last 6 labelled 1."""
    images = torch.full((70, 3, 32, 32), 127, dtype=torch.uint8)
    labels = (torch.arange(70) >= 64).long()
    return ImageSet("cifar10-sample", "test", images, labels, ("a", "b", "c"), "0" * 64, False)


STAGES = [Stage("none", Moves(0.0)), Stage("thirds", Moves(0.04, of=3)), Stage("halves", Moves(0.04, of=2))]
TOGETHER = [Stage("none", Moves(0.0)), Stage("both", Moves(0.04, of=3), then=(Moves(0.04, of=2),))]


def test_each_stage_meets_those_left_standing_and_breaks_for_good(grey: ImageSet, context: Context) -> None:
    model = Bright()
    stand = withstand(model, grey, STAGES, THREAT, context, key="k", keep=8, where="main")
    number = np.arange(70)
    right = number < 64
    np.testing.assert_array_equal(stand.clean, right)
    np.testing.assert_array_equal(stand.after["none"], right)
    np.testing.assert_array_equal(stand.after["thirds"], right & (number % 3 > 0))
    np.testing.assert_array_equal(stand.after["halves"], right & (number % 3 > 0) & (number % 2 > 0))
    np.testing.assert_array_equal(stand.robust, stand.after["halves"])
    assert list(stand.after) == ["none", "thirds", "halves"]
    moved = torch.tensor([number % 3 == 0 or number % 2 == 0 for number in range(8)])
    torch.testing.assert_close(stand.examples.mean((1, 2, 3)), 127 / 255 + 0.04 * moved, rtol=0, atol=1e-6)
    assert set(model.batches) == {8, 16}  # searches and doubts pad to 8, verdicts are batches of 16
    assert stand.passes == {"none": 0, "thirds": 0, "halves": 0}  # this search asks nothing


def test_portions_change_nothing(
    grey: ImageSet, context: Context, monkeypatch: pytest.MonkeyPatch, known: Mapping[str, nn.Module], data: ImageSet
) -> None:
    monkeypatch.setattr(portions, "SLOTS", 16)
    monkeypatch.setattr(portions, "FILLS", 1)
    test_each_stage_meets_those_left_standing_and_breaks_for_good(grey, context)
    threat = Threat("Linf", 0.102)
    stages = [Stage("pgd", PgdSearch(threat, 0.05, 4, Stream.of(0)))]
    small = withstand(known["linear"], data, stages, threat, context, key="k", keep=20, where="main")
    monkeypatch.undo()
    whole = withstand(known["linear"], data, stages, threat, context, key="k", keep=20, where="main")
    assert 0 < whole.robust.sum() < whole.clean.sum()
    np.testing.assert_array_equal(small.robust, whole.robust)
    assert torch.equal(small.examples, whole.examples)


@pytest.mark.parametrize("fills", [1, 16])
def test_searches_of_a_stage_break_what_they_break_in_turn(
    fills: int, grey: ImageSet, context: Context, monkeypatch: pytest.MonkeyPatch, notes: Any
) -> None:
    monkeypatch.setattr(portions, "SLOTS", 16)
    monkeypatch.setattr(portions, "FILLS", fills)
    apart = withstand(Bright(), grey, STAGES, THREAT, context, key="k", keep=40, where="main")
    notes.survive = 1000
    stand = withstand(Bright(), grey, TOGETHER, THREAT, replace(context, draft=notes), key="k", keep=40, where="main")
    np.testing.assert_array_equal(stand.clean, apart.clean)
    np.testing.assert_array_equal(stand.robust, apart.robust)
    np.testing.assert_array_equal(stand.after["none"], apart.after["none"])
    np.testing.assert_array_equal(stand.after["both"], apart.after["halves"])
    assert torch.equal(stand.examples, apart.examples)
    # Drafts: of each search where it fills a portion; of all together for fewer images, here for the last, all wrong.
    assert 1000 - notes.survive == (4 * 3 + 2 if fills == 1 else 2)


def check_hits_that_are_none(walk: Callable[..., Stand], grey: ImageSet, context: Context, counting: Any) -> None:
    """Of two searches that claim every image, the first is wrong about all, the second about two thirds."""
    searches = [Moves(0.0, sure=True), Moves(0.04, of=3, sure=True), Moves(0.04, of=2)]
    context = replace(context, progress=counting)
    stage = Stage("all", searches[0], then=tuple(searches[1:]))
    stand = walk(Bright(), grey, [stage], THREAT, context, key="k", keep=8, where="main")
    number = np.arange(70)
    np.testing.assert_array_equal(stand.robust, (number < 64) & (number % 3 > 0) & (number % 2 > 0))
    moved = torch.tensor([number % 3 == 0 or number % 2 == 0 for number in range(8)])
    torch.testing.assert_close(stand.examples.mean((1, 2, 3)), 127 / 255 + 0.04 * moved, rtol=0, atol=1e-6)
    assert counting.done == 3 * 70


def test_after_a_hit_that_the_verdict_does_not_confirm_later_searches_go_on(
    grey: ImageSet, context: Context, counting: Any, mutant: Callable[[str, str, str], Any]
) -> None:
    check_hits_that_are_none(withstand, grey, context, counting)
    mistaken = mutant("robusteval.tasks.withstand", "if early and bool(due.any()):", "if False:")
    with pytest.raises(AssertionError):
        check_hits_that_are_none(mistaken.withstand, grey, context, counting)


@pytest.mark.parametrize("stages", [STAGES, TOGETHER], ids=["apart", "together"])
@pytest.mark.parametrize("survive", range(8))
def test_an_interrupted_attack_goes_on_where_it_was(
    stages: list[Stage],
    survive: int,
    grey: ImageSet,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    notes: Any,
    counting: Any,
) -> None:
    monkeypatch.setattr(portions, "SLOTS", 16)
    monkeypatch.setattr(portions, "FILLS", 2)  # portions of 32, 32 and 6 images, three searches each
    whole = withstand(Bright(), grey, stages, THREAT, context, key="k", keep=40, where="main")
    notes.survive, first = survive, Bright()
    with pytest.raises(KeyboardInterrupt):
        withstand(first, grey, stages, THREAT, replace(context, draft=notes), key="k", keep=40, where="main")
    notes.survive = 1000
    again = Bright()
    rest = replace(context, draft=notes, progress=counting)
    stand = withstand(again, grey, stages, THREAT, rest, key="k", keep=40, where="main")
    np.testing.assert_array_equal(stand.robust, whole.robust)
    assert all(np.array_equal(stand.after[name], whole.after[name]) for name in whole.after)
    assert torch.equal(stand.examples, whole.examples)
    assert counting.done == 3 * 70
    complete = Bright()
    withstand(complete, grey, stages, THREAT, context, key="k", keep=40, where="main")
    if survive >= 1:
        assert len(again.batches) < len(complete.batches)
    another = withstand(Bright(), grey, stages[:1], THREAT, rest, key="other", where="main")
    assert another.robust.sum() == 64  # another key, nothing taken over


@pytest.mark.parametrize(
    ("move", "threat"),
    [
        (Moves(0.06), THREAT),
        (Moves(float("nan"), of=7), THREAT),
        (Moves(0.6), Threat("Linf", 1.0)),
        (Moves(0.001), Threat("L2", 0.05)),
    ],
)
def test_an_attack_that_leaves_its_ball_is_an_error(
    move: Moves, threat: Threat, grey: ImageSet, context: Context
) -> None:
    with pytest.raises(OutsideTheBall, match=r"of 64 examples are outside the (Linf|L2) ball of radius"):
        withstand(Bright(), grey, [Stage("far", move)], threat, context, key="k", where="main")
