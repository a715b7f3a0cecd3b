"""Robust accuracy as the attack's radius grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from robusteval.attacks import OBJECTIVES, PgdSearch
from robusteval.attacks.doubts import State, state_of
from robusteval.attacks.objectives import objective
from robusteval.attacks.search import Threat
from robusteval.data.sets import ImageSet
from robusteval.options import Count, Norm, Positive, Radius, in_pixel_units, options, written
from robusteval.randomness import Stream
from robusteval.records import Scalar
from robusteval.tasks.examination import PLAIN, UNCHECKED, Checked, Verdict, examined, subject_of
from robusteval.tasks.predict import to_input
from robusteval.tasks.robust import EXAMINATION
from robusteval.tasks.task import Context, Observation, accuracy
from robusteval.tasks.withstand import Stage, Stand, withstand, work


@options
class EpsilonCurve(Checked):
    """Share of images that a network gets right clean and at every iterate of PGD attacks of growing radius.

    White-box, as in the task ``pgd``. An image that is broken is not attacked with greater radii: its example is in
    their balls, too. So the curve falls for every single image, each radius costs the attack of the images still
    standing, and a point, which counts what all radii up to it have broken, is at most what PGD of that radius alone
    would give. Radius 0 is accuracy on the images as they are, without an attack.

    The curve is examined as one number: that of the radius at which it is nearest to half of the clean accuracy, where
    many images are broken and many are not. Of several as near, it is the greatest where more than half are left, the
    least where fewer are.

    Attributes:
        norm: of the balls.
        epsilons: their radii, growing; fractions such as ``"8/255"`` are accepted.
        steps: steps of an attack.
        travel: how far all steps together could go, in radii: a step is travel x epsilon / steps long. The default,
            which such curves were first drawn with (Madry et al., 2018, arXiv:1706.06083, fig. 6), is enough to cross
            the ball from any start.
        loss: what the attack drives up, as in the task ``pgd``.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "epsilon_curve"
    version: ClassVar[int] = 1

    norm: Norm = "Linf"
    epsilons: Annotated[tuple[Radius, ...], Field(min_length=1)] = tuple(
        k / 255 for k in (0, 1, 2, 4, 6, 8, 12, 16, 24, 32)
    )
    steps: Count = 20
    travel: Positive = 2.5
    loss: Literal["ce", "margin", "dlr"] = "ce"
    limit: Count | None = None

    @model_validator(mode="after")
    def _growing_and_in_pixel_units(self) -> EpsilonCurve:
        in_pixel_units(self.norm, epsilons=max(self.epsilons))
        if any(one >= other or written(one) == written(other) for one, other in pairwise(self.epsilons)):
            given = ", ".join(map(written, self.epsilons))
            raise ValueError(f"epsilons: {given} do not grow; allowed: each once, from small to large")
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> EpsilonCurve:
        return self

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy of each network at each radius; see `Task`."""
        data = data.first(self.limit)
        stages = {
            epsilon: self._stage(epsilon, Stream.of(context.seed), len(data.classes))
            for epsilon in self.epsilons
            if epsilon
        }
        checked = min(self.checked, len(data.labels)) if stages else 0
        steps = len(data.labels) * max(work(list(stages.values())), 1) + checked * EXAMINATION
        context.progress.begin(self.name, len(models) * steps)
        for branch, model in models.items():
            before = state_of(model)
            stand = withstand(
                model,
                data,
                list(stages.values()),
                Threat(self.norm, self.epsilons[-1]),
                context,
                where=branch,
                key=f"{self.name} {branch}",
            )
            if not stages:
                context.progress.advance(len(data.labels))
            verdict = self._verdict(models, branch, stages, stand, data, context, before) if checked else UNCHECKED
            context.progress.advance(checked * EXAMINATION)
            passes = 0
            for epsilon in self.epsilons:
                robust = stand.after[stages[epsilon].name] if epsilon else stand.clean
                passes += stand.passes[stages[epsilon].name] if epsilon else 0
                found = accuracy(self.name, "robust_accuracy", robust, self._where(branch, epsilon))
                yield (verdict if epsilon else PLAIN).of(found, passes=passes / len(data.labels))

    def _verdict(
        self,
        models: Mapping[str, nn.Module],
        branch: str,
        stages: Mapping[float, Stage],
        stand: Stand,
        data: ImageSet,
        context: Context,
        before: State,
    ) -> Verdict:
        """The verdict on a network's curve, by one of its points."""
        model, few = models[branch], data.first(self.checked)
        beyond = {epsilon: stand.after[stage.name].mean() - stand.clean.mean() / 2 for epsilon, stage in stages.items()}
        epsilon = min(beyond, key=lambda epsilon: (abs(beyond[epsilon]), -epsilon if beyond[epsilon] > 0 else epsilon))
        stage = stages[epsilon]
        subject = subject_of(
            model,
            few,
            context,
            threat=Threat(self.norm, epsilon),
            robust=stand.after[stage.name][: len(few.labels)],
            examples=to_input(few.images, context.device),
            before=before,
            images=len(data.labels),
            search=stage.search,
            losses=(OBJECTIVES[self.loss],),
            others=models,
        )
        rows = subject.survivors()
        if len(rows):  # the attack's examples of later radii are beyond this one
            subject.examples[rows] = subject.attack(stage.search, model, rows)
        return examined(subject).noting(f"at epsilon {written(epsilon)}")

    def _step(self, epsilon: float) -> float:
        return self.travel * epsilon / self.steps

    def _stage(self, epsilon: float, rng: Stream, classes: int) -> Stage:
        """The attack with one radius; starts are those of all other radii, scaled."""
        threat = Threat(self.norm, epsilon)
        loss = objective(self.loss, classes=classes, where=self.name)
        search = PgdSearch(threat, self._step(epsilon), self.steps, rng.at(self.name), loss)
        return Stage(written(epsilon), search, threat)

    def _where(self, branch: str, epsilon: float) -> dict[str, Scalar]:
        return {
            "branch": branch,
            "attack_branch": branch,
            "norm": self.norm,
            "epsilon": written(epsilon),
            "step": written(self._step(epsilon)),
            "steps": self.steps,
            "loss": self.loss,
        }
