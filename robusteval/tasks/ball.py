"""Options that attacking tasks share: the ball, and the steps that PGD takes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from robusteval.attacks import PgdSearch
from robusteval.attacks.search import Threat
from robusteval.data.sets import ImageSet
from robusteval.options import Count, Norm, Radius, Step, in_pixel_units, options, written
from robusteval.randomness import Stream
from robusteval.records import Scalar


def starts(seed: int) -> Stream:
    """What the first restart of the task ``pgd`` draws: tasks that start there look at the same examples."""
    return Stream.of(seed).at("pgd", 0)


@options
class InBall:
    """Options of attacks that may move an image anywhere in a ball around it.

    Attributes:
        norm: of the ball.
        epsilon: its radius, in units of the pixel range; ``"8/255"`` is accepted.
    """

    norm: Norm = "Linf"
    epsilon: Radius = 8 / 255

    @model_validator(mode="after")
    def _radius_in_pixel_units(self) -> Self:
        in_pixel_units(self.norm, epsilon=self.epsilon)
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Self:
        """See `Task`."""
        return self

    @property
    def threat(self) -> Threat:
        """What an attack may do."""
        return Threat(self.norm, self.epsilon)

    @property
    def place(self) -> dict[str, Scalar]:
        """The attack as measurements name it."""
        return {"norm": self.norm, "epsilon": written(self.epsilon)}


@options
class Stepping(InBall):
    """Options of attacks by steps of one length.

    Attributes:
        step: length of a step; a fraction such as ``"2/255"`` is accepted.
        steps: of an attack.
    """

    step: Step = 2 / 255
    steps: Count = 20

    @model_validator(mode="after")
    def _step_in_pixel_units(self) -> Self:
        in_pixel_units(self.norm, step=self.step)
        return self

    @property
    def place(self) -> dict[str, Scalar]:
        """The attack as measurements name it."""
        return super().place | {"step": written(self.step), "steps": self.steps}

    def search(self, seed: int) -> PgdSearch:
        """PGD on the cross-entropy from `starts`."""
        return PgdSearch(self.threat, self.step, self.steps, starts(seed))
