"""How close a student came to the frozen teacher it learnt from, and what either is worth in and out of domain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.corruptions import GENERATOR_VERSION
from robusteval.data.sets import ImageSet
from robusteval.method import TRAINING_ONLY
from robusteval.options import Count, options
from robusteval.records import Measurement, Scalar
from robusteval.stats import mean_interval
from robusteval.tasks.features import represented
from robusteval.tasks.predict import batches, judge, parts, to_input
from robusteval.tasks.task import Context, Observation, Origin, accuracy, image_mean
from robusteval.tasks.views import CLEAN, Corrupted, views

STUDENT, TEACHER, STANDARD = "student", "teacher", "standard"
MISSING = "there is no run of method standard with this data set, architecture, training and seed yet"


@options
class Teacher(Corrupted):
    """The comparison that Counterbalancing Teacher argues with (Asgari Taghanaki et al., 2022, arXiv:2207.01548).

    Three networks of one architecture, data set and seed: the student that is deployed, its frozen teacher, and the
    one that the method ``standard`` trained. Measured are

    - their accuracies on clean and corrupted images;
    - for student and standard network, the mean L2 distance and mean cosine (0 where one is zero) of their features and
      the teacher's: the classifier's input, and BatchNorm outputs of the last stage, rectified and averaged over the
      image;
    - for each convolution and linear layer, the Frobenius norm of the difference between the student's and the
      standard network's weights, also relative to the latter's norm.

    Methods without a teacher are not measured.

    Attributes:
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "teacher"
    version: ClassVar[int] = int(GENERATOR_VERSION)

    limit: Count | None = 500

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """Distances of features, accuracies, distances of weights; see `Task`."""
        teacher = _teacher(context.origin)
        if context.origin is None or teacher is None:
            return
        student, standard = models[context.deployed], context.origin.sibling(STANDARD)
        networks = {STUDENT: student, TEACHER: teacher} | ({STANDARD: standard} if standard else {})
        data = data.first(self.limit)
        context.progress.begin(self.name, (2 + self.cells) * batches(data, context))
        yield from _features(networks, data, context)
        yield from self._accuracies(networks, data, context)
        weights: dict[str, Scalar] = {"branch": context.deployed, "other": STANDARD}
        if standard is None:
            yield _missing("accuracy", "fraction", {"branch": context.deployed, "network": STANDARD})
            yield _missing("weight_distance", "number", weights)
        else:
            yield from _weights(student, standard, weights)

    def _accuracies(self, networks: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """The accuracy of each network on clean images, on each corruption, and on their mean."""
        corruption = self.corruption().resolved(data, context.data_dir)
        hits: dict[str, list[npt.NDArray[np.bool_]]] = {network: [] for network in networks}
        for view in views(data, corruption, context):
            for network, right in judge(networks, view.data, context).items():
                where = {"branch": context.deployed, "network": network, **view.where}
                yield accuracy(self.name, "accuracy", right, where)
                if view.where["images"] != CLEAN:
                    hits[network].append(right)
        for network, outcomes in hits.items():
            scores = np.mean(outcomes, axis=0)
            low, high = mean_interval(scores)
            measurement = Measurement(
                task=self.name,
                metric="mean_accuracy",
                value=float(scores.mean()),
                n=len(scores),
                low=low,
                high=high,
                where={"branch": context.deployed, "network": network, **self.over(corruption.source)},
            )
            yield Observation(measurement, None)


def _teacher(origin: Origin | None) -> nn.Module | None:
    """The frozen network that the method attached; None if it has none."""
    if origin is None or origin.method.teacher() is None:
        return None
    attached = origin.model._modules.get(TRAINING_ONLY)
    return None if attached is None else attached._modules.get(TEACHER)


def _features(networks: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
    """The mean distance and cosine of each layer's features from those of the teacher."""
    others = [network for network in networks if network != TEACHER]
    distances: dict[tuple[str, str], list[Tensor]] = {}
    cosines: dict[tuple[str, str], list[Tensor]] = {}
    for part in parts(data, context.batch_size):
        x = to_input(part.images, context.device)
        found = {
            network: represented(model, x, classes=len(data.classes), where=network)
            for network, model in networks.items()
        }
        for network in others:
            for layer, theirs in found[TEACHER].items():
                mine = found[network][layer]
                cosine = F.cosine_similarity(mine, theirs, dim=1).clamp(-1, 1)
                distances.setdefault((network, layer), []).append((mine - theirs).norm(dim=1)[: part.n].cpu())
                cosines.setdefault((network, layer), []).append(cosine[: part.n].cpu())
        context.progress.advance()
    for (network, layer), lengths in distances.items():
        where: dict[str, Scalar] = {"branch": context.deployed, "network": network, "layer": layer}
        yield image_mean(Teacher.name, "feature_distance", torch.cat(lengths), where, low=0.0)
        yield image_mean(Teacher.name, "feature_cosine", torch.cat(cosines[network, layer]), where, low=-1.0, high=1.0)


def _weights(student: nn.Module, standard: nn.Module, place: dict[str, Scalar]) -> Iterator[Observation]:
    """The distance of each layer's weights, then that of all of them together."""
    layers = [name for name, module in student.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    differences, lengths = [], []
    for layer in layers:
        mine, theirs = (model.get_parameter(f"{layer}.weight").detach().double() for model in (student, standard))
        differences.append(float((mine - theirs).norm()))
        lengths.append(float(theirs.norm()))
        yield from _distance(differences[-1], lengths[-1], place | {"layer": layer})
    yield from _distance(math.hypot(*differences), math.hypot(*lengths), place | {"layers": len(layers)})


def _distance(difference: float, length: float, where: dict[str, Scalar]) -> Iterator[Observation]:
    """A distance, and its ratio to the norm of the standard network's weights."""
    relative = difference / length if length else None
    for metric, value in (("weight_distance", difference), ("relative_weight_distance", relative)):
        note = "" if value is not None else "the standard network's weights are zero"
        measurement = Measurement(
            task=Teacher.name, metric=metric, value=value, n=1, unit="number", where=where, note=note
        )
        yield Observation(measurement, None)


def _missing(metric: str, unit: Literal["fraction", "number"], where: dict[str, Scalar]) -> Observation:
    """What could not be measured without a run of the method ``standard``."""
    measurement = Measurement(task=Teacher.name, metric=metric, value=None, n=0, unit=unit, where=where, note=MISSING)
    return Observation(measurement, None)
