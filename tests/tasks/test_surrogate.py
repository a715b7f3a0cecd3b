"""Examples made through one network: slots, portions, interruption, bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks import PgdSearch
from robusteval.attacks.geometry import OutsideTheBall, distance
from robusteval.attacks.search import Query, Threat, run
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.randomness import Stream
from robusteval.tasks import Context, portions
from robusteval.tasks.predict import to_input
from robusteval.tasks.surrogate import FurthestAstray, judged

Line = Callable[[int], nn.Module]
THREAT = Threat("Linf", 0.006)
PGD = PgdSearch(THREAT, 0.002, 7, Stream.of(0))


class Conv(nn.Module):
    """A convolution, whose rows a batch's shape might change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.inner, self.outer = nn.Conv2d(3, 16, 3), nn.Linear(16 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return 5 * self.outer(torch.tanh(8 * self.inner(x - 0.5)).flatten(1))


def examples(data: ImageSet, rows: slice, *, slots: int) -> Tensor:
    x, index = to_input(data.images, torch.device("cpu")), torch.arange(len(data.labels))
    search = FurthestAstray(PGD)
    return run(search, Query(Conv()), x[rows], data.labels[rows], index[rows], slots=slots)


def test_slots_and_shards_change_no_bit(grains: ImageSet) -> None:
    whole = examples(grains, slice(0, 90), slots=64)
    for slots in (16, 250):
        assert torch.equal(examples(grains, slice(0, 90), slots=slots), whole)
    for cuts in ((0, 45, 90), (0, 7, 50, 90), (0, 1, 33, 64, 90)):
        parts = [examples(grains, slice(a, b), slots=64) for a, b in pairwise(cuts)]
        assert torch.equal(torch.cat(parts), whole)
    far = distance(to_input(grains.images, torch.device("cpu")), whole, "Linf")
    assert far.max() <= THREAT.epsilon
    assert far.min() > 0


@pytest.mark.parametrize("survive", [0, 1, 2])
def test_portions_and_interruptions_change_nothing(
    survive: int,
    line: Line,
    grains: ImageSet,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    notes: Any,
    counting: Any,
) -> None:
    judges = {"one": line(1), "two": line(2)}
    whole = judged(line(0), judges, grains, PGD, context, key="k")
    monkeypatch.setattr(portions, "SLOTS", 16)
    monkeypatch.setattr(portions, "FILLS", 2)  # 32, 32 and 26 images
    notes.survive = survive
    with pytest.raises(KeyboardInterrupt):
        judged(line(0), judges, grains, PGD, replace(context, draft=notes), key="k")
    notes.survive = 1000
    again, asked = line(0), []
    again.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    found = judged(again, judges, grains, PGD, replace(context, draft=notes, progress=counting), key="k")
    assert counting.done == 90 * (PGD.steps + 1)  # the last iterate is looked at, too
    assert len(asked) == 8 * sum((2, 2, 2)[survive:])
    assert found.passes == 2 * 8 * 96  # of all portions, of which some were made before
    for name, outcomes in whole.right.items():
        assert 0 < outcomes.sum() < 90
        np.testing.assert_array_equal(found.right[name], outcomes)
    assert len(notes.kept) == 3
    other = judged(line(3), judges, grains, PGD, replace(context, draft=notes), key="l")
    assert any((other.right[name] != whole.right[name]).any() for name in judges)


class Leaps(PgdSearch):
    """Begins outside the ball."""

    def begin(self, query: Query, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state | {"point": state["x"] + 0.01}


def test_an_example_outside_the_ball_is_an_error(line: Line, grains: ImageSet, context: Context) -> None:
    backwards = Leaps(THREAT, 0.001, 3, None, lambda logits, y: -nn.functional.cross_entropy(logits, y))
    with pytest.raises(OutsideTheBall, match=r"of 90 examples are outside the Linf ball of radius 0\.006"):
        judged(line(0), {"one": line(0)}, grains, backwards, context, key="k")


class Fragile(nn.Module):
    """No numbers on anything but whole grey levels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        grey = x.flatten(1) * 255
        clean = ((grey - grey.round()).abs() < 1e-3).all(dim=1, keepdim=True)
        logits: Tensor = self.inner(x)
        return torch.where(clean, logits, torch.nan)


def test_an_iterate_without_finite_logits_is_not_passed_over(line: Line, grains: ImageSet, context: Context) -> None:
    model = Fragile(line(0))
    from_the_image = replace(PGD, rng=None)
    with pytest.raises(UserError, match="main: the network's logits are not finite"):
        judged(model, {"main": model}, grains, from_the_image, context, key="k")
