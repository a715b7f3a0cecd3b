"""How far a network's confidence can be believed: calibration error and proper scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.attacks.doubts import reason
from robusteval.corruptions import GENERATOR_VERSION
from robusteval.data.sets import ImageSet
from robusteval.options import Count, options
from robusteval.records import Measurement, Scalar
from robusteval.stats import Interval, resampled_means
from robusteval.stats.calibration import (
    calibration_error,
    equal_mass,
    equal_width,
    error_if_calibrated,
    error_interval,
)
from robusteval.tasks.examination import Verdict
from robusteval.tasks.predict import batches, logits, parts, to_input
from robusteval.tasks.task import Context, Observation, image_mean
from robusteval.tasks.views import Corrupted, View, views

Floats = npt.NDArray[np.float64]

FLAGGED = Verdict.on(
    [reason("probabilities", "all outputs are non-negative and sum to 1: a softmax of them is another")]
)
"""The verdict where confidences are not those that the network means."""

REPLICATES = 2000
"""Resamples of the images: they move an end of an interval by a twentieth of the standard error."""


class Forecast(NamedTuple):
    """What a network said of n images and what came true; float64 (n,) each.

    Attributes:
        probabilities: whether the network gave probabilities already, of which a softmax makes others.
        confidence: the probability of the predicted class, in (0, 1].
        surprise: 1 or 0, whether the prediction is right, less the confidence.
        brier: the sum over classes of the squares of probability less 1 or 0, in [0, 2].
        nll: the negative logarithm of the probability of the true class, in nats.
    """

    probabilities: bool
    confidence: Floats
    surprise: Floats
    brier: Tensor
    nll: Tensor


@options
class Calibration(Corrupted):
    """Calibration error, Brier score and negative log-likelihood of each branch, on clean and corrupted images.

    - ``ece``: the expected calibration error (Guo et al., 2017, arXiv:1706.04599): images are put into bins of equal
      width by their confidence, the probability of the predicted class, and |accuracy - mean confidence| is averaged
      over the bins, weighted by their images. A bin has its upper edge and not its lower one.
    - ``ece_equal_mass``: the same with bins of equally many images (`equal_mass`).
    - ``brier``: the mean over images of the sum over classes of the squares of probability less 1 or 0, in [0, 2]
      (Brier, 1950). Some divide it by the number of classes.
    - ``nll``: the mean negative log-likelihood of the true class, in nats.

    Chance alone makes the accuracy of a bin differ from its confidence, so calibration errors are too high on average,
    the more the fewer the images are: ``ece_if_calibrated`` is what a network with these confidences would show in
    ``ece`` on so many images if it were perfectly calibrated. Their intervals come from resampled images and allow for
    it (`error_interval`); those of the proper scores are t intervals over images. The numbers of a network that gives
    probabilities in place of logits are flagged: they are those of other confidences than it means.

    Attributes:
        bins: M.
        limit: only so many images, from the first; None for all.
    """

    name: ClassVar[str] = "calibration"
    version: ClassVar[int] = int(GENERATOR_VERSION)

    bins: Count = 15
    limit: Count | None = None

    def measure(self, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> Iterator[Observation]:
        """The scores of each network on clean images, then on each corruption; see `Task`."""
        data = data.first(self.limit)
        corruption = self.corruption().resolved(data, context.data_dir)
        context.progress.begin(self.name, (1 + self.cells) * batches(data, context))
        for view in views(data, corruption, context):
            for branch, forecast in _forecasts(models, view, context).items():
                for observation in self._observations(forecast, {"branch": branch, **view.where}, context.seed):
                    yield FLAGGED.of(observation) if forecast.probabilities else observation

    def _observations(self, forecast: Forecast, where: dict[str, Scalar], seed: int) -> Iterator[Observation]:
        """The numbers of one network on one view."""
        width, mass = equal_width(forecast.confidence, self.bins), equal_mass(forecast.confidence, self.bins)
        vectors = np.concatenate([width, mass]) * forecast.surprise
        resampled = np.split(resampled_means(vectors, seed=seed, replicates=REPLICATES), 2)
        for metric, shares, means in zip(("ece", "ece_equal_mass"), (width, mass), resampled, strict=True):
            interval = error_interval(shares @ forecast.surprise / len(forecast.surprise), means)
            value = calibration_error(shares, forecast.surprise)
            note = "" if interval else "no interval: all images are alike"
            yield self._error(metric, value, forecast, where, interval=interval, note=note)
        yield self._error("ece_if_calibrated", error_if_calibrated(width, forecast.confidence), forecast, where)
        yield image_mean(self.name, "brier", forecast.brier, where, low=0.0, high=2.0)
        yield image_mean(self.name, "nll", forecast.nll, where, low=0.0)

    def _error(
        self,
        metric: str,
        value: float,
        forecast: Forecast,
        where: dict[str, Scalar],
        *,
        interval: Interval | None = None,
        note: str = "",
    ) -> Observation:
        low, high = interval or (None, None)
        n = len(forecast.surprise)
        found = Measurement(task=self.name, metric=metric, value=value, n=n, low=low, high=high, where=where, note=note)
        return Observation(found, None)


def _forecasts(models: Mapping[str, nn.Module], view: View, context: Context) -> dict[str, Forecast]:
    """Each network's forecasts of a view's images."""
    found: dict[str, list[Tensor]] = {branch: [] for branch in models}
    for part in parts(view.data, context.batch_size):
        x = to_input(part.images, context.device)
        for branch, model in models.items():
            out = logits(model, x, classes=len(view.data.classes), where=branch)
            found[branch].append(out[: part.n].cpu())
        context.progress.advance()
    return {branch: forecast_of(torch.cat(out), view.data.labels) for branch, out in found.items()}


def forecast_of(out: Tensor, labels: Tensor) -> Forecast:
    """What logits (n, K) say of images with these labels (n,); in float64."""
    prediction = out.argmax(dim=1)
    logs = F.log_softmax(out.double(), dim=1)
    probabilities = logs.exp()
    confidence = probabilities.gather(1, prediction.unsqueeze(1)).squeeze(1).numpy()
    truth = F.one_hot(labels, out.shape[1]).double()
    return Forecast(
        probabilities=bool((out >= 0).all()) and bool(((out.sum(dim=1) - 1).abs() < 1e-3).all()),
        confidence=confidence,
        surprise=(prediction == labels).double().numpy() - confidence,
        brier=(probabilities - truth).square().sum(dim=1).clamp(max=2.0),  # rounding may pass the end
        nll=-logs.gather(1, labels.unsqueeze(1)).squeeze(1),
    )
