"""Accuracy under attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import OBJECTIVES, pgd, random_start
from robusteval.attacks.geometry import distance
from robusteval.data.sets import ImageSet
from robusteval.options import Count, Norm, Radius, Step, in_pixel_units, options, written
from robusteval.randomness import Stream
from robusteval.records import Scalar
from robusteval.tasks.predict import Part, batches, correct, parts, to_input
from robusteval.tasks.task import Context, Observation, Outcomes, accuracy


@options
class Pgd:
    """Share of images that a network gets right clean and after each of several PGD attacks through itself.

    White-box: a branch is attacked through its own statistics. The start is uniform in the ball, from the seed,
    the restart and the image's position in the set. Gradients have the context's precision; what counts are
    float32 predictions on the float32 images that the attack ends with.

    Attributes:
        norm: of the ball.
        epsilon: its radius, in units of the pixel range; ``"8/255"`` is accepted.
        step: length of a step.
        steps, restarts: steps of an attack, attacks of an image.
        loss: what the attack drives up: cross-entropy or the negative margin.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "pgd"
    version: ClassVar[int] = 1

    norm: Norm = "Linf"
    epsilon: Radius = 8 / 255
    step: Step = 2 / 255
    steps: Count = 20
    restarts: Count = 1
    loss: Literal["ce", "margin"] = "ce"
    limit: Count | None = None

    @model_validator(mode="after")
    def _in_pixel_units(self) -> Pgd:
        in_pixel_units(self.norm, epsilon=self.epsilon, step=self.step)
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Pgd:
        return self

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy of each network; see `Task`."""
        data = data.first(self.limit)
        context.progress.begin(self.name, len(models) * batches(data, context))
        for branch, model in models.items():
            robust = np.zeros(len(data.labels), dtype=np.bool_)
            for part in parts(data, context.batch_size):
                rows = part.index[: part.n].numpy()
                robust[rows] = self._robust(model, part, classes=len(data.classes), branch=branch, context=context)
                context.progress.advance()
            where: dict[str, Scalar] = {
                "branch": branch,
                "attack_branch": branch,
                "norm": self.norm,
                "epsilon": written(self.epsilon),
                "step": written(self.step),
                "steps": self.steps,
                "restarts": self.restarts,
                "loss": self.loss,
            }
            yield accuracy(self.name, "robust_accuracy", robust, where)

    def _robust(self, model: nn.Module, part: Part, *, classes: int, branch: str, context: Context) -> Outcomes:
        """Which of the part's images are right clean and after every restart."""
        x = to_input(part.images, context.device)
        robust = correct(model, x, part, classes=classes, where=branch)
        for restart in range(self.restarts):
            if not robust.any():  # nothing left to lose; single images are not skipped, the batch keeps its shape
                break
            adversarial = self._attack(model, x, part, restart=restart, context=context)
            robust &= correct(model, adversarial, part, classes=classes, where=branch)
        return robust

    def _attack(self, model: nn.Module, x: Tensor, part: Part, *, restart: int, context: Context) -> Tensor:
        """The images after one attack."""
        rng = Stream.of(context.seed).at(self.name, restart)
        index = part.index.to(context.device)
        start = random_start(x, epsilon=self.epsilon, norm=self.norm, rng=rng, index=index)
        half = context.precision == "bfloat16"
        with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=half):
            adversarial = pgd(
                model,
                x,
                part.labels.to(context.device),
                epsilon=self.epsilon,
                step=self.step,
                steps=self.steps,
                norm=self.norm,
                start=start,
                loss=OBJECTIVES[self.loss],
            )
        far = distance(x, adversarial, self.norm).max()
        assert far <= self.epsilon * (1 + 1e-6 * (self.norm == "L2")), "the attack left its ball"
        return adversarial
