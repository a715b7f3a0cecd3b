"""How much the value of a number varies from one training to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEAST = 0.05
"""A ratio of variances below this share of its expectation is taken for it: of few images, equal values are common."""


class Spread(NamedTuple):
    """What one number tells of the spread of trainings.

    Attributes:
        variance: of a training's value, the sample variance.
        freedom: its degrees of freedom.
        of_images: the part of the variance that single images make, the e_si; it is never less than this.
    """

    variance: float
    freedom: int
    of_images: float


def spread(outcomes: npt.NDArray[Any]) -> Spread | None:
    """The spread of trainings with outcomes (S, n); None for one training."""
    kind = np.asarray(outcomes, dtype=np.float64)
    freedom, n = len(kind) - 1, kind.shape[1]
    if not freedom:
        return None
    variance = float(kind.mean(axis=1).var(ddof=1))
    rest = float(((kind - kind.mean(axis=1)[:, None] - kind.mean(axis=0) + kind.mean()) ** 2).sum())
    # Where all trainings agree on all images, the next one may differ on one of them.
    of_image = max(rest / (freedom * max(n - 1, 1)), (1 - 1 / n) / n)
    return Spread(variance, freedom, of_image / n)


def moderated(spreads: Sequence[Spread]) -> list[tuple[float, float]]:
    """The variance of a training's value and its degrees of freedom, for numbers of one family.

    Ratios of the sample variances to what single images make of them are taken for draws around true ratios that
    follow an inverse chi-squared law, whose centre and width are estimated from all of them; each is shrunk to the
    centre by what the law is worth in degrees of freedom (Smyth, 2004, doi:10.2202/1544-6115.1027), which are at most
    those of all numbers of the family together. No ratio becomes less than it is, nor than 1: where the true ratios
    follow another law, shrinking those above the centre made up to four times as many false alarms as promised.
    """
    from scipy.special import digamma, polygamma

    ratios = np.array([max(one.variance / one.of_images, LEAST) for one in spreads])
    freedom = np.array([one.freedom for one in spreads], dtype=np.float64)
    found, known = ratios, freedom
    if len(spreads) > 1:
        logs = np.log(ratios) - digamma(freedom / 2) + np.log(freedom / 2)
        excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2).mean())
        prior = 2 * _inverse_trigamma(excess) if excess > 0 else math.inf
        if math.isinf(prior):
            found = np.full_like(ratios, float((ratios * freedom).sum() / freedom.sum()))
        else:
            centre = math.exp(float(logs.mean() + digamma(prior / 2) - math.log(prior / 2)))
            found = (prior * centre + freedom * ratios) / (prior + freedom)
        found = np.maximum(found, ratios)
        known = np.minimum(freedom + prior, freedom.sum())
    return [
        (max(float(ratio), 1.0) * one.of_images, float(df))
        for ratio, df, one in zip(found, known, spreads, strict=True)
    ]


def _inverse_trigamma(value: float) -> float:
    """The x whose trigamma is the value, by bisection of its logarithm: trigamma falls from infinity to 0."""
    from scipy.special import polygamma

    low, high = math.log(1e-6), math.log(1e6)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if float(polygamma(1, math.exp(middle))) > value else (low, middle)
    return math.exp(low)
