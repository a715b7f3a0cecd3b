"""By how much numbers fell, with intervals that allow for other test images and for trainings with other seeds.

A network that was trained again is another network: another seed, processor or version of torch gives other weights,
and a paired test of the two would call their difference real. It is, but it is no news. So a baseline holds several
trainings, and the question is whether the new training is worse than a further one of the old kind would be.

Networks x images is a crossed layout: what image i gives training s is m_i + a_s + e_si. Of the difference between the
baseline's mean and the new one on n images,

- trainings have the variance v (1/S + 1/R), with v that of a training's value, S trainings of old and R of new. It is
  that of a *prediction* for R more trainings, not of the baseline's mean. From S = 5 values alone, v would be known so
  badly that only a drop of six standard deviations or more could be told from noise among some dozens of numbers. It
  is therefore moderated: see `robusteval.check.spreads.moderated`.
- images have what the differences of images vary by beyond what the e_si explain. It is 0 for equal code.

Both parts have t quantiles, and the squares of their half-widths are added, as in `robusteval.stats.seeds_and_images`.

Where all networks are the very ones of the baseline (equal weights), or nothing is known of other trainings (one of
old and one of new), the networks are fixed and only the images vary: the interval is Tango's, or the paired t's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.check.spreads import Spread, moderated, spread
from robusteval.stats import difference_interval


class Paired(NamedTuple):
    """A number of the baseline and the same one now, image by image.

    Attributes:
        before: (S, n) booleans or shares.
        now: (R, n), of the same images in the same order.
        family: numbers of one family vary alike with the seed, more or less.
        fixed: these very networks are compared, not what was trained to get them.
        tolerance: a drop that nobody minds.
    """

    before: npt.NDArray[Any]
    now: npt.NDArray[Any]
    family: Hashable
    fixed: bool
    tolerance: float = 0.0


class Drop(NamedTuple):
    """A fall, as a fraction: positive is worse than before; ends included.

    Attributes:
        noise: the standard deviation of the training's part of it; None where the networks are fixed.
        blind: even a fall to 0 would have an interval that reaches down to the tolerance.
    """

    value: float
    low: float
    high: float
    noise: float | None
    blind: bool = False


def drops(pairs: Sequence[Paired], *, false_alarms: float) -> list[Drop]:
    """The fall of each number with an interval; that any lower end is above the true fall has the given probability.

    The level is Bonferroni's. Whether anything is red depends on the least p-value alone, for which Holm's method is
    no better, and Bonferroni's intervals say the same as its test. It is shared by the numbers that could be red at
    all: one whose fall to 0 would be within its interval if it were the only number takes no share (as Tarone, 1990,
    doi:10.2307/2531456, does for tables of few counts). The baseline alone decides that (where it holds one training,
    the spread of the new ones has a say). Those that could be red by the whole level, but not by their share, count:
    which numbers these are is not known well enough from five seeds, and to leave them out would favour those whose
    spread happens to be underestimated.

    Args:
        pairs: all numbers that one call of the gate compares.
        false_alarms: the probability, at most, of one or more lower ends that are too high.
    """
    variances = _variances(pairs)
    falls, deepest = (
        [_fall(pair, now, variance) for pair, now, variance in zip(pairs, every, variances, strict=True)]
        for every in ([pair.now for pair in pairs], [np.zeros_like(pair.now) for pair in pairs])
    )

    def seen(tail: float) -> list[bool]:
        return [fall(tail).low > pair.tolerance for fall, pair in zip(deepest, pairs, strict=True)]

    tail = false_alarms / max(sum(seen(false_alarms)), 1)
    return [fall(tail)._replace(blind=not shown) for fall, shown in zip(falls, seen(tail), strict=True)]


class _Variance(NamedTuple):
    """What is known of a number's trainings: its spread, moderated, with its degrees of freedom."""

    of_images: float
    of_training: float
    freedom: float


def _variances(pairs: Sequence[Paired]) -> list[_Variance | None]:
    """Of each number, moderated by its family; None where the networks are fixed or one of each is known."""
    families: dict[Hashable, list[int]] = defaultdict(list)
    spreads: dict[int, Spread] = {}
    for position, pair in enumerate(pairs):
        # The new trainings' own has no say but there is one old one: one of them that collapsed would widen the
        # interval of its own drop.
        known = None if pair.fixed else spread(pair.before if len(pair.before) > 1 else pair.now)
        if known is not None:
            spreads[position] = known
            families[pair.family].append(position)
    found: list[_Variance | None] = [None] * len(pairs)
    for members in families.values():
        for position, (variance, freedom) in zip(members, moderated([spreads[one] for one in members]), strict=True):
            found[position] = _Variance(spreads[position].of_images, variance, freedom)
    return found


def _fall(pair: Paired, now: npt.NDArray[Any], variance: _Variance | None) -> Callable[[float], Drop]:
    """The drop of a number to some outcomes, given the error level of each end."""
    return partial(_fixed, pair.before, now) if variance is None else partial(_retrained, pair.before, now, variance)


def _retrained(before: npt.NDArray[Any], now: npt.NDArray[Any], known: _Variance, tail: float) -> Drop:
    """The fall of a number of trainings, given the variance of a training's value."""
    from scipy.special import stdtrit

    per_image = before.mean(axis=0, dtype=np.float64) - now.mean(axis=0, dtype=np.float64)
    n, value = len(per_image), float(per_image.mean())
    both = 1 / len(before) + 1 / len(now)
    of_trainings = known.of_training * both
    of_images = max(float(per_image.var(ddof=1)) / n - known.of_images * both, 0.0) if n > 1 else 0.0
    t_trainings, t_images = (float(-stdtrit(df, tail)) for df in (known.freedom, max(n - 1, 1)))
    half = math.sqrt(t_trainings**2 * of_trainings + t_images**2 * of_images)
    return Drop(value, max(value - half, -1.0), min(value + half, 1.0), math.sqrt(of_trainings))


def _fixed(before: npt.NDArray[Any], now: npt.NDArray[Any], tail: float) -> Drop:
    """The fall of fixed networks on other images of the kind."""
    from scipy.special import stdtrit

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
