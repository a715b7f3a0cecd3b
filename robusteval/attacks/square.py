"""The Square Attack (Andriushchenko et al., 2020, arXiv:1912.00049): random search that asks for logits only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from robusteval.attacks.search import Query, State, Threat
from robusteval.losses import margin
from robusteval.options import Norm
from robusteval.randomness import Stream

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Windows shrink after so many of 10,000 proposals."""

_STEPS = 2**20
"""Draws are keyed by an image's number times this, plus the step."""


@dataclass(frozen=True)
class SquareSearch:
    """A `Search` that changes square windows at random and keeps what lowers the margin.

    A step is one query: of the start (stripes in Linf, a grid of bumps in L2), then of a proposal each. An image is
    done at the first query that is misclassified. Where paper and published code (the authors' own, and AutoAttack's)
    disagree: windows may touch the last row and column, as the paper says, the code never puts them there; every image
    draws its own windows, as in the paper, AutoAttack's code shares them among a batch; the start counts as a query, as
    in the authors' code, AutoAttack's asks once more than it is told to.

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
        """See `Search`. ``loss`` is the margin of ``example``; ``up`` and ``down`` are the ends of an Linf ball."""
        assert 1 <= self.steps < _STEPS
        x, index = state["x"], state["index"]
        rng = self.rng.at("start")
        state = {**state, "loss": torch.full_like(x[:, 0, 0, 0], torch.inf)}
        if self.threat.norm == "L2":
            return state | {"example": self._to_sphere(x, _grid(rng, index, x.shape))}
        up, down = (self.threat.ball(x).point(torch.full_like(x, sign * self.threat.epsilon)) for sign in (1, -1))
        stripes = _coins(rng, index, x.shape[1], 1, x.shape[3])
        return state | {"up": up, "down": down, "example": torch.where(stripes, up, down)}

    def step(self, query: Query, state: State) -> State:
        """See `Search`."""
        example, y = state["example"], state["y"]
        # The first query is of the start itself.
        proposal = torch.where((state["step"] == 0).view(-1, 1, 1, 1), example, self._windows(state))
        logits = query.logits(proposal)
        loss, hit = margin(logits, y), logits.argmax(dim=1) != y
        better = (loss < state["loss"]) | hit
        example = torch.where(better.view(-1, 1, 1, 1), proposal, example)
        return state | {"example": example, "loss": torch.where(better, loss, state["loss"]), "hit": hit}

    def _windows(self, state: State) -> Tensor:
        """The best images with a window changed."""
        x, best = state["x"], state["example"]
        channels, height, width = x.shape[1:]
        key = state["index"] * _STEPS + state["step"]
        schedule = _schedule(self.p, height, width, self.threat.norm, x.device)
        # The first proposal, number 0, is made in step 1. What there is of 10,000 is spread over all steps.
        level = torch.bucketize((state["step"] - 1) * 10_000 // self.steps, schedule.halvings)
        side = schedule.sides[level]
        one = _place(self.rng.at("window"), key, side, height, width)
        coins = _coins(self.rng.at("sign"), key, channels, 1, 1)
        if self.threat.norm == "Linf":
            # 2 epsilon up or down from anywhere in the ball, projected, is an end of it.
            return torch.where(one.inside, torch.where(coins, state["up"], state["down"]), best)
        two = _place(self.rng.at("emptied"), key, side, height, width)
        turned = _coins(self.rng.at("turn"), key).long()[:, None, None]
        bumps = schedule.bumps[turned, level[:, None, None], one.row[:, :, None], one.column[:, None, :]].unsqueeze(1)
        moved = _moved(best - x, torch.where(coins, bumps, -bumps), one, two, self.threat.epsilon)
        return self._to_sphere(x, moved)

    def _to_sphere(self, x: Tensor, delta: Tensor) -> Tensor:
        """The images at a perturbation of length epsilon, cut off at the pixel range."""
        length = _length(delta, (1, 2, 3))
        return self.threat.ball(x).point(delta * (self.threat.epsilon / (length + 1e-12)))


class _Place(NamedTuple):
    """Windows, one for each image: where they are, and each pixel's row and column in them (their side, if outside)."""

    inside: Tensor
    row: Tensor
    column: Tensor


def window_sides(p: float, height: int, width: int, norm: Norm) -> list[int]:
    """The sides of the windows after 0, 1, ..., 9 halvings of their share p of the pixels; odd and above 2 in L2."""
    sides = [round(math.sqrt(p / 2**halvings * height * width)) for halvings in range(10)]
    sides = [max(side, 1) if norm == "Linf" else max(side + 1 - side % 2, 3) for side in sides]
    return [min(side, height, width) for side in sides]


def bump(side: int) -> Tensor:
    """A hill above a valley, float32 (side, side) of Euclidean norm 1, as in the paper."""
    upper = side // 2
    both = torch.empty(side, side)
    both[:upper], both[upper:] = _hill(upper, side), -_hill(side - upper, side)
    return both / _length(both, (0, 1))


def _hill(height: int, width: int) -> Tensor:
    """Sums of 1 / k**2, fewer further from the middle in the maximum norm; of Euclidean norm 1."""
    most = max(height, width) // 2 + 1
    row, column = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    off = torch.maximum(row.abs()[:, None], column.abs()[None, :])
    tails = torch.arange(1, most + 1).double().pow(-2).flip(0).cumsum(0).flip(0)
    hill = tails[off].float()
    return hill / _length(hill, (0, 1))


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


def _grid(rng: Stream, index: Tensor, shape: torch.Size) -> Tensor:
    """Bumps side by side, each a fifth of the image wide, in the middle of it: float32, of the shape."""
    _, channels, height, width = shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    signs = _coins(rng, index, channels, rows, columns)[..., None, None]
    hill = bump(side).to(index.device)
    hills = torch.stack([hill, hill.T])
    # The published code turns the bumps of all images alike.
    tiles = hills[_coins(rng.at("turn"), index, rows, columns).long()].unsqueeze(1)
    tiles = torch.where(signs, tiles, -tiles)
    delta = torch.zeros(len(index), *shape[1:], device=index.device)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    delta[:, :, top : top + rows * side, left : left + columns * side] = tiles.transpose(3, 4).reshape(
        len(index), channels, rows * side, columns * side
    )
    return delta


def _moved(delta: Tensor, bump: Tensor, to: _Place, source: _Place, epsilon: float) -> Tensor:
    """The perturbations after the second window's length has gone to the first, which a bump deforms.

    The share of the ball that clipping to the pixel range had left unused is divided among the channels.
    """
    window = torch.where(to.inside, delta, 0)
    both = _length(torch.where(to.inside | source.inside, delta, 0), (2, 3)).square()
    unused = (epsilon**2 - _length(delta, (1, 2, 3)).square()).clamp(min=0) / delta.shape[1]
    shape = bump + window / (_length(window, (2, 3)) + 1e-12)
    shape = shape / (_length(shape, (2, 3)) + 1e-12) * (unused + both).sqrt()
    return torch.where(to.inside, shape, torch.where(source.inside, 0, delta))


def _length(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The Euclidean norm along some axes, which stay."""
    length: Tensor = torch.linalg.vector_norm(values, dim=dims, keepdim=True)
    return length
