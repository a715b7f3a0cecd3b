"""How branches differ: distances of their statistics and affine parameters, and what swapping either one changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, product
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robusteval.corruptions import GENERATOR_VERSION
from robusteval.data.sets import ImageSet
from robusteval.options import Count, options
from robusteval.progress import Within
from robusteval.records import Measurement, Scalar
from robusteval.tasks.adversarial import Pgd
from robusteval.tasks.ball import Stepping
from robusteval.tasks.clean import Clean
from robusteval.tasks.portions import steps_of_a_batch
from robusteval.tasks.predict import batches
from robusteval.tasks.task import Context, Observation, Task
from robusteval.tasks.views import CLEAN, Corrupted


class Normal(NamedTuple):
    """A BatchNorm layer's view of its input and output, by channel: float64 (C,) each.

    Attributes:
        mean, var: of the input; the variance with the layer's eps, as the layer divides by it.
        scale, shift: of the output: gamma and beta; 1 and 0 without affine parameters.
    """

    mean: Tensor
    var: Tensor
    scale: Tensor
    shift: Tensor


def distances(first: Normal, second: Normal) -> dict[str, float | None]:
    """How far one layer is from itself in another branch; every distance is symmetric.

    With means m, variances v, scales g and shifts b of the two branches, and means over channels:

    - ``mean_distance`` = sqrt(mean((m1 - m2)^2 / ((v1 + v2) / 2))): in standard deviations;
    - ``variance_distance`` = mean(|ln(v1 / v2)|);
    - ``symmetric_kl`` = mean(((v1 - v2)^2 / (v1 v2) + (m1 - m2)^2 (1 / v1 + 1 / v2)) / 2): KL(1 || 2) + KL(2 || 1) of
      normal distributions with these moments, in nats;
    - ``scale_distance`` and ``shift_distance`` = sqrt(mean((g1 - g2)^2) / G) and sqrt(mean((b1 - b2)^2) / G) with
      G = mean((g1^2 + g2^2) / 2): in standard deviations of the output. None where G is 0.
    """
    (m1, v1, g1, b1), (m2, v2, g2, b2) = first, second
    square = (m1 - m2) ** 2
    unit = float(((g1**2 + g2**2) / 2).mean())
    return {
        "mean_distance": float((2 * square / (v1 + v2)).mean().sqrt()),
        "variance_distance": float((v1 / v2).log().abs().mean()),
        "symmetric_kl": float(((v1 - v2) ** 2 / (v1 * v2) + square * (1 / v1 + 1 / v2)).mean() / 2),
        "scale_distance": (float(((g1 - g2) ** 2).mean()) / unit) ** 0.5 if unit else None,
        "shift_distance": (float(((b1 - b2) ** 2).mean()) / unit) ** 0.5 if unit else None,
    }


@options
class Branches(Corrupted, Stepping):
    """Distances between the BatchNorm branches of a network, and accuracy with one's statistics and another's affine.

    Distances (`distances`) are measured for each pair of branches and each layer, and as their mean over layers.
    Then each ordered pair of branches gives a network with the running statistics of the one and the affine
    parameters of the other, whose accuracy is measured on clean and corrupted images and under PGD through that very
    network; a branch paired with itself is that branch. Methods with one branch are not measured.

    Attributes:
        limit: images for clean and corrupted accuracy, from the first; None for all.
        attack_limit: images that are attacked, from the first; None for all.
    """

    name: ClassVar[str] = "branches"
    version: ClassVar[int] = int(GENERATOR_VERSION) + Pgd.version

    limit: Count | None = 500
    steps: Count = 10
    attack_limit: Count | None = 200

    def _pgd(self) -> Pgd:
        values = {field: getattr(self, field) for field in ("norm", "epsilon", "step", "steps")}
        return Pgd(**values, limit=self.attack_limit, checked=0)

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Distances of each pair of branches, then the accuracies of each swapped network; see `Task`."""
        if len(models) < 2 or not _norms(next(iter(models.values()))):
            return
        each = steps_of_a_batch(context)
        judged = batches(data.first(self.limit), context) * each
        attacked = len(data.first(self.attack_limit).labels) * self.steps
        context.progress.begin(self.name, (1 + self.cells) * judged + len(models) ** 2 * attacked)
        for pair in combinations(models, 2):
            yield from self._distances(models, pair)

        pairs = {f"statistics of {s}, affine of {a}": (s, a) for s, a in product(models, repeat=2)}
        swapped = {label: _swapped(models[s], models[a]) for label, (s, a) in pairs.items()}
        tasks: tuple[Task, ...] = (Clean(limit=self.limit), replace(self.corruption(), limit=self.limit), self._pgd())
        for task in tasks:
            inner = replace(context, progress=Within(context.progress, 1 if isinstance(task, Pgd) else each))
            for measurement, outcomes in task.measure(swapped, data, inner):
                rest = {key: value for key, value in measurement.where.items() if not key.endswith("branch")}
                if "corruption" in rest:
                    rest = {"images": rest.pop("corruption"), **rest}
                elif isinstance(task, Clean):
                    rest = {"images": CLEAN}
                statistics, affine = pairs[str(measurement.where["branch"])]
                where = {"statistics": statistics, "affine": affine, **rest}
                yield Observation(measurement.model_copy(update={"task": self.name, "where": where}), outcomes)

    def _distances(self, models: Mapping[str, nn.Module], pair: tuple[str, str]) -> Iterator[Observation]:
        """Every distance of every layer, then each distance's mean over layers."""
        first, second = (_norms(models[branch]) for branch in pair)
        found: dict[str, list[float]] = {}
        for layer, norm in first.items():
            place: dict[str, Scalar] = {"branch": pair[0], "other": pair[1], "layer": layer}
            for metric, value in distances(_normal(norm), _normal(second[layer])).items():
                yield self._number(metric, value, norm.num_features, place)
                if value is not None:
                    found.setdefault(metric, []).append(value)
        for metric, values in found.items():
            place = {"branch": pair[0], "other": pair[1], "layers": len(values)}
            yield self._number(metric, sum(values) / len(values), len(values), place)

    def _number(self, metric: str, value: float | None, n: int, where: dict[str, Scalar]) -> Observation:
        note = "" if value is not None else "the scale is 0 in both branches"
        measurement = Measurement(
            task=self.name, metric=metric, value=value, n=n, unit="number", where=where, note=note
        )
        return Observation(measurement, None)


def _norms(network: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


def _normal(norm: _BatchNorm) -> Normal:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = norm.running_mean.double(), norm.running_var.double() + norm.eps
    if not norm.affine:
        return Normal(mean, var, torch.ones_like(mean), torch.zeros_like(mean))
    return Normal(mean, var, norm.weight.detach().double(), norm.bias.detach().double())


@torch.no_grad()
def _swapped(statistics: nn.Module, affine: nn.Module) -> nn.Module:
    """A copy of the one network with the other's affine parameters; all else is the same in both."""
    swapped = copy.deepcopy(statistics)
    own, others = _norms(swapped), _norms(affine)
    for layer, norm in own.items():
        if norm.affine:
            norm.weight.copy_(others[layer].weight)
            norm.bias.copy_(others[layer].bias)
    return swapped
