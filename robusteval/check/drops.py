"""By how much numbers fell, with intervals that allow for other test images and for trainings with other seeds.

A network that was trained again is another network: another seed, processor or version of torch gives other weights,
and a paired test of the two would call their difference real. It is, but it is no news. So a baseline holds several
trainings, and the question is whether the new training is worse than a further one of the old kind would be.

Networks x images is a crossed layout: what image i gives training s is m_i + a_s + e_si. Of the difference between the
baseline's mean and the new one on n images,

- trainings have the variance v (1/S + 1/R), with v that of a training's value, S trainings of old and R of new. It is
  that of a *prediction* for R more trainings, not of the baseline's mean. From S = 5 values alone, v would be known so
  badly that only a drop of six standard deviations or more could be told from noise among some dozens of numbers. It
  is therefore moderated: see `moderated`.
- images have what the differences of images vary by beyond what the e_si explain. It is 0 for equal code.

Both parts have t quantiles, and the squares of their half-widths are added, as in `robusteval.stats.seeds_and_images`.

Where all networks are the very ones of the baseline (equal weights), or nothing is known of other trainings (one of
old and one of new), the networks are fixed and only the images vary: the interval is Tango's, or the paired t's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.stats import difference_interval

Floats = npt.NDArray[np.float64]

LEAST = 0.05
"""A ratio of variances below this share of its expectation is taken for it: of few images, equal values are common."""


class Paired(NamedTuple):
    """A number of the baseline and the same one now, image by image.

    Attributes:
        before: (S, n) booleans or shares.
        now: (R, n), of the same images in the same order.
        family: numbers of one family vary alike with the seed, more or less.
        fixed: these very networks are compared, not what was trained to get them.
    """

    before: npt.NDArray[Any]
    now: npt.NDArray[Any]
    family: Hashable
    fixed: bool


class Drop(NamedTuple):
    """A fall, as a fraction: positive is worse than before; ends included.

    Attributes:
        noise: the standard deviation of the training's part of it; None where the networks are fixed.
    """

    value: float
    low: float
    high: float
    noise: float | None


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


def drops(pairs: Sequence[Paired], *, false_alarms: float) -> list[Drop]:
    """The fall of each number with an interval; that any lower end is above the true fall has the given probability.

    The level is Bonferroni's. Whether anything is red depends on the least p-value alone, for which Holm's method is
    no better, and Bonferroni's intervals say the same as its test.

    Args:
        pairs: all numbers that one call of the gate compares.
        false_alarms: the probability, at most, of one or more lower ends that are too high.
    """
    tail = false_alarms / max(len(pairs), 1)
    families: dict[Hashable, list[int]] = defaultdict(list)
    spreads: dict[int, Spread] = {}
    for position, pair in enumerate(pairs):
        spread = None if pair.fixed else _spread(pair)
        if spread is not None:
            spreads[position] = spread
            families[pair.family].append(position)
    variances: dict[int, tuple[float, float]] = {}
    for members in families.values():
        variances |= dict(zip(members, moderated([spreads[one] for one in members]), strict=True))
    return [
        _retrained(pair, spreads[position], *variances[position], tail) if position in spreads else _fixed(pair, tail)
        for position, pair in enumerate(pairs)
    ]


def _spread(pair: Paired) -> Spread | None:
    """The spread of the old trainings, of the new ones where there is one old one; None where there is one of each.

    The new ones' own has no say otherwise: one of them that collapsed would widen the interval of its own drop.
    """
    kind = np.asarray(pair.before if len(pair.before) > 1 else pair.now, dtype=np.float64)
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


def _retrained(pair: Paired, spread: Spread, variance: float, freedom: float, tail: float) -> Drop:
    """The fall of a number of trainings, given the variance of a training's value."""
    from scipy.special import stdtrit

    per_image = pair.before.mean(axis=0, dtype=np.float64) - pair.now.mean(axis=0, dtype=np.float64)
    n, value = len(per_image), float(per_image.mean())
    both = 1 / len(pair.before) + 1 / len(pair.now)
    of_trainings = variance * both
    of_images = max(float(per_image.var(ddof=1)) / n - spread.of_images * both, 0.0) if n > 1 else 0.0
    t_trainings, t_images = (float(-stdtrit(df, tail)) for df in (freedom, max(n - 1, 1)))
    half = math.sqrt(t_trainings**2 * of_trainings + t_images**2 * of_images)
    return Drop(value, max(value - half, -1.0), min(value + half, 1.0), math.sqrt(of_trainings))


def _fixed(pair: Paired, tail: float) -> Drop:
    """The fall of fixed networks on other images of the kind."""
    from scipy.special import stdtrit

    before, now = pair.before, pair.now
    if len(before) == len(now) == 1 and before.dtype == now.dtype == np.bool_:
        first, second = int((before & ~now).sum()), int((~before & now).sum())
        n = before.shape[1]
        low, high = difference_interval(first, second, n, 1 - 2 * tail)
        return Drop((first - second) / n, float(low), float(high), None)
    per_image = before.mean(axis=0, dtype=np.float64) - now.mean(axis=0, dtype=np.float64)
    value, n = float(per_image.mean()), len(per_image)
    spread = float(per_image.std(ddof=1)) if n > 1 else 0.0
    half = float(-stdtrit(max(n - 1, 1), tail)) * spread / math.sqrt(n)
    return Drop(value, max(value - half, -1.0), min(value + half, 1.0), None)
