"""Accuracy on corrupted images that are attacked on top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robusteval.attacks.doubts import State, examine, state_of
from robusteval.corruptions import GENERATOR_VERSION
from robusteval.data.sets import ImageSet
from robusteval.options import Count, options
from robusteval.randomness import Stream
from robusteval.records import Measurement, Scalar
from robusteval.stats import mean_interval
from robusteval.tasks.adversarial import Pgd
from robusteval.tasks.ball import Stepping
from robusteval.tasks.examination import UNCHECKED, Checked, Verdict, examined, subject_of
from robusteval.tasks.predict import to_input
from robusteval.tasks.robust import EXAMINATION
from robusteval.tasks.task import Context, Observation, Outcomes, accuracy
from robusteval.tasks.views import CLEAN, Corrupted, views
from robusteval.tasks.withstand import Stage, Stand, withstand, work


class _Few(NamedTuple):
    """Some images of a condition with what became of them, for the examination.

    Attributes:
        images, labels: as in the set.
        numbers: int64 (n,), theirs in it.
        robust, examples: as in `Stand`.
    """

    images: Tensor
    labels: Tensor
    numbers: Tensor
    robust: Outcomes
    examples: Tensor

    @classmethod
    def of(cls, data: ImageSet, stand: Stand, rows: slice) -> _Few:
        """The images in those rows."""
        numbers = torch.arange(len(data.labels))
        return cls(data.images[rows], data.labels[rows], numbers[rows], stand.robust[rows], stand.examples[rows])


@options
class CorruptedAttack(Corrupted, Stepping, Checked):
    """Accuracy on corrupted images, and what is left of it when each is attacked within the ball around it.

    First the image is corrupted, then PGD starts from the corrupted image, as if a camera had seen it so: the ball is
    around that, not around the original (Li et al., 2024, arXiv:2310.12793, attack under distribution shifts alike).
    An image counts as robust if it is right corrupted and at every iterate. The same is measured on the images as they
    are, and the means over all corruptions and severities. White-box, as in the task ``pgd``.

    A network's numbers are examined together, on the first images, each in one condition in turn.

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
        n, pgd, checked = len(data.labels), self._pgd(), min(self.checked, len(data.labels))
        stages = pgd.stages(Stream.of(context.seed), len(data.classes), where=self.name)
        steps = (1 + self.cells) * n * work(stages) + checked * EXAMINATION
        context.progress.begin(self.name, len(models) * steps)
        corruption = self.corruption().resolved(data, context.data_dir)
        unharmed: dict[str, list[Outcomes]] = {branch: [] for branch in models}
        robust: dict[str, list[Outcomes]] = {branch: [] for branch in models}
        sources = []
        before = {branch: state_of(model) for branch, model in models.items()}
        found: dict[str, list[Observation]] = {branch: [] for branch in models}
        few: dict[str, list[_Few]] = {branch: [] for branch in models}
        for position, view in enumerate(views(data, corruption, context)):
            images = view.where["images"]
            rows = slice(position, checked, 1 + self.cells)
            for branch, model in models.items():
                key = f"{self.name} {branch} {images} {view.where.get('severity', 0)}"
                stand = withstand(model, view.data, stages, self.threat, context, where=branch, key=key, keep=checked)
                found[branch].append(accuracy(self.name, "accuracy", stand.clean, {"branch": branch, **view.where}))
                where = {"branch": branch, "attack_branch": branch, **view.where, **pgd.place}
                measurement, outcomes = accuracy(self.name, "robust_accuracy", stand.robust, where)
                passes = sum(stand.passes.values()) / n
                found[branch].append(Observation(measurement.model_copy(update={"passes": passes}), outcomes))
                few[branch].append(_Few.of(view.data, stand, rows))
                if images != CLEAN:
                    unharmed[branch].append(stand.clean)
                    robust[branch].append(stand.robust)
                    sources.append(view.where["source"])
        over = self.over(sources[0] if len(set(sources)) == 1 else "mixed")
        for branch in models:
            found[branch].append(self._mean("mean_accuracy", unharmed[branch], {"branch": branch, **over}))
            where = {"branch": branch, "attack_branch": branch, **over, **pgd.place}
            found[branch].append(self._mean("mean_robust_accuracy", robust[branch], where))
        for branch in models:
            verdict = UNCHECKED
            if checked:
                verdict = self._verdict(models, branch, data, few[branch], stages[0], context, before[branch])
                context.progress.advance(checked * EXAMINATION)
            for observation in found[branch]:
                attacked = "robust" in observation.measurement.metric
                yield verdict.of(observation) if attacked else observation

    def _verdict(
        self,
        models: Mapping[str, nn.Module],
        branch: str,
        data: ImageSet,
        few: list[_Few],
        stage: Stage,
        context: Context,
        before: State,
    ) -> Verdict:
        """The verdict on all robust accuracies of a network, on images of all conditions."""
        images, labels = (torch.cat(parts) for parts in zip(*((one.images, one.labels) for one in few), strict=True))
        subject = subject_of(
            models[branch],
            replace(data, images=images, labels=labels, whole=data.available),
            context,
            threat=self.threat,
            robust=np.concatenate([one.robust for one in few]),
            examples=torch.cat([one.examples for one in few]),
            before=before,
            images=len(data.labels),
            search=stage.search,
            losses=self._pgd().losses,
            others=models,
            index=torch.cat([one.numbers for one in few]),
        )
        # Severe corruptions bring honest networks to chance; mixed-up labels are found on the images as they are.
        verdict, clean = examined(subject, but=("clean-at-chance",)), data.first(self.checked)
        unharmed = replace(subject, x=to_input(clean.images, context.device), y=clean.labels.to(context.device))
        return Verdict.on((*verdict.reasons, *examine(unharmed, names=("clean-at-chance",))))

    def _mean(self, metric: str, cells: list[Outcomes], where: dict[str, Scalar]) -> Observation:
        """The mean over cells; images, not image-cell pairs, are what its interval counts."""
        scores: npt.NDArray[np.float64] = np.stack(cells).mean(axis=0)
        low, high = mean_interval(scores)
        value = float(scores.mean())
        measurement = Measurement(
            task=self.name, metric=metric, value=value, n=len(scores), low=low, high=high, where=where
        )
        return Observation(measurement, None)
