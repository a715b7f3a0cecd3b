"""Accuracy under stronger attacks than PGD, each alone and as the standard ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from robusteval.attacks.apgd import TARGETS, ApgdSearch, Target
from robusteval.attacks.fab import FabSearch
from robusteval.attacks.objectives import OBJECTIVES, Objective, negative_margin
from robusteval.attacks.search import Search, Threat
from robusteval.attacks.square import SquareSearch
from robusteval.errors import UserError
from robusteval.losses import cross_entropy, logit_ratio
from robusteval.options import Count, options
from robusteval.randomness import Stream
from robusteval.records import Scalar
from robusteval.tasks.robust import RobustAccuracy
from robusteval.tasks.withstand import Stage

Part = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"]

STANDARD: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
"""AutoAttack's standard version (Croce and Hein, 2020, arXiv:2003.01690, sec. 6)."""


_LOSSES: Mapping[Part, Objective] = {
    "apgd-ce": cross_entropy,
    "apgd-dlr": logit_ratio,
    "apgd-t": logit_ratio,
    "fab-t": negative_margin,
}
"""What the parts that follow gradients drive up, for the examination; nearly so for the targeted ones."""


@options
class Apgd(RobustAccuracy):
    """Share of images that a network gets right clean and at every iterate of Auto-PGD through itself.

    See `robusteval.attacks.apgd.ApgdSearch`.

    Attributes:
        steps: iterations.
        restarts: attacks of an image; for ``targeted``, of an image towards each class.
        loss: ``ce``: cross-entropy; ``dlr``: the difference of logits ratio; ``targeted``: the targeted one, towards
            each of the nine likeliest wrong classes in turn.
    """

    name: ClassVar[str] = "apgd"
    version: ClassVar[int] = 1

    steps: Count = 100
    restarts: Count = 1
    loss: Literal["ce", "dlr", "targeted"] = "ce"

    @property
    def place(self) -> dict[str, Scalar]:
        """The attack as measurements name it."""
        return super().place | {"steps": self.steps, "restarts": self.restarts, "loss": self.loss}

    def stages(self, rng: Stream, classes: int) -> list[Stage]:
        """The restarts, each towards all classes."""
        part: Part = "apgd-t" if self.loss == "targeted" else "apgd-ce" if self.loss == "ce" else "apgd-dlr"
        draws = [rng.at(self.name).at(restart) for restart in range(self.restarts)]
        return [_stage(part, self.threat, draws, classes, steps=self.steps, queries=1)]

    @property
    def losses(self) -> tuple[Objective, ...]:
        """See `RobustAccuracy`."""
        return (cross_entropy if self.loss == "ce" else logit_ratio,)


@options
class AutoAttack(RobustAccuracy):
    """Share of images that a network gets right clean and after every attack of an ensemble.

    The default is AutoAttack's standard version with its settings: APGD on the cross-entropy, targeted APGD, targeted
    FAB and Square, each on the images that the ones before left standing. Records call it ``standard`` only then.
    Targeted attacks take turns over classes, the likeliest wrong class first.

    Attributes:
        attacks: parts of the ensemble, in order.
        steps: iterations of APGD and FAB.
        queries: of Square.
    """

    name: ClassVar[str] = "autoattack"
    version: ClassVar[int] = 2

    attacks: Annotated[tuple[Part, ...], Field(min_length=1)] = STANDARD
    steps: Count = 100
    queries: Count = 5000

    @model_validator(mode="after")
    def _distinct(self) -> AutoAttack:
        if len(set(self.attacks)) < len(self.attacks):
            raise ValueError("attacks: one is listed twice; allowed: each once")
        return self

    @property
    def place(self) -> dict[str, Scalar]:
        """The attack as measurements name it."""
        if (self.attacks, self.steps, self.queries) == (STANDARD, 100, 5000):
            return super().place | {"attack": "standard"}
        return super().place | {"attack": " ".join(self.attacks), "steps": self.steps, "queries": self.queries}

    def stages(self, rng: Stream, classes: int) -> list[Stage]:
        """The parts."""
        rng = rng.at(self.name)
        return [
            _stage(part, self.threat, [rng.at(part)], classes, steps=self.steps, queries=self.queries)
            for part in self.attacks
        ]

    @property
    def losses(self) -> tuple[Objective, ...]:
        """See `RobustAccuracy`."""
        return tuple(_LOSSES[part] for part in self.attacks if part in _LOSSES)


def _stage(part: Part, threat: Threat, draws: Sequence[Stream], classes: int, *, steps: int, queries: int) -> Stage:
    """A part of the ensemble; targeted searches begin with the likeliest class.

    Args:
        part: its name.
        threat: what it may do.
        draws: of each restart.
        classes: how many the data have.
        steps: iterations of APGD and FAB.
        queries: of Square.

    Raises:
        UserError: the data have too few classes for its loss.
    """
    least = {"apgd-dlr": 3, "apgd-t": 4}.get(part, 2)
    if classes < least:
        raise UserError(f"{part}: the data have {classes} classes; allowed: {least} or more, or another attack")
    ranks = range(1, min(TARGETS, classes - 1) + 1)
    searches: list[Search]
    if part == "square":
        searches = [SquareSearch(threat, rng, steps=queries) for rng in draws]
    elif part == "apgd-t":
        searches = [ApgdSearch(threat, steps, rng.at(rank), Target(rank)) for rng in draws for rank in ranks]
    elif part == "fab-t":
        norm, epsilon = threat
        searches = [
            FabSearch(norm, epsilon, rank, rng.at(rank), steps, bisections=0) for rng in draws for rank in ranks
        ]
    else:
        searches = [ApgdSearch(threat, steps, rng, OBJECTIVES[part.removeprefix("apgd-")]) for rng in draws]
    return Stage(part, searches[0], exact=part == "fab-t", then=tuple(searches[1:]))
