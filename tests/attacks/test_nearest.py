"""What holds for every search of the nearest example: slots, shards, the network's state, counts."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks.cw import CwSearch
from robusteval.attacks.fab import FabSearch
from robusteval.attacks.search import Query, Search, run
from robusteval.randomness import Stream

Make = Callable[..., tuple[nn.Module, Tensor, Tensor, Tensor]]
RNG = Stream.of(8)


@pytest.mark.parametrize(
    "search",
    [
        CwSearch(rounds=3, iterations=20, first=0.1, stall=1e-2),
        CwSearch(rounds=2, iterations=20, first=1.0, epsilon=0.4),
        FabSearch("Linf", None, 1, RNG, iterations=6, restarts=2),
        FabSearch("Linf", 0.03, 2, RNG, iterations=9),
        FabSearch("L2", None, 1, RNG, iterations=6, restarts=2),
        FabSearch("L2", 0.3, 2, RNG, iterations=9),
    ],
)
def test_slots_and_shards_do_not_change_a_bit(search: Search, smooth: Make) -> None:
    model, x, y, index = smooth(70, spread=1.0)
    whole = run(search, Query(model), x, y, index)
    assert int((whole != x).flatten(1).any(dim=1).sum()) > 5
    for slots in (16, 250):
        assert torch.equal(run(search, Query(model), x, y, index, slots=slots), whole)
    parts = [run(search, Query(model), x[i:j], y[i:j], index[i:j]) for i, j in ((0, 1), (1, 24), (24, 70))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("search", "forward", "backward"),
    [
        (CwSearch(rounds=3, iterations=7, stall=None), 21, 21),
        (FabSearch("L2", None, 1, RNG, iterations=5, restarts=2, bisections=3), 1 + 2 * (5 + 1) + 3, 10),
    ],
)
def test_the_network_is_left_alone_and_what_is_asked_is_counted(
    search: Search, forward: int, backward: int, smooth: Make
) -> None:
    model, x, y, index = smooth(16, spread=1.0)
    model.train().net[1].eval()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    query, kept = Query(model), x.clone()
    run(search, query, x, y, index)
    assert torch.equal(x, kept)
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (query.forward, query.backward) == (16 * forward, 16 * backward)
