"""Which branch withstands an attack that was made through which branch, or through all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from robusteval.attacks.doubts import Subject, state_of
from robusteval.data.sets import ImageSet
from robusteval.options import Count, options
from robusteval.progress import Silent
from robusteval.tasks.ball import Stepping
from robusteval.tasks.examination import UNCHECKED, Checked, Verdict, examined, subject_of, transferred
from robusteval.tasks.predict import judge
from robusteval.tasks.robust import EXAMINATION
from robusteval.tasks.surrogate import FurthestAstray, judged
from robusteval.tasks.task import Context, Observation, Outcomes, accuracy

MEAN, WORST = "mean", "worst"
"""What ``attack_branch`` says of attacks through the mean of the branches' logits, and of all branches' examples."""


class MeanLogits(nn.Module):
    """The mean of several networks' logits; gradients go through all of them."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images."""
        return torch.stack([network(x) for network in self.networks]).mean(dim=0)


@options
class AttackMatrix(Stepping, Checked):
    """Share of images that a branch gets right clean and under PGD through each branch, and through several at once.

    Each branch, and the mean of all branches' logits, is attacked once: of every image, wrong or not, all steps are
    taken, and the example is the iterate that the attacked network errs on most
    (`robusteval.tasks.surrogate.FurthestAstray`). Every branch is asked about every example. ``attack_branch`` is the
    branch that the example was made through; ``mean``: through the mean of logits; ``worst``: the judged branch is
    right on the examples of every branch.

    A branch under its own attack has the number of the task ``pgd`` with one restart: the same starts and steps, and
    the iterate that is looked at is misclassified iff one of them is. Methods with one branch are not measured.

    Attributes:
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "attack_matrix"
    version: ClassVar[int] = 1

    limit: Count | None = None

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy for each attack and branch; see `Task`."""
        if len(models) < 2:
            return
        assert not {MEAN, WORST} & models.keys()
        data = data.first(self.limit)
        n = len(data.labels)
        pgd = self.search(context.seed)
        checked = min(self.checked, n)
        examination = len(models) * checked * (EXAMINATION + len(models) * pgd.steps)
        context.progress.begin(self.name, (len(models) + 1) * n * FurthestAstray(pgd).steps + examination)
        clean = judge(models, data, replace(context, progress=Silent()))
        before = {branch: state_of(model) for branch, model in models.items()}
        standing, all_passes = dict(clean), 0.0
        own: dict[str, tuple[Verdict, Subject]] = {}
        for made_on, network in (*models.items(), (MEAN, MeanLogits(models.values()))):
            verdicts = judged(network, models, data, pgd, context, key=f"{self.name} {made_on}", keep=checked)
            robust = {branch: clean[branch] & right for branch, right in verdicts.right.items()}
            trust = dict.fromkeys(models, UNCHECKED)
            for branch, model in models.items() if checked else ():
                subject = subject_of(
                    model,
                    data.first(checked),
                    context,
                    attacked=network,
                    threat=self.threat,
                    robust=robust[branch][:checked],
                    examples=verdicts.examples,
                    before=before[branch],
                    images=n,
                    search=pgd,
                    others=models,
                )
                white = made_on == branch
                trust[branch] = examined(subject) if white else transferred(subject, made_on, pgd)
                if white:
                    own[branch] = trust[branch], subject
                context.progress.advance(checked * (EXAMINATION if white else pgd.steps))
            if made_on == MEAN:  # a pass is one of every branch
                worst = dict.fromkeys(models, UNCHECKED)
                for branch, (verdict, subject) in own.items():
                    worst[branch] = verdict.reconsidered(subject, "transfer", standing[branch][:checked])
                yield from self._row(WORST, standing, all_passes, worst)
                yield from self._row(MEAN, robust, len(models) * verdicts.passes / n, trust)
                return
            yield from self._row(made_on, robust, verdicts.passes / n, trust)
            standing = {branch: standing[branch] & right for branch, right in robust.items()}
            all_passes += verdicts.passes / n

    def _row(
        self, made_on: str, robust: Mapping[str, Outcomes], passes: float, trust: Mapping[str, Verdict]
    ) -> Iterator[Observation]:
        """What each branch makes of one attack."""
        for branch, right in robust.items():
            where = {"branch": branch, "attack_branch": made_on, **self.place}
            yield trust[branch].of(accuracy(self.name, "robust_accuracy", right, where), passes=passes)
