"""Auto-PGD: projected gradient ascent that chooses its own step sizes (Croce and Hein, 2020, arXiv:2003.01690, sec. 3).

Where the paper's Algorithm 1 and the published code (``fra31/auto-attack``, ``pyautoattack`` 0.2.0) disagree, this does
what the code does, from which the numbers in the literature come; each place says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robusteval.attacks.objectives import Objective
from robusteval.attacks.search import Query, State, Threat
from robusteval.losses import cross_entropy, targeted_logit_ratio
from robusteval.randomness import Stream

_MOMENTUM = 0.75
_RISES = 0.75
"""rho: fewer ascents than this share of a span's steps, and the step size is too large."""


TARGETS = 9
"""Targeted attacks of the standard ensemble try so many of the likeliest wrong classes, or all if there are fewer."""


class Target(NamedTuple):
    """A loss towards one class: the rank-th likeliest (from 1) of the wrong ones at the clean image."""

    rank: int


@dataclass(frozen=True)
class ApgdSearch:
    """APGD as a `Search`: an image is done at the first iterate that is misclassified.

    One that never is leaves as the point of highest loss that was seen. (Paper: the point of highest loss in either
    case; code: a misclassified one where there is one.) The step size begins at twice the radius. At checkpoints it is
    halved where too few steps went up or the best loss stands still, and the search then goes on from the best point.

    Searches that differ in their draws, or in the ranks of their targets, may go on together (`run`).

    Attributes:
        threat: the ball.
        iterations: gradient steps from the start; all points are looked at, so that an image takes one pass more.
        rng: of the start.
        loss: per-sample objective of (logits, y), to be driven up. APGD-T is one search for each `Target`,
            of which the loss is the targeted DLR.
    """

    threat: Threat
    iterations: int
    rng: Stream
    loss: Objective | Target = cross_entropy

    @property
    def steps(self) -> int:
        """See `Search`."""
        return self.iterations + 1

    def begin(self, query: Query, state: State) -> State:
        """See `Search`; the image's number draws its start, on the border of the ball."""
        x, index = state["x"], state["index"]
        point = self.threat.ball(x).point(_start(x, self.threat, self.rng, index))
        zero = torch.zeros_like(index, dtype=torch.float32)
        first = torch.full_like(index, self._part(0.22))
        target = (
            {"target": target_class(query.exact(x), state["y"], self.loss)} if isinstance(self.loss, Target) else {}
        )
        return {
            **state,
            **target,
            "point": point,
            "before": point,
            "size": zero + 2 * self.threat.epsilon,
            "best": point,
            "best_gradient": torch.zeros_like(point),
            "best_loss": zero - torch.inf,
            # The span of steps that ends at the next checkpoint, its ascents so far, and what was true where it began.
            "checkpoint": first,
            "span": first,
            "last_loss": zero + torch.inf,
            "rises": zero,
            "halved": torch.zeros_like(index, dtype=torch.bool),
            "best_then": zero - torch.inf,
        }

    def step(self, query: Query, state: State) -> State:
        """See `Search`; looks at a point, then leaves it."""
        point, y = state["point"], state["y"]
        logits, gradient = query.gradient(point, lambda logits: self._value(logits, state))
        loss = self._value(logits, state)
        hit = logits.argmax(dim=1) != y
        better = loss > state["best_loss"]
        best = torch.where(_wide(better, point), point, state["best"])
        best_gradient = torch.where(_wide(better, point), gradient, state["best_gradient"])
        best_loss = torch.where(better, loss, state["best_loss"])

        rises = state["rises"] + (loss > state["last_loss"])
        due = state["step"] == state["checkpoint"]
        # Condition 1. Paper: fewer ascents than rho; code: not more.
        restless = rises <= _RISES * state["span"]
        # Condition 2. Paper: at every checkpoint; code: not at the first.
        stuck = ~state["halved"] & (best_loss <= state["best_then"])
        halve = due & (restless | stuck)
        size = torch.where(halve, state["size"] / 2, state["size"])
        here, uphill = point, gradient
        if bool(halve.any()):  # seldom, and whole images are expensive to look through
            here = torch.where(_wide(halve, point), best, point)
            uphill = torch.where(_wide(halve, point), best_gradient, gradient)

        ball = self.threat.ball(state["x"])
        ahead = ball.step(here, uphill, _wide(size, point))
        share = torch.where(state["step"] == 0, 1.0, _MOMENTUM)
        moved = _wide(share, point) * (ahead - here) + _wide(1 - share, point) * (here - state["before"])
        # Paper: the k-th checkpoint is ceil(p_k N); code: spans of whole steps. The same for N = 100.
        span = torch.where(due, (state["span"] - self._part(0.03)).clamp(min=self._part(0.06)), state["span"])
        return state | {
            "hit": hit,
            "example": torch.where(_wide(hit, point), point, best),
            "point": ball.point(here - state["x"] + moved),
            "before": here,
            "size": size,
            "best": best,
            "best_gradient": best_gradient,
            "best_loss": best_loss,
            "span": span,
            "checkpoint": torch.where(due, state["checkpoint"] + span, state["checkpoint"]),
            # Paper: the first step is an ascent if it ends above the start, and the first after a return to the best
            # point if it ends above that; code: if it ends above 0, and above the point that was given up.
            "last_loss": torch.where(state["step"] == 0, 0.0, loss),
            "rises": torch.where(due, 0.0, rises),
            "halved": torch.where(due, halve, state["halved"]),
            "best_then": torch.where(due, best_loss, state["best_then"]),
        }

    def _value(self, logits: Tensor, state: State) -> Tensor:
        if isinstance(self.loss, Target):
            return targeted_logit_ratio(logits, state["y"], state["target"])
        return self.loss(logits, state["y"])

    def _part(self, share: float) -> int:
        """A share of the iterations, in whole steps, at least one."""
        return max(int(share * self.iterations), 1)


def _start(x: Tensor, threat: Threat, rng: Stream, index: Tensor) -> Tensor:
    """A perturbation of length epsilon: uniform in a cube, scaled to touch its border, or an isotropic direction."""
    if threat.norm == "Linf":
        delta = 2 * rng.uniform(index, *x.shape[1:]) - 1
        length = delta.flatten(1).abs().amax(dim=1)
    else:
        delta = rng.normal(index, *x.shape[1:])
        length = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return torch.empty_like(x).copy_(delta * _wide(threat.epsilon / length, x))


def target_class(logits: Tensor, y: Tensor, target: Target) -> Tensor:
    """The class (B,) to reach. The published code ranks all classes, which is the same where the image is right."""
    assert 1 <= target.rank < logits.shape[1], f"no wrong class is the {target.rank}-th of {logits.shape[1] - 1}"
    wrong = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return wrong.argsort(dim=1, descending=True, stable=True)[:, target.rank - 1]


def _wide(rows: Tensor, points: Tensor) -> Tensor:
    """A value of each row (B,), to be combined with the points (B, ...)."""
    return rows.view(-1, *[1] * (points.ndim - 1))
