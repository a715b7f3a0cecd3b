"""Robust accuracy: the share of images that withstand attacks, with its verdict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import nn

from robusteval.attacks.doubts import state_of
from robusteval.attacks.objectives import Objective
from robusteval.data.sets import ImageSet
from robusteval.options import Count, options
from robusteval.randomness import Stream
from robusteval.tasks.ball import InBall
from robusteval.tasks.examination import UNCHECKED, Checked, examined, subject_of
from robusteval.tasks.task import Context, Observation, accuracy
from robusteval.tasks.withstand import Stage, Stand, withstand, work

EXAMINATION = 200
"""Steps of PGD that the examination of a number costs for each image, about."""


@options
class RobustAccuracy(InBall, Checked, ABC):
    """Share of images that a network gets right clean and after attacks through itself, one after another.

    Attributes:
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    limit: Count | None = None

    @abstractmethod
    def stages(self, rng: Stream, classes: int) -> list[Stage]:
        """The attacks, in order.

        Args:
            rng: the evaluation's own draws.
            classes: how many the data have.

        Raises:
            UserError: too few for the loss.
        """

    @property
    @abstractmethod
    def losses(self) -> tuple[Objective, ...]:
        """What the attacks drive up, for the examination."""

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy of each network; see `Task`."""
        stages = self.stages(Stream.of(context.seed), len(data.classes))
        attacked = data.first(self.limit)
        n = len(attacked.labels)
        checked = min(self.checked, n)
        context.progress.begin(self.name, len(models) * (n * work(stages) + checked * EXAMINATION))
        for branch, model in models.items():
            before = state_of(model)
            key = f"{self.name} {branch}"
            stand = withstand(model, attacked, stages, self.threat, context, where=branch, key=key, keep=checked)
            place = {"branch": branch, "attack_branch": branch, **self.place}
            observation, verdict = accuracy(self.name, "robust_accuracy", stand.robust, place), UNCHECKED
            if checked:
                subject = subject_of(
                    model,
                    attacked.first(checked),
                    context,
                    threat=self.threat,
                    robust=stand.robust[:checked],
                    examples=stand.examples,
                    before=before,
                    images=n,
                    search=stages[0].search,
                    losses=self.losses,
                    others=models,
                )
                verdict = examined(subject)
                context.progress.advance(checked * EXAMINATION)
            yield verdict.of(observation, passes=sum(stand.passes.values()) / n, note=_course(stand))


def _course(stand: Stand) -> str:
    """How many images were left after each part of an ensemble; nothing where there is one."""
    if len(stand.after) == 1:
        return ""
    return "still right: " + ", ".join(f"{outcomes.sum()} after {part}" for part, outcomes in stand.after.items())
