"""The reference implementation of AutoAttack beside ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import nn

from robusteval.attacks.apgd import TARGETS
from robusteval.attacks.doubts import state_of
from robusteval.attacks.geometry import check_inside
from robusteval.attacks.objectives import negative_margin
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.losses import cross_entropy, logit_ratio
from robusteval.modes import evaluating, true_float32
from robusteval.options import Count, options
from robusteval.tasks.ball import InBall
from robusteval.tasks.examination import UNCHECKED, Checked, examined, subject_of
from robusteval.tasks.predict import right, to_input
from robusteval.tasks.task import Context, Observation, accuracy

PACKAGE = "pyautoattack"


@options
class PyAutoAttack(InBall, Checked):
    """Share of images that a network gets right clean and after the standard ensemble of the package pyautoattack.

    The package is the published code of Croce and Hein (2020, arXiv:2003.01690). It is here to check the task
    ``autoattack`` with, not to replace it: it computes in float32, stops no image early, draws one seed for a batch, so
    that its batches are part of the result, and cannot be resumed. What it hands back is judged and examined as ours
    is, but for the check that would have to run it again on other images (``silent-success``), and for the one that
    asks where it failed (``no-progress``): it hands the image itself back there. ``planted`` asks PGD instead.

    Attributes:
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "pyautoattack"
    version: ClassVar[int] = 1

    limit: Count | None = None

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy of each network; see `Task`.

        Raises:
            UserError: the package is not installed.
        """
        if find_spec(PACKAGE) is None:
            raise UserError(
                f"{self.name}: the package {PACKAGE} is not installed; pip install 'robusteval[autoattack]'"
            )
        data = data.first(self.limit)
        portions = math.ceil(len(data.labels) / context.batch_size)
        context.progress.begin(self.name, len(models) * portions)
        where = self.place | {"attack": "standard", "package": f"{PACKAGE} {version(PACKAGE)}"}
        x, y = to_input(data.images, context.device), data.labels.to(context.device)
        checked = min(self.checked, len(y))
        for branch, model in models.items():
            before, examples = state_of(model), x[:checked].clone()
            robust = right(model, x, y, classes=len(data.classes), where=branch, batch_size=context.batch_size)
            for first in range(0, len(y), context.batch_size):
                rows = slice(first, first + context.batch_size)
                found = self._attack(model, x[rows].contiguous(), y[rows], context, classes=len(data.classes))
                examples[rows] = found[: max(checked - first, 0)]
                check_inside(x[rows], found, norm=self.norm, epsilon=self.epsilon * (1 + 1e-5))  # it rounds otherwise
                robust[rows] &= right(
                    model, found, y[rows], classes=len(data.classes), where=branch, batch_size=context.batch_size
                )
                context.progress.advance()
            place = {"branch": branch, "attack_branch": branch, **where}
            observation, verdict = accuracy(self.name, "robust_accuracy", robust.cpu().numpy(), place), UNCHECKED
            if checked:
                few = subject_of(
                    model,
                    data.first(checked),
                    context,
                    threat=self.threat,
                    robust=robust[:checked].cpu().numpy(),
                    examples=examples,
                    before=before,
                    images=len(y),
                    losses=(cross_entropy, logit_ratio, negative_margin),
                    others=models,
                )
                verdict = examined(few, but=("no-progress",))
            yield verdict.of(observation)

    def _attack(
        self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, context: Context, *, classes: int
    ) -> torch.Tensor:
        """What the package makes of some images."""
        from pyautoattack import AutoAttack

        # It returns the examples and the classes that they are taken for, and seeds torch's global generator.
        gpus = [] if context.device.type == "cpu" else [context.device]
        with evaluating(model), true_float32(), torch.random.fork_rng(gpus):
            attack = AutoAttack(model, eps=self.epsilon, norm=self.norm, seed=context.seed, device=context.device)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, classes - 1)
            examples, _ = attack.run_standard_evaluation(x, y, batch_size=len(y))
        found: torch.Tensor = examples
        return found
