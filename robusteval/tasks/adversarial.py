"""Accuracy under one or several steps along the gradient."""

from __future__ import annotations

from typing import ClassVar, Literal

from robusteval.attacks import OBJECTIVES, PgdSearch
from robusteval.attacks.apgd import TARGETS, Target
from robusteval.attacks.objectives import Objective, negative_margin, objective
from robusteval.losses import cross_entropy
from robusteval.options import Count, options
from robusteval.randomness import Stream
from robusteval.records import Scalar
from robusteval.tasks.ball import Stepping
from robusteval.tasks.robust import RobustAccuracy
from robusteval.tasks.withstand import Stage


@options
class Fgsm(RobustAccuracy):
    """Share of images that a network gets right clean and after one step of the fast gradient (sign) method.

    From the image to the border of the ball (Goodfellow et al., 2015, arXiv:1412.6572); in L2 along the gradient.
    A weak attack: it tells something about a network, beside a strong one, and nothing about its robustness.
    """

    name: ClassVar[str] = "fgsm"
    version: ClassVar[int] = 1

    def stages(self, rng: Stream, classes: int) -> list[Stage]:
        """The step, which draws nothing."""
        return [Stage("step", PgdSearch(self.threat, self.epsilon, 1, rng=None))]

    @property
    def losses(self) -> tuple[Objective, ...]:
        """See `RobustAccuracy`."""
        return (cross_entropy,)


@options
class Pgd(RobustAccuracy, Stepping):
    """Share of images that a network gets right clean and at every iterate of several PGD attacks through itself.

    White-box: a branch is attacked through its own statistics. The start is uniform in the ball, from the seed,
    the restart and the image's position in the set. An image is attacked no further once an iterate is misclassified.
    Gradients have the context's precision; what counts are float32 predictions on float32 images.

    Attributes:
        restarts: attacks of an image.
        loss: what the attack drives up: cross-entropy, the negative margin, or the difference of logits ratio;
            ``targeted``: the lead of each of the nine likeliest wrong classes over the label, in turn.
    """

    name: ClassVar[str] = "pgd"
    version: ClassVar[int] = 2  # 1 looked at the last iterate only

    restarts: Count = 1
    loss: Literal["ce", "margin", "dlr", "targeted"] = "ce"

    @property
    def place(self) -> dict[str, Scalar]:
        """The attack as measurements name it."""
        return super().place | {"restarts": self.restarts, "loss": self.loss}

    def stages(self, rng: Stream, classes: int, *, where: str = name) -> list[Stage]:
        """The restarts, each from a start of its own; ``where`` is the task, for errors."""
        losses: list[Objective | Target]
        if self.loss == "targeted":
            losses = [Target(rank) for rank in range(1, min(TARGETS, classes - 1) + 1)]
        else:
            losses = [objective(self.loss, classes=classes, where=where)]
        first, *then = (
            PgdSearch(self.threat, self.step, self.steps, rng.at(self.name, restart), loss)
            for restart in range(self.restarts)
            for loss in losses
        )
        return [Stage("steps", first, then=tuple(then))]

    @property
    def losses(self) -> tuple[Objective, ...]:
        """See `RobustAccuracy`."""
        return (negative_margin if self.loss == "targeted" else OBJECTIVES[self.loss],)
