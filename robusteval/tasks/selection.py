"""How uncertain images are, which of them EntProp selects, and how often training selected each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from robusteval.attacks import pgd
from robusteval.branches import MAIN
from robusteval.data.augment import Mixed
from robusteval.data.sets import ImageSet
from robusteval.losses import entropy, mixed_cross_entropy
from robusteval.method import Batch
from robusteval.methods.entprop import EntProp
from robusteval.methods.entprop_selection import selections
from robusteval.options import Count, Positive, options
from robusteval.randomness import Stream
from robusteval.records import Measurement, Scalar
from robusteval.stats import mean_interval, wilson
from robusteval.tasks.predict import logits, to_input
from robusteval.tasks.task import Context, Observation

BATCH = 128
"""Images that are mixed and selected from together where no training says how many (Enomoto, 2024, sec. 4.1.3)."""


@options
class Selection:
    """Entropies of clean, mixed, selected and adversarial images, and how often each training image was selected.

    As in the figures 1 and 6 of (Enomoto, 2024, EntProp). The images are those of training, without augmentation
    (the test images if it is not known how the network was trained), in random batches of training's size; an
    incomplete last batch is left out. The networks are in eval mode. ``selected`` are the share k of each batch of
    mixtures that the method would select by this network's logits, ``adversarial`` the same after its number of sign
    steps up this network's loss. Methods other than EntProp are shown what EntProp would select.

    Attributes:
        bins: of the histogram of entropies, from 0 to ln K, and at most of that of how often images were selected.
        k, mix_alpha: the share selected and MixUp's parameter, for networks that EntProp did not train.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "selection"
    version: ClassVar[int] = 1

    bins: Count = 20
    k: Annotated[float, Field(gt=0, le=1)] = 0.2
    mix_alpha: Positive = 1.0
    limit: Count | None = None

    def resolved(self, data: ImageSet, data_dir: Path | None) -> Selection:
        return self

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Histograms for each network, and of the counts of selections if there are any; see `Task`."""
        origin = context.origin
        data = (data if origin is None else origin.data).first(self.limit)
        method = origin.method if origin is not None else None
        if not isinstance(method, EntProp):
            method = EntProp(k=self.k, mix_alpha=self.mix_alpha)
        size = min(BATCH if origin is None else origin.training.batch_size, len(data.labels))
        context.progress.begin(self.name, len(models) * (len(data.labels) // size))
        for branch, model in models.items():
            judge = _Judge(model, branch, method, context)
            found: dict[str, list[Tensor]] = defaultdict(list)
            for batch in _batches(data, context, size=size):
                for images, entropies in judge.entropies(batch).items():
                    found[images].append(entropies)
                context.progress.advance()
            for images, collected in found.items():
                values = torch.cat(collected).double().cpu().numpy()
                where: dict[str, Scalar] = {"branch": branch, "images": images, "split": data.split}
                yield from self._entropies(values, math.log(len(data.classes)), where)
        counter = None if origin is None else selections(origin.model)
        if origin is not None and counter is not None:
            counts = counter.counts[: len(data.labels)].cpu().numpy().astype(np.int64)
            yield from self._counts(counts, origin.training.epochs)

    def _entropies(
        self, values: npt.NDArray[np.float64], most: float, where: Mapping[str, Scalar]
    ) -> Iterator[Observation]:
        """The histogram over [0, ln K] and the mean."""
        shares = np.clip(values / most, 0, 1)  # rounding may pass the ends
        for i, count in enumerate(np.histogram(shares, bins=self.bins, range=(0, 1))[0]):
            ends = {"low": round(most * i / self.bins, 4), "high": round(most * (i + 1) / self.bins, 4)}
            yield self._share("entropy_share", int(count), len(values), {**where, **ends})
        low, high = mean_interval(shares)
        yield Observation(
            Measurement(
                task=self.name,
                metric="mean_entropy",
                value=most * float(shares.mean()),
                n=len(values),
                unit="number",
                low=most * low,
                high=most * high,
                where=dict(where),
            ),
            None,
        )

    def _counts(self, counts: npt.NDArray[np.int64], epochs: int) -> Iterator[Observation]:
        """The histogram of how often an image was selected, 0 by itself, and how unequally."""
        top = max(epochs, int(counts.max()))
        edges = np.unique(np.linspace(1, top + 1, min(self.bins, top) + 1).round().astype(np.int64))
        for low, high in [(0, 0), *((int(a), int(b) - 1) for a, b in pairwise(edges))]:
            count = int(((counts >= low) & (counts <= high)).sum())
            where: dict[str, Scalar] = {"branch": MAIN, "times_low": low, "times_high": high}
            yield self._share("selected_share", count, len(counts), where)
        yield self._share("never_selected", int((counts == 0).sum()), len(counts), {"branch": MAIN})
        if counts.any():
            gini = Measurement(
                task=self.name,
                metric="selection_gini",
                value=_gini(counts),
                n=len(counts),
                unit="number",
                where={"branch": MAIN},
            )
            yield Observation(gini, None)

    def _share(self, metric: str, count: int, n: int, where: Mapping[str, Scalar]) -> Observation:
        low, high = wilson(count, n)
        found = Measurement(task=self.name, metric=metric, value=count / n, n=n, low=low, high=high, where=dict(where))
        return Observation(found, None)


def _batches(data: ImageSet, context: Context, *, size: int) -> Iterator[Batch]:
    """Batches of one size in a random order, each with a stream of its own."""
    rng = Stream.of(context.seed).at(Selection.name)
    order = rng.at("order").permutation(len(data.labels))
    for number in range(len(order) // size):
        rows = order[number * size : (number + 1) * size]
        yield Batch(
            x=to_input(data.images[rows], context.device),
            y=data.labels[rows].to(context.device),
            index=rows.to(context.device),
            rng=rng.at(number),
            classes=len(data.classes),
        )


class _Judge(NamedTuple):
    """A network with the method whose selection it is shown."""

    model: nn.Module
    branch: str
    method: EntProp
    context: Context

    def entropies(self, batch: Batch) -> dict[str, Tensor]:
        """The entropies (n,) of the batch's images, by what was done to them."""
        mixed = self.method.mixed(batch)
        found = {"clean": entropy(self._logits(batch.x, batch.classes))}
        of_mixed = self._logits(mixed.x, batch.classes)
        if self.method.mix != "none":
            found["mixed"] = entropy(of_mixed)
        chosen = self.method.chosen(of_mixed, mixed, batch)
        found["selected"] = entropy(of_mixed[chosen])
        if self.method.steps:
            part = Mixed(mixed.x[chosen], mixed.y_a[chosen], mixed.y_b[chosen], mixed.lam[chosen])
            found["adversarial"] = entropy(self._logits(self._attacked(part), batch.classes))
        return found

    def _attacked(self, part: Mixed) -> Tensor:
        half = self.context.precision == "bfloat16"
        with torch.autocast(self.context.device.type, dtype=torch.bfloat16, enabled=half):
            return pgd(
                self.model,
                part.x,
                part.y_a,
                epsilon=self.method.radius,
                step=self.method.step_size,
                steps=self.method.steps,
                loss=lambda logits, y: mixed_cross_entropy(logits, y, part.y_b, part.lam),
            )

    def _logits(self, x: Tensor, classes: int) -> Tensor:
        return logits(self.model, x, classes=classes, where=self.branch)


def _gini(counts: npt.NDArray[np.int64]) -> float:
    """The Gini coefficient in [0, 1): 0 where all counts are equal, towards 1 where one has all."""
    n = len(counts)
    ranked = np.sort(counts).astype(np.float64)
    return float(2 * (np.arange(1, n + 1) @ ranked) / (n * ranked.sum()) - (n + 1) / n)
