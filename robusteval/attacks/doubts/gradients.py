"""Do the gradients that the attack followed exist, and do they say what the network does?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robusteval.attacks.doubts.subject import Subject, exceeds, judging, logits_of
from robusteval.attacks.objectives import Objective
from robusteval.attacks.search import Query
from robusteval.losses import margin

_ZERO_SHARE = 0.01
_WRONG_SHARE = 0.1
_STEP = 0.1 / 255
"""Of finite differences: far above the rounding of logits, and few units of a network switch on the way."""

_ROUNDING = 1e-4
"""Relative difference of logits that is certainly no rounding."""

_FACTOR = 2.0
"""By which a finite difference and the derivative may differ before they contradict one another."""


class _Slopes(NamedTuple):
    """Of the images that are right clean: gradients of the gap between the label's and the next logit.

    Attributes:
        gradient: shape of the images.
        rows: their rows in the subject.
        other: int64 (B,), the class that comes second.
    """

    gradient: Tensor
    rows: Tensor
    other: Tensor


def zero_gradient(subject: Subject) -> str | None:
    """The gap between the highest logits has no gradient at all."""
    if not subject.losses:
        return None
    slopes = _slopes(subject)
    zero = int(_vanished(slopes.gradient).sum())
    if not exceeds(zero, len(slopes.rows), _ZERO_SHARE):
        return None
    return f"the gradient of the logits is exactly 0 on {zero} of {len(slopes.rows)} images"


def saturated_loss(subject: Subject) -> str | None:
    """The logits have a gradient, but none of the losses that the attack drove up has one."""
    if not subject.losses:
        return None
    slopes = _slopes(subject)
    gone = ~_vanished(slopes.gradient)
    for loss in subject.losses:
        gone &= _vanished(_gradient(subject, loss, slopes.rows))
    count = int(gone.sum())
    if not exceeds(count, len(slopes.rows), _ZERO_SHARE):
        return None
    return (
        f"the gradient of the attack's loss is exactly 0 on {count} of {len(slopes.rows)} images, that of logits is not"
    )


def wrong_gradient(subject: Subject) -> str | None:
    """The gradient is not finite, or the network does not change as it says (central finite differences)."""
    if not subject.losses:
        return None
    slopes = _slopes(subject)
    broken = ~slopes.gradient.isfinite().flatten(1).all(dim=1)
    x = subject.x[slopes.rows]
    direction = slopes.gradient.nan_to_num().sign()
    said = (slopes.gradient.nan_to_num() * direction).flatten(1).double().sum(dim=1)
    y = subject.y[slopes.rows]
    ends = [logits_of(subject.attacked, x + sign * _STEP * direction) for sign in (1, -1)]
    high, low = (_gap(end, y, slopes.other).double() for end in ends)
    seen = (high - low) / (2 * _STEP)
    measurable = torch.maximum(said, seen.abs()) * 2 * _STEP > _ROUNDING * torch.stack(ends).abs().amax(dim=(0, 2))
    wrong = measurable & ((seen > said * _FACTOR) | (seen < said / _FACTOR))
    count = int((broken | wrong).sum())
    if int(broken.sum()) == 0 and not exceeds(count, len(slopes.rows), _WRONG_SHARE):
        return None
    bad, against = int(broken.sum()), int(wrong.sum())
    return f"of {len(slopes.rows)} gradients {bad} are not finite and {against} contradict finite differences"


def _slopes(subject: Subject) -> _Slopes:
    """See `_Slopes`."""
    out = logits_of(subject.attacked, subject.x)
    rows = torch.nonzero(margin(out, subject.y) > 0).squeeze(1)
    other = out[rows].scatter(1, subject.y[rows].unsqueeze(1), -torch.inf).argmax(dim=1)
    return _Slopes(_gradient(subject, lambda logits, y: _gap(logits, y, other), rows), rows, other)


def _gap(logits: Tensor, y: Tensor, other: Tensor) -> Tensor:
    """The other class's logit minus the label's (B,)."""
    return logits.gather(1, other.unsqueeze(1)).squeeze(1) - logits.gather(1, y.unsqueeze(1)).squeeze(1)


def _gradient(subject: Subject, loss: Objective, rows: Tensor) -> Tensor:
    """The gradient of a loss in float32 at some of the images."""
    if not len(rows):
        return subject.x[rows]
    query = Query(subject.attacked)
    with judging(subject.attacked):
        return query.gradient(subject.x[rows], lambda logits: loss(logits, subject.y[rows]))[1]


def _vanished(gradient: Tensor) -> Tensor:
    """Whether each image's gradient is 0 everywhere, bool (B,)."""
    return (gradient == 0).flatten(1).all(dim=1)
