"""The Square Attack (Andriushchenko et al., 2020, arXiv:1912.00049): random search that asks for logits only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from robusteval.attacks.bumps import bump, grid, length, moved
from robusteval.attacks.search import Query, State, Threat
from robusteval.losses import margin
from robusteval.options import Norm
from robusteval.randomness import Stream

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Windows shrink after so many of 10,000 proposals."""

_STEPS = 2**20
"""Draws are keyed by an image's number times this, plus the step."""

_ROWS = 128
"""Proposals in a pass of the few images that are left, on a CPU; a GPU's passes have a size of their own."""


@dataclass(frozen=True)
class SquareSearch:
    """A `Search` that changes square windows at random and keeps what lowers the margin.

    A step is one query: of the start (stripes in Linf, a grid of bumps in L2), then of a proposal each. An image is
    done at the first query that is misclassified. Where paper and published code (the authors' own, and AutoAttack's)
    disagree: windows may touch the last row and column, as the paper says, the code never puts them there; every image
    draws its own windows, as in the paper, AutoAttack's code shares them among a batch; the start counts as a query, as
    in the authors' code, AutoAttack's asks once more than it is told to.

    Most proposals are rejected. So that a few images fill a pass, those of several steps are asked at once, each as if
    the ones before it were rejected; the first that is not counts, and those after it are forgotten. A proposal that
    changes nothing is rejected unasked. Neither changes what becomes of an image.

    Attributes:
        threat: the ball; images must be (C, H, W).
        rng: of the windows.
        steps: most queries per image.
        p: share of the pixels in the first windows. AutoAttack's 0.8 is for robust networks; the authors recommend 0.05
            (Linf) and 0.1 (L2) for undefended ones.
    """

    threat: Threat
    rng: Stream
    steps: int = 5000
    p: float = 0.8

    def begin(self, query: Query, state: State) -> State:
        """See `Search`.

        ``loss`` is the margin of ``example``, ``rejected`` the number of proposals since it was found; ``up`` and
        ``down`` are the ends of an Linf ball; ``stream`` is where windows are drawn from.
        """
        assert 1 <= self.steps < _STEPS
        x, index = state["x"], state["index"]
        rng = self.rng.at("start")
        state = {**state, "loss": torch.full_like(x[:, 0, 0, 0], torch.inf), "rejected": torch.zeros_like(index)}
        state |= {"stream": torch.full_like(index, self.rng.seed)}
        if self.threat.norm == "L2":
            return state | {"example": self._to_sphere(x, grid(rng, index, x.shape))}
        up, down = (self.threat.ball(x).point(torch.full_like(x, sign * self.threat.epsilon)) for sign in (1, -1))
        stripes = _coins(rng, index, x.shape[1], 1, x.shape[3])
        return state | {"up": up, "down": down, "example": torch.where(stripes, up, down)}

    def step(self, query: Query, state: State) -> State:
        """See `Search`. An image takes the steps up to its first proposal that is better, or its last that is asked."""
        example, y, n = state["example"], state["y"], len(state["y"])
        room = _room(query, state["rejected"])
        # The next step of every image, then the one after it, and so on. An eighth of one-pixel windows change nothing.
        ahead = torch.arange(-(-room * 9 // (8 * n)), device=y.device)
        step = (state["step"] + ahead.unsqueeze(1)).flatten()
        windows = self._windows(state, step)
        touched = self._touched(state, windows)
        worth = (touched.flatten(1).amax(dim=1).bool() | (step == 0)) & (step < self.steps)
        worth[0] = True  # a pass is not empty
        order = torch.nonzero(worth).squeeze(1)
        asked, end = order[:room], int(order[room]) if len(order) > room else len(step)
        owner = asked % n
        proposals = self._proposals(state, owner, windows.select(asked), touched.index_select(0, asked))
        start = torch.nonzero(step[asked] == 0).squeeze(1)  # the first query is of the start itself
        proposals[start] = example[owner[start]]
        logits, label = query.logits(proposals), y[owner]
        loss, hit = margin(logits, label), logits.argmax(dim=1) != label
        taken, first = _first((loss < state["loss"][owner]) | hit, owner, n)
        rejected = (end - 1 - torch.arange(n, device=y.device)) // n + 1
        return state | {
            "step": (state["step"] + torch.where(taken, asked[first] // n + 1, rejected)).clamp(max=self.steps),
            "example": torch.where(taken.view(-1, 1, 1, 1), proposals[first], example),
            "loss": torch.where(taken, loss[first], state["loss"]),
            "hit": taken & hit[first],
            "rejected": torch.where(taken, 0, state["rejected"] + rejected),
        }

    def _windows(self, state: State, step: Tensor) -> _Windows:
        """The windows of some steps, which are (n,), (n,), ... of the n images."""
        assert bool((state["stream"] == self.rng.seed).all()), "searches that draw other windows share no batch"
        height, width = state["x"].shape[2:]
        key = state["index"].repeat(len(step) // len(state["index"])) * _STEPS + step
        schedule = self._schedule(state)
        # The first proposal, number 0, is made in step 1. What there is of 10,000 is spread over all steps.
        level = torch.bucketize((step - 1) * 10_000 // self.steps, schedule.halvings)
        place = _place(self.rng.at("window"), key, schedule.sides[level], height, width)
        return _Windows(key, level, *place, up=_coins(self.rng.at("sign"), key, state["x"].shape[1], 1, 1))

    def _touched(self, state: State, windows: _Windows) -> Tensor:
        """The pixels that windows change: uint8 0 or 1, (windows, C or 1, H, W). Bytes are faster than bool by far."""
        if self.threat.norm == "L2":
            return windows.inside.view(torch.uint8)
        # 2 epsilon up or down from anywhere in the ball, projected, is an end of it.
        is_up = (state["example"] == state["up"]).view(torch.uint8)
        is_up = is_up.repeat(len(windows.key) // len(is_up), 1, 1, 1)
        return (is_up ^ windows.up.view(torch.uint8)) & windows.inside.view(torch.uint8)

    def _proposals(self, state: State, owner: Tensor, windows: _Windows, touched: Tensor) -> Tensor:
        """The best images of some rows with a window changed."""
        best = state["example"].index_select(0, owner)
        if self.threat.norm == "Linf":
            other = torch.where(state["example"] == state["up"], state["down"], state["up"])
            return torch.where(touched.view(torch.bool), other.index_select(0, owner), best)
        x, key, level = state["x"].index_select(0, owner), windows.key, windows.level[:, None, None]
        schedule = self._schedule(state)
        emptied = _place(self.rng.at("emptied"), key, schedule.sides[windows.level], *x.shape[2:])
        turned = _coins(self.rng.at("turn"), key).long()[:, None, None]
        bumps = schedule.bumps[turned, level, windows.row[:, :, None], windows.column[:, None, :]].unsqueeze(1)
        bumps = torch.where(windows.up, bumps, -bumps)
        return self._to_sphere(x, moved(best - x, bumps, windows.inside, emptied.inside, self.threat.epsilon))

    def _schedule(self, state: State) -> _Schedule:
        """Of images of this size."""
        x = state["x"]
        return _schedule(self.p, *x.shape[2:], self.threat.norm, x.device)

    def _to_sphere(self, x: Tensor, delta: Tensor) -> Tensor:
        """The images at a perturbation of length epsilon, cut off at the pixel range."""
        return self.threat.ball(x).point(delta * (self.threat.epsilon / (length(delta, (1, 2, 3)) + 1e-12)))


def _room(query: Query, rejected: Tensor) -> int:
    """How many proposals to ask at once: of each image as many as were last rejected in a row, if a pass has room."""
    n, most = len(rejected), query.rows or _ROWS
    wanted = int((rejected + 1).clamp(max=most // n + 1).sum())
    return query.padded(max(n, min(wanted, most)))


def _first(better: Tensor, owner: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Whether any of an image's proposals is better, and the number of the first: for each of n images."""
    number = torch.where(better, torch.arange(len(owner), device=owner.device), len(owner))
    first = number.new_full((n,), len(owner)).scatter_reduce(0, owner, number, "amin")
    return first < len(owner), first.clamp(max=len(owner) - 1)


class _Place(NamedTuple):
    """Windows, one a row: where they are, and each pixel's row and column in them (their side, if outside)."""

    inside: Tensor
    row: Tensor
    column: Tensor


class _Windows(NamedTuple):
    """Windows to be changed, one a row: keys of their draws, halvings before them, a `_Place`, signs of channels."""

    key: Tensor
    level: Tensor
    inside: Tensor
    row: Tensor
    column: Tensor
    up: Tensor

    def select(self, rows: Tensor) -> _Windows:
        """Some of them."""
        return _Windows(*(value.index_select(0, rows) for value in self))


def window_sides(p: float, height: int, width: int, norm: Norm) -> list[int]:
    """The sides of the windows after 0, 1, ..., 9 halvings of their share p of the pixels; odd and above 2 in L2."""
    sides = [round(math.sqrt(p / 2**halvings * height * width)) for halvings in range(10)]
    sides = [max(side, 1) if norm == "Linf" else max(side + 1 - side % 2, 3) for side in sides]
    return [min(side, height, width) for side in sides]


class _Schedule(NamedTuple):
    """``halvings`` of the windows, their ``sides`` before each and after the last, and their ``bumps`` in L2.

    The bumps are (2, 10, most + 1, most + 1), as they are and transposed, and 0 from their side on.
    """

    halvings: Tensor
    sides: Tensor
    bumps: Tensor


@lru_cache(maxsize=8)
def _schedule(p: float, height: int, width: int, norm: Norm, device: torch.device) -> _Schedule:
    """The schedule of an attack on images of a size."""
    sides = window_sides(p, height, width, norm)
    bumps = torch.zeros(2, len(sides), max(sides) + 1, max(sides) + 1)
    if norm == "L2":
        for number, side in enumerate(sides):
            bumps[0, number, :side, :side] = bump(side)
    bumps[1] = bumps[0].transpose(1, 2)
    return _Schedule(torch.tensor(_HALVINGS, device=device), torch.tensor(sides, device=device), bumps.to(device))


def _coins(rng: Stream, key: Tensor, *shape: int) -> Tensor:
    """Fair coins, bool (B, *shape)."""
    return rng.bits(key, *shape) < 0


def _place(rng: Stream, key: Tensor, side: Tensor, height: int, width: int) -> _Place:
    """Windows anywhere in the image."""
    # In float64: in float32 the product of a number just below 1 may round up to the next offset.
    drawn = rng.uniform(key, 2).double()
    top, left = ((drawn[:, i] * (size - side + 1)).long() for i, size in enumerate((height, width)))
    row, column = (
        torch.arange(size, device=key.device) - start.unsqueeze(1) for size, start in ((height, top), (width, left))
    )
    outside = side.unsqueeze(1)
    row, column = (torch.where((i >= 0) & (i < outside), i, outside) for i in (row, column))
    inside = (row < outside)[:, :, None] & (column < outside)[:, None, :]
    return _Place(inside.unsqueeze(1), row, column)
