"""How far an attack moves a network's features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.data.sets import ImageSet
from robusteval.features import captured, last_stage, penultimate
from robusteval.models.layers import global_average
from robusteval.options import Count, options
from robusteval.tasks.ball import Stepping, starts
from robusteval.tasks.predict import Part, batches, parts, predict, to_input
from robusteval.tasks.task import Context, Observation, image_mean

PENULTIMATE = "penultimate"
"""The layer name of the classifier's input."""


@options
class Features(Stepping):
    """Distance and cosine between a network's features of an image and of its adversarial example.

    Features are the BatchNorm outputs of the last stage, rectified and averaged over the image, and the classifier's
    input: the layers that AR-AT regularises and the one it does not (Waseda et al., 2025, arXiv:2402.14648, fig. 3
    and table 5). White-box: the example is made through the branch that is measured, by cross-entropy from a
    uniform start, and is the one that task ``pgd`` with these options judges first. Networks run in eval mode.
    Intervals are t intervals over images.

    Attributes:
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "features"
    version: ClassVar[int] = 1

    limit: Count | None = None

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Mean distance and mean cosine of each layer of each network; see `Task`."""
        data = data.first(self.limit)
        context.progress.begin(self.name, len(models) * batches(data, context))
        for branch, model in models.items():
            distances: dict[str, list[Tensor]] = {}
            cosines: dict[str, list[Tensor]] = {}
            for part in parts(data, context.batch_size):
                x = to_input(part.images, context.device)
                clean = represented(model, x, classes=len(data.classes), where=branch)
                x_adv = attacked(model, x, part, self, context)
                moved = represented(model, x_adv, classes=len(data.classes), where=branch)
                for layer, z in clean.items():
                    distances.setdefault(layer, []).append((moved[layer] - z).norm(dim=1)[: part.n].cpu())
                    cosine = F.cosine_similarity(moved[layer], z, dim=1).clamp(-1, 1)
                    cosines.setdefault(layer, []).append(cosine[: part.n].cpu())
                context.progress.advance()
            for layer, found in distances.items():
                where = {"branch": branch, "attack_branch": branch, "layer": layer, **self.place}
                yield image_mean(self.name, "feature_distance", torch.cat(found), where, low=0.0)
                yield image_mean(self.name, "feature_cosine", torch.cat(cosines[layer]), where, low=-1.0, high=1.0)


def attacked(model: nn.Module, x: Tensor, part: Part, attack: Stepping, context: Context) -> Tensor:
    """Adversarial examples of the part's images x, made through the network in eval mode."""
    index = part.index.to(context.device)
    half = context.precision == "bfloat16"
    with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=half):
        return pgd(
            model,
            x,
            part.labels.to(context.device),
            epsilon=attack.epsilon,
            step=attack.step,
            steps=attack.steps,
            norm=attack.norm,
            start=random_start(x, epsilon=attack.epsilon, norm=attack.norm, rng=starts(context.seed), index=index),
        )


def pooled(output: Tensor) -> Tensor:
    """A layer's output, rectified and averaged over the image: (B, C)."""
    return global_average(F.relu(output))


def represented(model: nn.Module, x: Tensor, *, classes: int, where: str) -> dict[str, Tensor]:
    """The features of each layer, float64 (B, D)."""
    with captured(model, last_stage(model)) as kept, penultimate(model) as before:
        predict(model, x, classes=classes, where=where)
    found = {layer: pooled(output).double() for layer, output in kept.items()}
    return found | {PENULTIMATE: before[-1].double()}
