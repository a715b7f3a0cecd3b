"""Whether what makes features invariant also makes them classify: the angle between the two losses' gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from robusteval.branches import MAIN
from robusteval.data.sets import ImageSet
from robusteval.features import captured, last_stage
from robusteval.losses import cosine_distance, cross_entropy, mean_squared_distance
from robusteval.modes import evaluating, frozen_statistics, true_float32
from robusteval.options import Count, options
from robusteval.records import Measurement, Scalar
from robusteval.stats import t_interval
from robusteval.tasks.ball import Stepping
from robusteval.tasks.features import attacked, pooled
from robusteval.tasks.predict import Part, predict, to_input
from robusteval.tasks.task import Context, Observation

ALL = "all"
"""The layer name of all weights together."""


class Agreement(NamedTuple):
    """How two gradients lie to each other: the cosine, None where one is zero, and the share of opposite signs."""

    cosine: float | None
    conflict: float


@options
class Gradients(Stepping):
    """Cosine and share of conflicting signs of the gradients of classification and invariance, over shared weights.

    The classification loss is the cross-entropy of the main branch on images plus that of another branch on
    adversarial examples, which are made through that branch in eval mode. The invariance loss is the distance
    between the two branches' features, the BatchNorm outputs of the last stage, rectified and averaged over the
    image, in the mean over layers and images (Waseda et al., 2025, arXiv:2402.14648, fig. 2). It is
    taken without a predictor, in three forms (``stop_gradient``): ``none`` lets both features move, ``clean``
    holds the clean ones, as AR-AT does, and ``adversarial`` the others. Gradients are with respect to the weights of
    convolutions and linear layers that train, without biases and BatchNorm; those of a weight that branches share
    add up. A conflict is a weight whose two gradients have opposite signs. Layers with a gradient of 0, such as the
    classifier's of the invariance loss, count among all weights but have no row of their own.

    Values are means over batches, intervals t intervals over batches. Networks without a second branch or without
    BatchNorm give nothing.

    Attributes:
        distance: ``cosine``: one minus the cosine; ``mse``.
        statistics: what BatchNorm normalises with when gradients are taken: the running statistics (``eval``) or
            those of the ``batch``, as in training.
        images: which set they are of; ``train`` needs a network whose training is known and gives nothing without.
        batch_size: images behind a gradient, at most: batches are made equal, up to one image.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "gradients"
    version: ClassVar[int] = 1

    steps: Count = 10
    distance: Literal["cosine", "mse"] = "cosine"
    statistics: Literal["eval", "batch"] = "eval"
    images: Literal["test", "train"] = "test"
    batch_size: Count = 128
    limit: Count | None = 1024

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Both numbers for every branch beside the main one, for all weights and per layer; see `Task`."""
        others = [branch for branch in models if branch != MAIN]
        if self.images == "train":
            if context.origin is None:
                return
            data = context.origin.data
        if MAIN not in models or not others or not last_stage(models[MAIN]) or not _weights(models[MAIN]):
            return
        data = data.first(self.limit)
        batches = list(_batches(data, self.batch_size))
        context.progress.begin(self.name, len(others) * len(batches))
        for branch in others:
            found: dict[tuple[str, str], list[Agreement]] = defaultdict(list)
            for part in batches:
                for place, agreement in self._agreements(models, branch, part, data, context):
                    found[place].append(agreement)
                context.progress.advance()
            for (stopped, layer), agreements in found.items():
                cosines = [agreement.cosine for agreement in agreements]
                if layer != ALL and all(cosine is None for cosine in cosines):
                    continue
                where = {
                    "branch": branch,
                    "clean_branch": MAIN,
                    "attack_branch": branch,
                    "stop_gradient": stopped,
                    "layer": layer,
                    "distance": self.distance,
                    "statistics": self.statistics,
                    "images": self.images,
                    "batch_size": self.batch_size,
                    **self.place,
                }
                n, conflicts = len(data.labels), [agreement.conflict for agreement in agreements]
                yield _mean("gradient_cosine", cosines, where, n=n, low=-1.0)
                yield _mean("sign_conflict", conflicts, where, n=n, low=0.0)

    def _agreements(
        self, models: Mapping[str, nn.Module], branch: str, part: Part, data: ImageSet, context: Context
    ) -> Iterator[tuple[tuple[str, str], Agreement]]:
        """The agreement for each form of the invariance loss and each layer, on one batch."""
        main, other = models[MAIN], models[branch]
        x, y = to_input(part.images, context.device), part.labels.to(context.device)
        for name in (MAIN, branch):
            predict(models[name], x, classes=len(data.classes), where=name)  # refuses what are no finite logits
        x_adv = attacked(other, x, part, self, context)
        weights = _weights(main), _weights(other)
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False), true_float32():
            logits, clean = self._look(main, x)
            logits_adv, adversarial = self._look(other, x_adv)
            classification = cross_entropy(logits, y).mean() + cross_entropy(logits_adv, y).mean()
            distance = cosine_distance if self.distance == "cosine" else mean_squared_distance
            distances = [distance(a, z).mean() for a, z in zip(adversarial, clean, strict=True)]
            classify = _gradients(classification, weights)
            align = _gradients(torch.stack(distances).mean(), weights)
        # A shared weight is a copy in each network: the loss's gradient is the sum over the copies, and holding the
        # features of one network constant leaves the gradient of the other's copy.
        whole = [c + a for c, a in zip(*classify, strict=True)]
        forms = {"none": [c + a for c, a in zip(*align, strict=True)], "clean": align[1], "adversarial": align[0]}
        for stopped, gradients in forms.items():
            yield (stopped, ALL), _agreement(*(torch.cat([g.flatten() for g in side]) for side in (whole, gradients)))
            for layer, *sides in zip(weights[0], whole, gradients, strict=True):
                yield (stopped, layer), _agreement(*sides)

    def _look(self, model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and features of each layer, with their graph."""
        layers = last_stage(model)
        with _statistics(model, of_batch=self.statistics == "batch"), captured(model, layers) as kept:
            logits: Tensor = model(x)
        return logits, [pooled(kept[layer]) for layer in layers]


