"""How far the nearest adversarial example is: the distribution over images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks.cw import CwSearch
from robusteval.attacks.doubts import State, state_of
from robusteval.attacks.fab import FabSearch
from robusteval.attacks.geometry import distance
from robusteval.attacks.objectives import negative_margin
from robusteval.attacks.search import Search, Threat
from robusteval.data.sets import ImageSet
from robusteval.options import Count, Norm, options, written
from robusteval.randomness import Stream
from robusteval.records import Measurement, Scalar
from robusteval.stats import Interval
from robusteval.tasks.examination import UNCHECKED, Checked, Verdict, examined, subject_of
from robusteval.tasks.portions import attack, portions, query_of
from robusteval.tasks.predict import right, to_input
from robusteval.tasks.robust import EXAMINATION
from robusteval.tasks.task import Context, Observation, accuracy, image_mean

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

SLACK = 1.25
"""A distance may be so many times too long: the least is not sought to the last digit."""

Floats = npt.NDArray[np.float64]


class Distances(NamedTuple):
    """How far each image's nearest adversarial example is, float64 (n,), and what it took.

    A distance is 0 for an image that is wrong unchanged and infinite where none was found. ``passes`` are images passed
    forward and backward, padding included.
    """

    values: Floats
    passes: int


@options
class MinimumNorm(Checked):
    """The distribution over images of the distance to the nearest adversarial example found.

    White-box. Quantiles with order-statistic intervals, the mean with its t interval, and the share of images without
    any example. An image that is wrong unchanged has distance 0. Where no example was found the distance is unknown,
    more than all that were; the quantiles that fall there are missing, and so is the mean. An attack can only
    overestimate distances.

    Every distance is that of an example which float32 predictions confirm and which lies in the pixel range, measured
    anew. Whether distances are much too long is examined at a radius r, the median of those of images that are right
    unchanged: an image whose distance is more than 1.25 r counts as robust at r, and the checks of robust accuracies
    look for examples there.

    Attributes:
        norm: of the distance.
        attack: ``fab``: `robusteval.attacks.fab.FabSearch` towards each of the likeliest wrong classes in turn;
            ``cw``: `robusteval.attacks.cw.CwSearch`, untargeted, L2 only.
        targets: classes that ``fab`` tries, at most; ``cw`` has none. Three of nine, and 40 iterations instead of 100,
            left the mean of an adversarially trained network 3 % higher at a seventh of the passes.
        rounds: values of its constant that ``cw`` tries; ``fab`` has none.
        iterations: towards each class; of each round.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "minimum_norm"
    version: ClassVar[int] = 3  # 1 searched in the precision of other attacks, 2 had another FAB

    norm: Norm = "Linf"
    attack: Literal["fab", "cw"] = "fab"
    targets: Count = 3
    rounds: Count = 9
    iterations: Count = 40
    limit: Count | None = 500

    @model_validator(mode="after")
    def _has_the_norm(self) -> MinimumNorm:
        if self.attack == "cw" and self.norm != "L2":
            raise ValueError(f"norm: cw does not minimise {self.norm}; allowed with it: 'L2'")
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> MinimumNorm:
        return self

    def searches(self, classes: int, rng: Stream) -> list[Search]:
        """The attacks, each of which hands back its nearest example."""
        if self.attack == "cw":
            return [CwSearch(rounds=self.rounds, iterations=self.iterations)]
        ranks = range(1, min(self.targets, classes - 1) + 1)
        return [FabSearch(self.norm, None, rank, rng.at(self.name, rank), self.iterations) for rank in ranks]

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """The distribution for each network; see `Task`."""
        data = data.first(self.limit)
        searches = self.searches(len(data.classes), Stream.of(context.seed))
        checked = min(self.checked, len(data.labels))
        steps = len(data.labels) * sum(search.steps for search in searches) + checked * EXAMINATION
        context.progress.begin(self.name, len(models) * steps)
        for branch, model in models.items():
            before = state_of(model)
            key = f"{self.name} {branch}"
            found = nearest_distances(model, data, searches, self.norm, context, where=branch, key=key)
            place: dict[str, Scalar] = {"branch": branch, "attack_branch": branch, "norm": self.norm}
            place |= {"attack": self.attack, "iterations": self.iterations}
            place |= {"targets": len(searches)} if self.attack == "fab" else {"rounds": self.rounds}
            # No two images in the pixel range are further apart.
            most = 1.0 if self.norm == "Linf" else math.sqrt(math.prod(data.images.shape[1:]))
            verdict = UNCHECKED
            if checked:
                verdict = self._verdict(models, branch, data, searches[0], found.values, context, before, most=most)
                context.progress.advance(checked * EXAMINATION)
            for observation in self._distribution(found.values, place, most):
                yield verdict.of(observation, passes=found.passes / len(data.labels))

    def _verdict(
        self,
        models: Mapping[str, nn.Module],
        branch: str,
        data: ImageSet,
        search: Search,
        values: Floats,
        context: Context,
        before: State,
        *,
        most: float,
    ) -> Verdict:
        """The verdict on a network's distances, as robust accuracy at one radius.

        The furthest quarter counts as robust at a radius that is `SLACK` times less than any distance of that quarter.
        """
        model, few = models[branch], data.first(self.checked)
        distances = values[: len(few.labels)]
        reached = np.sort(distances[distances > 0])
        far = min(float(reached[3 * len(reached) // 4]), SLACK * most) if len(reached) else SLACK * most
        radius = far / SLACK
        subject = subject_of(
            model,
            few,
            replace(context, precision="float32"),
            threat=Threat(self.norm, radius),
            robust=distances >= far,
            examples=to_input(few.images, context.device),
            before=before,
            images=len(data.labels),
            search=search,
            losses=(negative_margin,),
            others=models,
        )
        # What it hands back for an image that counts as robust is misclassified, and beyond the ball.
        return examined(subject, but=("no-progress",)).noting(f"at distance {written(radius)}")

    def _distribution(self, values: Floats, place: dict[str, Scalar], most: float) -> Iterator[Observation]:
        """Share without an example, mean, quantiles."""
        missing = values == np.inf
        yield accuracy(self.name, "unbroken_share", missing, place)
        if missing.any():
            note = f"no adversarial example was found of {int(missing.sum())} of {len(values)} images"
            mean = Measurement(
                task=self.name, metric="mean_distance", value=None, n=len(values), unit="number", where=place, note=note
            )
            yield Observation(mean, None)
        else:
            yield image_mean(self.name, "mean_distance", torch.from_numpy(values), place, low=0.0, high=most)
        for share in QUANTILES:
            value, interval = quantile(values, share)
            note = "" if interval else "no interval: its upper end is not among the distances found"
            measurement = Measurement(
                task=self.name,
                metric="distance_quantile",
                value=value,
                n=len(values),
                unit="number",
                low=interval and interval.low,
                high=interval and interval.high,
                where=place | {"quantile": share},
                note=note if value is not None else "no adversarial example was found of so many images",
            )
            yield Observation(measurement, None)


def quantile(values: Floats, share: float, level: float = 0.95) -> tuple[float | None, Interval | None]:
    """The least value that a share of all values does not exceed, and an interval whatever their distribution.

    The ends are values, too: those between whose ranks the number of values up to the true quantile, which is
    binomial, falls with probability ``level`` or more (David and Nagaraja, 2003, Order Statistics, sec. 7.1). None
    stands for a value, or an end, that is infinite or would need more values. A lower end that would is 0.

    Args:
        values: (n,), 0 or more.
        share: in (0, 1).
        level: the coverage, in (0, 1).

    >>> quantile(np.arange(1.0, 101.0), 0.5)
    (50.0, Interval(low=40.0, high=61.0))
    """
    from scipy.stats import binom

    n, ordered = len(values), np.sort(values)
    value = float(ordered[math.ceil(n * share - 1e-9) - 1])
    low, high = (int(binom.ppf(tail, n, share)) for tail in ((1 - level) / 2, (1 + level) / 2))
    top = float(ordered[high]) if high < n else math.inf
    interval = Interval(float(ordered[low - 1]) if low else 0.0, top) if top < math.inf else None
    return (value if value < math.inf else None), interval


def nearest_distances(
    model: nn.Module,
    data: ImageSet,
    searches: Sequence[Search],
    norm: Norm,
    context: Context,
    *,
    where: str,
    key: str,
) -> Distances:
    """The distances of the nearest examples of several searches, after ``advance`` was told of each image of each.

    Args:
        model: the network.
        data: images and labels.
        searches: each hands back its nearest example, or an image that is not misclassified if it found none.
        norm: of the distance.
        context: where and how.
        where: what the network is, for errors.
        key: of what is drafted; another one for every call of a task.

    Raises:
        OutsideTheBall: an example is not in the pixel range.
        UserError: see `robusteval.tasks.predict.logits`.
    """
    values, passes = np.empty(len(data.labels)), 0
    classes, size = len(data.classes), context.batch_size

    def still_right(images: Tensor, labels: Tensor) -> Tensor:
        return right(model, images, labels, classes=classes, where=where, batch_size=size)

    for portion in portions(data, context):
        part = context.draft.read(f"{key} {portion}")
        if part is None:
            wrong = ~still_right(portion.x, portion.y).cpu().numpy()
            part = {"values": np.where(wrong, 0.0, np.inf), "passes": np.array(0), "done": np.array(0)}
        context.progress.advance(sum(search.steps for search in searches[: int(part["done"])]) * len(portion.y))
        for search in searches[int(part["done"]) :]:
            attacked = torch.from_numpy(part["values"] > 0).to(context.device)
            query = query_of(model, context, exact=True)  # bfloat16 is too coarse to find the boundary
            made = attack(search, query, portion, attacked, Threat(norm, math.inf), context)
            unbroken = still_right(made, portion.y[attacked])
            far = distance(portion.x[attacked], made, norm).masked_fill(unbroken, math.inf)
            nearest = part["values"].copy()
            nearest[nearest > 0] = np.minimum(nearest[nearest > 0], far.cpu().numpy())
            spent = part["passes"] + (query.forward + query.backward)
            part = {"values": nearest, "passes": spent, "done": part["done"] + 1}
            context.draft.write(f"{key} {portion}", part)
        values[portion.rows] = part["values"]
        passes += int(part["passes"])
    return Distances(values, passes)
