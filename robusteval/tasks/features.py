"""How far an attack moves a network's features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.data.sets import ImageSet
from robusteval.features import captured, last_stage, penultimate
from robusteval.models.layers import global_average
from robusteval.options import Count, Norm, Radius, Step, in_pixel_units, options, written
from robusteval.randomness import Stream
from robusteval.records import Scalar
from robusteval.tasks.predict import Part, batches, parts, predict, to_input
from robusteval.tasks.task import Context, Observation, image_mean

PENULTIMATE = "penultimate"
"""The layer name of the classifier's input."""


class Attack(Protocol):
    """The options of a PGD attack."""

    @property
    def norm(self) -> Norm: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def step(self) -> float: ...
    @property
    def steps(self) -> int: ...


@options
class Features:
    """Distance and cosine between a network's features of an image and of its adversarial example.

    Features are the BatchNorm outputs of the last stage, rectified and averaged over the image, and the classifier's
    input: the layers that AR-AT regularises and the one it does not (Waseda et al., 2025, arXiv:2402.14648, fig. 3
    and table 5). White-box: the example is made through the branch that is measured, by cross-entropy from a
    uniform start, and is the one that task ``pgd`` with these options judges first. Networks run in eval mode.
    Intervals are t intervals over images.

    Attributes:
        norm: of the ball.
        epsilon: its radius, in units of the pixel range; ``"8/255"`` is accepted.
        step: length of a step.
        steps: of the attack.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "features"
    version: ClassVar[int] = 1

    norm: Norm = "Linf"
    epsilon: Radius = 8 / 255
    step: Step = 2 / 255
    steps: Count = 20
    limit: Count | None = None

    @model_validator(mode="after")
    def _in_pixel_units(self) -> Features:
        in_pixel_units(self.norm, epsilon=self.epsilon, step=self.step)
        return self

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Features:
        return self

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
                where = {"branch": branch, "attack_branch": branch, "layer": layer, **described(self)}
                yield image_mean(self.name, "feature_distance", torch.cat(found), where, low=0.0)
                yield image_mean(self.name, "feature_cosine", torch.cat(cosines[layer]), where, low=-1.0, high=1.0)


def described(attack: Attack) -> dict[str, Scalar]:
    """The attack as measurements name it."""
    return {
        "norm": attack.norm,
        "epsilon": written(attack.epsilon),
        "step": written(attack.step),
        "steps": attack.steps,
    }


def attacked(model: nn.Module, x: Tensor, part: Part, attack: Attack, context: Context) -> Tensor:
    """Adversarial examples of the part's images x, made through the network in eval mode."""
    rng = Stream.of(context.seed).at("pgd", 0)  # the draws of task pgd: both look at the same examples
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
            start=random_start(x, epsilon=attack.epsilon, norm=attack.norm, rng=rng, index=index),
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
