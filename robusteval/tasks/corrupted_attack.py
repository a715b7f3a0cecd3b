"""Accuracy on corrupted images that are attacked on top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from robusteval.corruptions import GENERATOR_VERSION
from robusteval.data.sets import ImageSet
from robusteval.options import Count, options
from robusteval.randomness import Stream
from robusteval.records import Measurement, Scalar
from robusteval.stats import mean_interval
from robusteval.tasks.adversarial import Pgd
from robusteval.tasks.ball import Stepping
from robusteval.tasks.task import Context, Observation, Outcomes, accuracy
from robusteval.tasks.views import CLEAN, Corrupted, views
from robusteval.tasks.withstand import withstand, work


@options
class CorruptedAttack(Corrupted, Stepping):
    """Accuracy on corrupted images, and what is left of it when each is attacked within the ball around it.

    First the image is corrupted, then PGD starts from the corrupted image, as if a camera had seen it so: the ball is
    around that, not around the original (Li et al., 2024, arXiv:2310.12793, attack under distribution shifts alike).
    An image counts as robust if it is right corrupted and at every iterate. The same is measured on the images as they
    are, and the means over all corruptions and severities. White-box, as in the task ``pgd``.

    Attributes:
        restarts, loss: the attack, as in the task ``pgd``.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "corrupted_attack"
    version: ClassVar[int] = int(GENERATOR_VERSION)  # other images, other numbers

    restarts: Count = 1
    loss: Literal["ce", "margin", "dlr"] = "ce"
    limit: Count | None = 500

    def _pgd(self) -> Pgd:
        fields = ("norm", "epsilon", "step", "steps", "restarts", "loss")
        return Pgd(**{field: getattr(self, field) for field in fields})

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Both accuracies of each network on each kind of images, then their means; see `Task`."""
        data = data.first(self.limit)
        n, pgd = len(data.labels), self._pgd()
        stages = pgd.stages(Stream.of(context.seed), len(data.classes), where=self.name)
        context.progress.begin(self.name, len(models) * (1 + self.cells) * n * work(stages))
        corruption = self.corruption().resolved(data, context.data_dir)
        unharmed: dict[str, list[Outcomes]] = {branch: [] for branch in models}
        robust: dict[str, list[Outcomes]] = {branch: [] for branch in models}
        sources = []
        for view in views(data, corruption, context):
            images = view.where["images"]
            for branch, model in models.items():
                key = f"{self.name} {branch} {images} {view.where.get('severity', 0)}"
                stand = withstand(model, view.data, stages, self.threat, context, where=branch, key=key)
                yield accuracy(self.name, "accuracy", stand.clean, {"branch": branch, **view.where})
                where = {"branch": branch, "attack_branch": branch, **view.where, **pgd.place}
                measurement, outcomes = accuracy(self.name, "robust_accuracy", stand.robust, where)
                passes = sum(stand.passes.values()) / n
                yield Observation(measurement.model_copy(update={"passes": passes}), outcomes)
                if images != CLEAN:
                    unharmed[branch].append(stand.clean)
                    robust[branch].append(stand.robust)
                    sources.append(view.where["source"])
        over = self.over(sources[0] if len(set(sources)) == 1 else "mixed")
        for branch in models:
            yield self._mean("mean_accuracy", unharmed[branch], {"branch": branch, **over})
            where = {"branch": branch, "attack_branch": branch, **over, **pgd.place}
            yield self._mean("mean_robust_accuracy", robust[branch], where)

    def _mean(self, metric: str, cells: list[Outcomes], where: dict[str, Scalar]) -> Observation:
        """The mean over cells; images, not image-cell pairs, are what its interval counts."""
        scores: npt.NDArray[np.float64] = np.stack(cells).mean(axis=0)
        low, high = mean_interval(scores)
        value = float(scores.mean())
        measurement = Measurement(
            task=self.name, metric=metric, value=value, n=len(scores), low=low, high=high, where=where
        )
        return Observation(measurement, None)
