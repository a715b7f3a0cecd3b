"""The L2 attack of Carlini and Wagner (2017, arXiv:1608.04644, sec. VI-A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robusteval.attacks.nearest import nearer, none_found
from robusteval.attacks.search import Query, State
from robusteval.losses import margin

_INSIDE = 0.999999
"""Images are drawn so far towards grey before the change of variables: black and white are at infinity."""

_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8
"""Of Adam (Kingma and Ba, 2015, arXiv:1412.6980, alg. 1)."""

_CHECKS = 10
"""How often in a round it is looked whether the objective still falls."""


@dataclass(frozen=True)
class CwSearch:
    """A `Search` for the nearest misclassified image in L2, untargeted.

    Adam minimises the squared distance plus c times how much of the margin is left, over a variable whose tanh is the
    image. A round has one c. The next round's is ten times as large until one has succeeded, then half way between the
    greatest that failed and the least that succeeded. Every iterate counts, not just the last. A step costs a gradient.

    Attributes:
        rounds: values of c that are tried. The authors' code tries 9, their experiments 20.
        iterations: most steps of a round. The authors take 10,000.
        rate: Adam's learning rate. A step is up to rate / 2 times the root of the number of values long in L2: images
            nearer to the boundary than that are told too far from it.
        first: value of c that is tried first.
        confidence: by how much the label's logit must be exceeded.
        stall: a round ends when a tenth of its iterations did not lower the objective by this share. None: never, which
            images that are black and white throughout need: it takes hundreds of steps before they change. The
            published code stops all images of a batch together; here each goes on to its next round, and an image
            for which no c has succeeded has the iterations saved for greater ones.
        epsilon: an image is done with an example within it, and is handed back unchanged without one. None: every image
            takes all rounds, and the nearest example found is handed back.
    """

    rounds: int = 9
    iterations: int = 1000
    rate: float = 0.01
    first: float = 1e-3
    confidence: float = 0.0
    stall: float | None = 1e-4
    epsilon: float | None = None

    @property
    def steps(self) -> int:
        """See `Search`."""
        return self.rounds * self.iterations

    def begin(self, query: Query, state: State) -> State:
        """See `Search`. The rows of a round are ``w``, Adam's moments, ``inner``, ``won`` and ``before``."""
        assert self.rounds >= 1
        assert self.iterations >= 1
        x = state["x"]
        state = {**state, **none_found(state)}
        count, number = torch.zeros_like(state["y"]), torch.zeros_like(state["distance"])
        state |= {
            "w": _whole(x),
            "base": _image(_whole(x)),
            "moment": torch.zeros_like(x),
            "square": torch.zeros_like(x),
        }
        state |= {"inner": count, "won": count.bool(), "before": number + torch.inf}
        return state | {"round": count, "c": number + self.first, "lower": number, "upper": number + torch.inf}

    def step(self, query: Query, state: State) -> State:
        """See `Search`."""
        y, w = state["y"], state["w"]
        point, weight = _image(w), state["c"].to(w.dtype)

        def left(logits: Tensor) -> Tensor:
            return weight * (margin(logits, y) + self.confidence).clamp(min=0)

        logits, gradient = query.gradient(point, left)
        # From the image after it was drawn towards grey, so that nothing pulls in the first step: Adam makes long steps
        # of short gradients. What counts as nearest is measured from the image itself, unlike in the published code.
        offset = point - state["base"]
        objective = offset.double().square().flatten(1).sum(dim=1) + left(logits).double()
        lead = -margin(logits, y)
        wrong = (logits.argmax(dim=1) != y) & (lead >= self.confidence)
        state = nearer(query, state, point, wrong, norm="L2", epsilon=self.epsilon)
        gradient = (torch.nan_to_num(gradient, nan=0.0) + 2 * offset) * 2 * point * (1 - point)
        w, moment, square = _adam(w, gradient, state["moment"], state["square"], state["inner"] + 1, self.rate)
        state |= {"w": w, "moment": moment, "square": square, "inner": state["inner"] + 1, "won": state["won"] | wrong}
        return self._next_round(state, objective)

    def _next_round(self, state: State, objective: Tensor) -> State:
        """The state in which images whose round is over begin another; a shorter one if the objective stalls."""
        inner, before = state["inner"], state["before"]
        over = inner >= self.iterations
        if self.stall is not None:
            check = (inner - 1) % max(self.iterations // _CHECKS, 1) == 0
            over = over | (check & (objective > before * (1 - self.stall)))
            before = torch.where(check, objective, before)
        won, c = state["won"], state["c"]
        upper = torch.where(over & won, torch.minimum(state["upper"], c), state["upper"])
        lower = torch.where(over & ~won, torch.maximum(state["lower"], c), state["lower"])
        following = torch.where(upper.isfinite(), (lower + upper) / 2, c * 10)
        done = state["round"] + over.long() >= self.rounds
        fresh = over.view(-1, *[1] * (state["x"].ndim - 1))
        hit = state["hit"] | (done & state["distance"].isfinite()) if self.epsilon is None else state["hit"]
        return state | {
            "w": torch.where(fresh, _whole(state["x"]), state["w"]),
            "moment": torch.where(fresh, 0, state["moment"]),
            "square": torch.where(fresh, 0, state["square"]),
            "inner": torch.where(over, 0, inner),
            "won": won & ~over,
            "before": torch.where(over, torch.inf, before),
            "round": state["round"] + over.long(),
            "c": torch.where(over, following, c),
            "lower": lower,
            "upper": upper,
            "hit": hit,
        }


def _whole(x: Tensor) -> Tensor:
    """The variable whose tanh, brought to [0, 1], is the image (almost)."""
    return torch.atanh((2 * x - 1) * _INSIDE)


def _image(w: Tensor) -> Tensor:
    """The image that a variable stands for."""
    return (w.tanh() + 1) / 2


def _adam(
    w: Tensor, gradient: Tensor, moment: Tensor, square: Tensor, t: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The variable and both moments after Adam's step number t (B,), from 1."""
    moment = _BETA1 * moment + (1 - _BETA1) * gradient
    square = _BETA2 * square + (1 - _BETA2) * gradient.square()
    unbiased1, unbiased2 = (
        (1 - beta ** t.double()).to(w.dtype).view(-1, *[1] * (w.ndim - 1)) for beta in (_BETA1, _BETA2)
    )
    # TensorFlow's, which the published code uses, adds the small number before it removes the bias.
    return w - rate * (moment / unbiased1) / ((square / unbiased2).sqrt() + _TINY), moment, square
