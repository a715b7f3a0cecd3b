"""What running statistics are worth: averages of several momenta, precise ones, and those of the test images."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robusteval.corruptions import GENERATOR_VERSION
from robusteval.data.batches import epoch_batches
from robusteval.data.sets import ImageSet
from robusteval.modes import true_float32
from robusteval.normfree import normalizes
from robusteval.optimization import reestimate
from robusteval.options import Count, options
from robusteval.progress import Within
from robusteval.randomness import Stream
from robusteval.records import Measurement, Scalar
from robusteval.shadow import bank_of
from robusteval.stats import mean_interval
from robusteval.tasks.adversarial import Pgd
from robusteval.tasks.ball import Stepping
from robusteval.tasks.portions import steps_of_a_batch
from robusteval.tasks.predict import batches, judge, to_input
from robusteval.tasks.task import Context, Observation, Origin, accuracy
from robusteval.tasks.views import CLEAN, Corrupted, views


class Variant(NamedTuple):
    """A network that differs from the others in its running statistics alone; ``where`` says which they are."""

    where: dict[str, Scalar]
    network: nn.Module

    @property
    def label(self) -> str:
        """The variant in words, different for each."""
        branch, *rest = self.where.values()
        return f"{branch}: {' '.join(map(str, rest))}"


@options
class BnBank(Corrupted, Stepping):
    """Accuracy of the deployed weights with different BatchNorm statistics: clean, corrupted, and under PGD.

    The ``statistics`` are the network's ``own``; ``moving`` averages of each momentum of the shadow bank, where
    training kept one; ``precise``: plain means over batches of training images without augmentation (Wu and Johnson,
    2021, arXiv:2105.07576); and ``adapted``: those of the first n test images as they are seen, corrupted or not, as
    one batch (Schneider et al., 2020, arXiv:2006.16971, with no share of the old ones; those of the clean images when
    it is attacked). Attacks are white-box, through the very statistics that are judged. What a momentum gains over
    ``own`` but not over ``precise`` comes from the moving average, not from training. Averaged weights (EMA, SWA)
    have no moving statistics, so nothing is said of them; networks that do not normalise are not measured.

    Attributes:
        precise_batches: training batches that ``precise`` is the mean of, of the batch size of training and within
            one epoch.
        adapt: the numbers n of images that ``adapted`` takes; those above the size of the set are left out.
        limit: images that are judged clean and corrupted, from the first; None for all.
        attack_limit: images that are attacked, from the first; None for all.
    """

    name: ClassVar[str] = "bn_bank"
    version: ClassVar[int] = int(GENERATOR_VERSION) + Pgd.version

    precise_batches: Count = 20
    adapt: tuple[Annotated[int, Field(ge=2)], ...] = (16, 128)
    limit: Count | None = 500
    steps: Count = 10
    attack_limit: Count | None = 200

    @model_validator(mode="after")
    def _distinct(self) -> BnBank:
        if len(set(self.adapt)) < len(self.adapt):
            raise ValueError("adapt: one is listed twice; allowed: each once")
        return self

    def _pgd(self) -> Pgd:
        values = {field: getattr(self, field) for field in ("norm", "epsilon", "step", "steps")}
        return Pgd(**values, limit=self.attack_limit, checked=0)

    @property
    def _seen(self) -> int | None:
        """How many images are judged or adapted to; None for all."""
        return None if self.limit is None else max((self.limit, *self.adapt))

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Accuracy with each statistics in each condition, then each one's mean over the corruptions; see `Task`."""
        network = models[context.deployed]
        if not normalizes(network):
            return
        corruption = self.corruption().resolved(data, context.data_dir)
        training = [] if context.origin is None else self._training_batches(context.origin, context.seed)
        each = steps_of_a_batch(context)
        total = each * (len(training) + (1 + self.cells) * batches(data.first(self.limit), context))
        adapted = sum(n <= len(data.first(self._seen).labels) for n in self.adapt)
        fixed = [Variant({"branch": context.deployed, "statistics": "own"}, network)]
        fixed += self._moving(network, context)
        total += (len(fixed) + bool(training) + adapted) * len(data.first(self.attack_limit).labels) * self.steps
        context.progress.begin(self.name, total)
        fixed += self._precise(network, training, context)
        hits: dict[str, npt.NDArray[np.int64]] = {}
        variants: list[Variant] = []
        for view in views(data.first(self._seen), corruption, context):
            variants = [*fixed, *self._adapted(network, view.data.images, context)]
            networks = {variant.label: variant.network for variant in variants}
            judging = replace(context, progress=Within(context.progress, each))
            outcomes = judge(networks, view.data.first(self.limit), judging)
            for variant in variants:
                right = outcomes[variant.label]
                yield accuracy(self.name, "accuracy", right, variant.where | view.where)
                if view.where["images"] != CLEAN:
                    hits[variant.label] = right + hits.get(variant.label, np.zeros(len(right), dtype=np.int64))
            if view.where["images"] == CLEAN:
                yield from self._attacked(variants, data, context)
        for variant in variants:
            where = variant.where | self.over(corruption.source)
            yield Observation(_mean(hits[variant.label] / self.cells, where), None)

    def _attacked(self, variants: list[Variant], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Robust accuracy of each variant."""
        where = {variant.label: variant.where for variant in variants}
        networks = {variant.label: variant.network for variant in variants}
        for measurement, outcomes in self._pgd().measure(
            networks, data, replace(context, progress=Within(context.progress))
        ):
            threat = {key: value for key, value in measurement.where.items() if not key.endswith("branch")}
            label = str(measurement.where["branch"])
            update = {"task": self.name, "where": where[label] | threat}
            yield Observation(measurement.model_copy(update=update), outcomes)

    def _moving(self, network: nn.Module, context: Context) -> Iterator[Variant]:
        """The network with the shadow bank's statistics of each momentum."""
        origin, branch = context.origin, context.deployed
        bank = None if origin is None else bank_of(origin.model)
        if origin is None or bank is None or origin.training.ema or origin.training.swa_start:
            return
        for momentum in bank.momenta:
            other = _copy(network)
            bank.apply_to(other, momentum, branch)
            yield Variant({"branch": branch, "statistics": "moving", "momentum": momentum}, other)

    def _training_batches(self, origin: Origin, seed: int) -> list[Tensor]:
        """Training images, uint8, batch by batch in a random order."""
        rng, images = Stream.of(seed).at(self.name), origin.data.images
        order = epoch_batches(len(images), origin.training.batch_size, rng, drop_last=True)
        return [images[rows] for rows in islice(order, self.precise_batches)]

    def _precise(self, network: nn.Module, training: list[Tensor], context: Context) -> Iterator[Variant]:
        """The network with mean statistics of training images."""
        if not training:
            return

        def inputs() -> Iterator[Tensor]:
            for images in training:
                yield to_input(images, context.device)
                context.progress.advance(steps_of_a_batch(context))

        where: dict[str, Scalar] = {"branch": context.deployed, "statistics": "precise", "n": sum(map(len, training))}
        yield Variant(where, _reestimated(network, inputs()))

    def _adapted(self, network: nn.Module, images: Tensor, context: Context) -> Iterator[Variant]:
        """The network with the statistics of the first n of these images, for each n."""
        for n in self.adapt:
            if n <= len(images):
                where: dict[str, Scalar] = {"branch": context.deployed, "statistics": "adapted", "n": n}
                yield Variant(where, _reestimated(network, [to_input(images[:n], context.device)]))


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def _copy(network: nn.Module) -> nn.Module:
    """A copy of the network with buffers of its own; its parameters are the network's."""
    return copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()}).eval()


def _reestimated(network: nn.Module, inputs: Iterable[Tensor]) -> nn.Module:
    """A copy of the network with the plain mean of the batches' statistics; nothing but BatchNorm is in train mode."""
    other = _copy(network)
    for norm in _norms(other):
        norm.train()
    device = next(network.parameters()).device
    with torch.no_grad(), torch.autocast(device.type, enabled=False), true_float32():
        reestimate(other, inputs, other)
    return other.eval()


def _mean(scores: npt.NDArray[np.float64], where: dict[str, Scalar]) -> Measurement:
    """The mean over corruptions of images' scores (n,), with the interval that the number of images gives."""
    low, high = mean_interval(scores)
    value, n = float(scores.mean()), len(scores)
    return Measurement(task=BnBank.name, metric="mean_accuracy", value=value, n=n, low=low, high=high, where=where)
