"""What a gate lets pass: the tolerances and the rate of false alarms that somebody asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robusteval.check.baseline import KINDS, Baseline
from robusteval.errors import UserError, unknown

Tolerances = Mapping[str | None, float]
"""By number or kind; None stands for all."""


def tolerances(texts: Sequence[str]) -> Tolerances:
    """The tolerances of ``--tolerance``: ``0.02`` for all numbers, ``attack=0.03`` for a kind or a number.

    Raises:
        UserError: no fraction.

    >>> tolerances(["0.02", "attack=0.03"])
    {None: 0.02, 'attack': 0.03}
    """
    found: dict[str | None, float] = {}
    for text in texts:
        key, equals, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < 1 or (equals and not key):
            raise UserError(f"--tolerance {text}: no fraction; allowed: 0 to 1, e.g. 0.02, or for some: attack=0.02")
        found[key if equals else None] = number
    return found


def ruled(baseline: Baseline, allowed: Tolerances, false_alarms: float | None = None) -> Baseline:
    """The baseline with other tolerances and another rate of false alarms, where given.

    Raises:
        UserError: a tolerance for a number that the baseline has not.
    """
    given = {key: value for key, value in allowed.items() if key is not None}
    everywhere = allowed.get(None)
    tolerance = dict(baseline.tolerance if everywhere is None else dict.fromkeys(KINDS, everywhere)) | given
    for key in tolerance:
        if key not in KINDS and key not in baseline.quantities:
            raise unknown("tolerance", "number", key, {*KINDS, *baseline.quantities})
    rate = baseline.false_alarms if false_alarms is None else false_alarms
    return baseline.model_copy(update={"tolerance": tolerance, "false_alarms": rate})


def inherited(baseline: Baseline, former: Baseline) -> Baseline:
    """The baseline with the former's rules, those for numbers that are gone left out."""
    kept = {key: value for key, value in former.tolerance.items() if key in KINDS or key in baseline.quantities}
    rules = {"tolerance": kept, "false_alarms": former.false_alarms, "wall_tolerance": former.wall_tolerance}
    return baseline.model_copy(update=rules)
