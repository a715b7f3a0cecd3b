"""Accuracy under one or several steps along the gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator
from torch import nn

from robusteval.attacks import OBJECTIVES, PgdSearch
from robusteval.attacks.apgd import TARGETS, Target
from robusteval.attacks.objectives import Objective, negative_margin, objective
from robusteval.attacks.search import Threat
from robusteval.data.sets import ImageSet
from robusteval.losses import cross_entropy
from robusteval.options import Count, Norm, Radius, Step, Whole, in_pixel_units, options, written
from robusteval.randomness import Stream
from robusteval.records import Scalar
from robusteval.tasks.robust import Stage, robust_accuracy
from robusteval.tasks.task import Context, Observation


@options
class Fgsm:
    """Share of images that a network gets right clean and after one step of the fast gradient (sign) method.

    From the image to the border of the ball (Goodfellow et al., 2015, arXiv:1412.6572); in L2 along the gradient.
    A weak attack: it tells something about a network, beside a strong one, and nothing about its robustness.

    Attributes:
        norm, epsilon: the ball, as in the task ``pgd``.
        limit: only so many images, from the first; None for all.
        checked: images, from the first, on which `robusteval.attacks.doubts` examines the number; 0: it is unchecked.
    """

    name: ClassVar[str] = "fgsm"
    version: ClassVar[int] = 1

    norm: Norm = "Linf"
    epsilon: Radius = 8 / 255
    limit: Count | None = None
    checked: Whole = 100

    @model_validator(mode="after")
    def _in_pixel_units(self) -> Fgsm:
        in_pixel_units(self.norm, epsilon=self.epsilon)
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Fgsm:
        return self

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy of each network; see `Task`."""
        threat = Threat(self.norm, self.epsilon)
        stages = [Stage("step", PgdSearch(threat, self.epsilon, 1, rng=None))]
        where: dict[str, Scalar] = {"norm": self.norm, "epsilon": written(self.epsilon)}
        yield from robust_accuracy(
            self.name,
            models,
            data,
            context,
            stages=stages,
            threat=threat,
            where=where,
            limit=self.limit,
            checked=self.checked,
            losses=(cross_entropy,),
        )


@options
class Pgd:
    """Share of images that a network gets right clean and at every iterate of several PGD attacks through itself.

    White-box: a branch is attacked through its own statistics. The start is uniform in the ball, from the seed,
    the restart and the image's position in the set. An image is attacked no further once an iterate is misclassified.
    Gradients have the context's precision; what counts are float32 predictions on float32 images.

    Attributes:
        norm: of the ball.
        epsilon: its radius, in units of the pixel range; ``"8/255"`` is accepted.
        step: length of a step.
        steps, restarts: steps of an attack, attacks of an image.
        loss: what the attack drives up: cross-entropy, the negative margin, or the difference of logits ratio;
            ``targeted``: the lead of each of the nine likeliest wrong classes over the label, in turn.
        limit: only so many images, from the first; None for all.
        checked: images, from the first, on which `robusteval.attacks.doubts` examines the number; 0: it is unchecked.
    """

    name: ClassVar[str] = "pgd"
    version: ClassVar[int] = 2  # 1 looked at the last iterate only

    norm: Norm = "Linf"
    epsilon: Radius = 8 / 255
    step: Step = 2 / 255
    steps: Count = 20
    restarts: Count = 1
    loss: Literal["ce", "margin", "dlr", "targeted"] = "ce"
    limit: Count | None = None
    checked: Whole = 100

    @model_validator(mode="after")
    def _in_pixel_units(self) -> Pgd:
        in_pixel_units(self.norm, epsilon=self.epsilon, step=self.step)
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Pgd:
        return self

    def stages(self, rng: Stream, *, classes: int, where: str) -> list[Stage]:
        """The restarts, each from a start of its own; ``where`` is the task, for errors."""
        threat = Threat(self.norm, self.epsilon)
        losses: dict[str, Objective | Target]
        if self.loss == "targeted":
            losses = {f" towards {rank}": Target(rank) for rank in range(1, min(TARGETS, classes - 1) + 1)}
        else:
            losses = {"": objective(self.loss, classes=classes, where=where)}
        return [
            Stage(
                f"restart {restart}{towards}",
                PgdSearch(threat, self.step, self.steps, rng.at(self.name, restart), loss),
            )
            for restart in range(self.restarts)
            for towards, loss in losses.items()
        ]

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy of each network; see `Task`."""
        yield from robust_accuracy(
            self.name,
            models,
            data,
            context,
            stages=self.stages(Stream.of(context.seed), classes=len(data.classes), where=self.name),
            threat=Threat(self.norm, self.epsilon),
            where={
                "norm": self.norm,
                "epsilon": written(self.epsilon),
                "step": written(self.step),
                "steps": self.steps,
                "restarts": self.restarts,
                "loss": self.loss,
            },
            limit=self.limit,
            checked=self.checked,
            losses=(negative_margin if self.loss == "targeted" else OBJECTIVES[self.loss],),
        )
