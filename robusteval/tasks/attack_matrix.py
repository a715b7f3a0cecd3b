"""Which branch withstands an attack that was made through which branch, or through all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from robusteval.data.sets import ImageSet
from robusteval.options import Count, options
from robusteval.progress import Silent
from robusteval.tasks.ball import Stepping
from robusteval.tasks.predict import judge
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
class AttackMatrix(Stepping):
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
        context.progress.begin(self.name, (len(models) + 1) * n * FurthestAstray(pgd).steps)
        clean = judge(models, data, replace(context, progress=Silent()))
        standing, all_passes = dict(clean), 0.0
        for made_on, network in models.items():
            verdicts = judged(network, models, data, pgd, context, key=f"{self.name} {made_on}")
            passes = verdicts.passes / n
            robust = {branch: clean[branch] & right for branch, right in verdicts.right.items()}
            yield from self._row(made_on, robust, passes)
            standing = {branch: standing[branch] & right for branch, right in robust.items()}
            all_passes += passes
        yield from self._row(WORST, standing, all_passes)
        verdicts = judged(MeanLogits(models.values()), models, data, pgd, context, key=f"{self.name} {MEAN}")
        robust = {branch: clean[branch] & right for branch, right in verdicts.right.items()}
        yield from self._row(MEAN, robust, len(models) * verdicts.passes / n)  # a pass is one of every branch

    def _row(self, made_on: str, robust: Mapping[str, Outcomes], passes: float) -> Iterator[Observation]:
        """What each branch makes of one attack."""
        for branch, right in robust.items():
            where = {"branch": branch, "attack_branch": made_on, **self.place}
            measurement, outcomes = accuracy(self.name, "robust_accuracy", right, where)
            yield Observation(measurement.model_copy(update={"passes": passes}), outcomes)
