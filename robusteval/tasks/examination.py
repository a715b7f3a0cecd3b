"""The examination of an attack's number, for tasks of every kind: on which images, by which checks."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from robusteval.attacks.doubts import CHECKS, NETWORK, SLOPES, State, Subject, examine, reason
from robusteval.attacks.doubts.rivals import WEAKER
from robusteval.attacks.doubts.subject import exceeds, predictions
from robusteval.attacks.objectives import Objective
from robusteval.attacks.search import Search, Threat
from robusteval.data.sets import ImageSet
from robusteval.losses import cross_entropy
from robusteval.options import Whole, options
from robusteval.randomness import Stream
from robusteval.records import Reason, Trust
from robusteval.tasks.predict import to_input
from robusteval.tasks.task import Context, Observation, Outcomes


@options
class Checked:
    """Options of tasks whose numbers are examined.

    Attributes:
        checked: images, from the first, on which `robusteval.attacks.doubts` examines the numbers; 0: they are
            unchecked.
    """

    checked: Whole = 100


class Verdict(NamedTuple):
    """What an examination came to."""

    trust: Trust
    reasons: tuple[Reason, ...] = ()

    @classmethod
    def on(cls, reasons: Sequence[Reason]) -> Self:
        """The verdict that the reasons add up to."""
        doubtful = any(reason.level == "doubt" for reason in reasons)
        return cls("flagged" if doubtful else "ok", tuple(dict.fromkeys(reasons)))

    def noting(self, place: str) -> Self:
        """The same, where the evidence is of one place only; what the number is of remains the number's."""
        told = [
            found if found.name == "subset" else found.model_copy(update={"evidence": f"{place}, {found.evidence}"})
            for found in self.reasons
        ]
        return self._replace(reasons=tuple(told))

    def reconsidered(self, subject: Subject, name: str, robust: Outcomes) -> Self:
        """The verdict on a number of more attacks than the one on the subject, which may make up for what a check saw.

        Args:
            subject: what the verdict is on.
            name: of the check, which is made again where it found something.
            robust: bool (n,): which of the subject's images withstand all attacks.
        """
        rest = [found for found in self.reasons if found.name != name]
        if len(rest) == len(self.reasons):
            return self
        left = replace(subject, robust=torch.from_numpy(robust).to(subject.robust.device))
        return type(self).on((*rest, *examine(left, names=(name,))))

    def of(self, observation: Observation, **more: Any) -> Observation:
        """The observation with this verdict, and with other fields of its measurement changed."""
        update = {"trust": self.trust, "reasons": self.reasons, **more}
        return observation._replace(measurement=observation.measurement.model_copy(update=update))


UNCHECKED, PLAIN = Verdict("unchecked"), Verdict("plain")
"""Nobody looked; there is nothing to look at."""


def subject_of(
    model: nn.Module,
    few: ImageSet,
    context: Context,
    *,
    threat: Threat,
    robust: Outcomes,
    examples: Tensor,
    before: State,
    images: int,
    search: Search | None = None,
    attacked: nn.Module | None = None,
    losses: tuple[Objective, ...] = (cross_entropy,),
    others: Mapping[str, nn.Module] | None = None,
    index: Tensor | None = None,
) -> Subject:
    """What the checks are given; its fields are explained in `robusteval.attacks.doubts.Subject`.

    Args:
        model: the network that is judged.
        few: the images on which it is examined.
        context: where and how.
        threat: what the attack was allowed.
        examples: what it handed back for the few.
        before: the judged network's state before the attack.
        images: how many the number is of.
        search: the attack, to be run again; None where it cannot be.
        losses: what it drove up.
        robust: bool (n,): which of the few are right clean and after the attack.
        attacked: the network that was attacked; None: the one that is judged.
        others: branches whose examples may transfer, the judged one among them or not.
        index: int64 (n,) numbers of the few in their set; None: they are the first.
    """
    return Subject(
        model=model,
        attacked=model if attacked is None else attacked,
        x=to_input(few.images, context.device),
        y=few.labels.to(context.device),
        index=(torch.arange(len(few.labels)) if index is None else index).to(context.device),
        classes=len(few.classes),
        threat=threat,
        robust=torch.from_numpy(np.asarray(robust)).to(context.device),
        examples=examples.to(context.device),
        rng=Stream.of(context.seed).at("doubts"),
        search=search,
        losses=losses,
        precision=context.precision,
        others={name: other for name, other in (others or {}).items() if other is not model},
        before=before,
        images=images,
        available=few.available,
    )


def examined(subject: Subject, *, but: Container[str] = ()) -> Verdict:
    """The verdict on a white-box number by every check, except those that do not apply to it.

    Args:
        subject: the number.
        but: names of checks.
    """
    return Verdict.on(examine(subject, names=[name for name in CHECKS if name not in but]))


def transferred(subject: Subject, source: str, white: Search) -> Verdict:
    """The verdict on a transfer number. It claims nothing of the judged network's robustness, so that less applies.

    Asked are: is the judged network a fixed function of one image; have the gradients at the source a meaning; and do
    its examples break what attacks through the judged network do not.

    Args:
        subject: the number; its ``attacked`` is the source.
        source: its name.
        white: the same attack, for the judged network itself.
    """
    reasons = list(examine(subject, names=("subset", *NETWORK)))
    if any(CHECKS[found.name].decisive for found in reasons):
        return Verdict.on(reasons)
    for found in examine(subject, names=SLOPES):
        reasons.append(found.model_copy(update={"evidence": f"at {source}, {found.evidence}"}))
    fallen = predictions(subject.model, subject.x) == subject.y
    fallen &= ~subject.robust
    resisting = int(fallen.sum()) - replace(subject, robust=fallen).broken_by(white)
    if exceeds(resisting, n := len(subject.x), WEAKER):
        evidence = f"examples made on {source} break {resisting} of {n} images that the same attack through the "
        reasons.append(reason("transfer", f"{evidence}network itself does not"))
    return Verdict.on(reasons)