def _batches(data: ImageSet, size: int) -> Iterator[Part]:
    """The images in order in the fewest batches of at most ``size``: a smaller last one would weigh too much."""
    n = len(data.labels)
    for index in torch.arange(n).tensor_split(-(-n // size)):
        yield Part(data.images[index], data.labels[index], index, len(index))


@contextmanager
def _statistics(model: nn.Module, *, of_batch: bool) -> Iterator[None]:
    """A context in which the model is in eval mode, but for BatchNorm that uses statistics ``of_batch`` only."""
    with evaluating(model):
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.training = of_batch  # restored, with all other flags, by the context around
        with frozen_statistics(model):
            yield


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The trainable weights of convolutions and linear layers by layer."""
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd | nn.Linear) and module.weight.requires_grad
    }


def _gradients(loss: Tensor, weights: Sequence[Mapping[str, Tensor]]) -> list[tuple[Tensor, ...]]:
    """The gradients of the weights of each network, zero where the loss does not depend on one."""
    leaves = [weight for network in weights for weight in network.values()]
    found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    return [found[: len(weights[0])], found[len(weights[0]) :]]


def _agreement(first: Tensor, second: Tensor) -> Agreement:
    """How two gradients of the same weights lie to each other."""
    # Scaled to a peak of 1 before they are squared; signs, not products: those of tiny gradients would vanish.
    conflict = (first.sign() * second.sign() < 0).double().mean()
    a, b = (g.double().flatten() / g.double().abs().amax() for g in (first, second))
    cosine = a @ b / (a.norm() * b.norm())
    return Agreement(float(cosine.clamp(-1, 1)) if cosine.isfinite() else None, float(conflict))


def _mean(metric: str, values: Sequence[float | None], where: dict[str, Scalar], *, n: int, low: float) -> Observation:
    """The mean over batches; None where a batch has no value."""
    known = [value for value in values if value is not None]
    complete = len(known) == len(values)
    interval = t_interval(known, low=low, high=1.0) if complete else None
    note = "" if interval else "no interval: all batches give the same number"
    if not complete:
        note = f"a gradient is zero in {len(values) - len(known)} of {len(values)} batches"
    measurement = Measurement(
        task=Gradients.name,
        metric=metric,
        value=sum(known) / len(known) if complete else None,
        n=n,
        unit="number",
        low=interval and interval.low,
        high=interval and interval.high,
        where=where,
        note=note,
    )
    return Observation(measurement, None)
