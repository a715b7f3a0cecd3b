"""Projected gradient descent (Madry et al., 2018, arXiv:1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robusteval.attacks.apgd import Target, target_class
from robusteval.attacks.geometry import BALLS, random_start
from robusteval.attacks.objectives import Objective
from robusteval.attacks.search import Query, State, Threat
from robusteval.cost import timed
from robusteval.losses import cross_entropy
from robusteval.modes import AttackMode, attack_mode
from robusteval.options import Norm
from robusteval.randomness import Stream


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    norm: Norm = "Linf",
    start: Tensor | None = None,
    targeted: bool = False,
    mode: AttackMode = "eval",
    loss: Objective = cross_entropy,
) -> Tensor:
    """The last iterate of projected gradient ascent on the loss: images in [0, 1] within epsilon of x.

    One step with ``step >= epsilon`` and no start is the fast gradient (sign) method (Goodfellow et al., 2015,
    arXiv:1412.6572). Only the gradient of the input is computed: a step costs 2 forward-equivalents, and no
    parameter's ``.grad`` is touched. Works under the caller's ``no_grad``; under its autocast, the gradients
    have that precision and the iterates that of x. No tensor of the caller changes.

    Args:
        model: takes images in [0, 1], returns logits (B, K).
        x: float32 (B, ...) in [0, 1].
        y: int64 (B,) labels; the classes to be reached when ``targeted``.
        epsilon: radius of the ball, in units of the pixel range.
        step: length of a step in the ball's norm.
        steps: number of steps, each a forward and a backward pass.
        norm: norm of the ball and of the steps.
        start: perturbation (shape of x) to begin from, projected first (`random_start`); None begins at x.
        targeted: descend instead of ascend.
        mode: how the network runs meanwhile. ``eval``: in eval mode. ``train``: as it is being trained, BatchNorm's
            running statistics move. ``train-frozen-stats``: as it is being trained, running statistics stay.
            The two need a model in train mode. Every module's flag is as before afterwards.
        loss: per-sample objective of (logits, y).
    """
    assert not torch.is_inference_mode_enabled(), "no gradient can be had in inference mode; no_grad is fine"
    with timed("attack"), attack_mode(model, mode), torch.enable_grad():
        ball = BALLS[norm](x.detach(), epsilon)
        point = ball.point(torch.zeros_like(x) if start is None else start.detach())
        # A leaf that is added and not the model's input itself: FLOP counters of torch cannot follow the latter.
        zero = torch.zeros_like(point, requires_grad=True)
        for _ in range(steps):
            gradient = _gradient(loss(model(point + zero), y).sum(), zero)
            point = ball.step(point, -gradient if targeted else gradient, step)
        return point


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    """The derivative of the value; zero where the model's output does not depend on its input differentiably."""
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
        if gradient is not None:
            return gradient
    return torch.zeros_like(leaf)


@dataclass(frozen=True)
class PgdSearch:
    """`pgd` in eval mode as a `Search`: an image is done at the first iterate that is misclassified.

    Attributes:
        threat: the ball.
        size: length of a step in the ball's norm.
        steps: number of steps.
        rng: of the start, which is uniform in the ball; None begins at the image.
        loss: per-sample objective of (logits, y), to be driven up; for a `Target`, the gap by which the logit of that
            class leads the label's (Gowal et al., 2019, arXiv:1910.09338: one search for each class).
    """

    threat: Threat
    size: float
    steps: int
    rng: Stream | None
    loss: Objective | Target = cross_entropy

    def begin(self, query: Query, state: State) -> State:
        """See `Search`; the image's number draws its start."""
        x = state["x"]
        if isinstance(self.loss, Target):
            state = state | {"target": target_class(query.exact(x), state["y"], self.loss)}
        if self.rng is None:
            return state | {"point": x}
        start = random_start(x, epsilon=self.threat.epsilon, norm=self.threat.norm, rng=self.rng, index=state["index"])
        return state | {"point": self.threat.ball(x).point(start)}

    def step(self, query: Query, state: State) -> State:
        """See `Search`; the iterate after the last step is handed back without having been looked at."""
        point, y = state["point"], state["y"]
        logits, gradient = query.gradient(point, lambda logits: self.value(logits, state))
        hit = logits.argmax(dim=1) != y
        following = self.threat.ball(state["x"]).step(point, gradient, self.size)
        example = torch.where(hit.view(-1, *[1] * (point.ndim - 1)), point, following)
        return state | {"point": following, "example": example, "hit": hit}

    def value(self, logits: Tensor, state: State) -> Tensor:
        """What is driven up, of each image (B,)."""
        if isinstance(self.loss, Target):
            of_label, of_target = (logits.gather(1, state[c].unsqueeze(1)).squeeze(1) for c in ("y", "target"))
            return of_target - of_label
        return self.loss(logits, state["y"])
