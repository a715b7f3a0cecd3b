"""The task `calibration` against definitions written out and networks whose scores are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.corruptions import corrupt
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.records import Measurement
from robusteval.stats import t_interval
from robusteval.stats.calibration import calibration_error, equal_mass, equal_width, error_if_calibrated
from robusteval.tasks import Context
from robusteval.tasks.calibration import Calibration, forecast_of
from robusteval.tasks.predict import to_input

METRICS = ("ece", "ece_equal_mass", "ece_if_calibrated", "brier", "nll")


def found(task: Calibration, models: Mapping[str, nn.Module], data: ImageSet, context: Context) -> list[Measurement]:
    observations = list(task.measure(models, data, context))
    assert all(one.outcomes is None for one in observations)
    return [one.measurement for one in observations]


def value(measured: list[Measurement], metric: str, **where: Any) -> Measurement:
    (only,) = (m for m in measured if m.metric == metric and where.items() <= m.where.items())
    return only


def written_out(confidences: list[float], right: list[bool], bins: int) -> float:
    """Guo et al. (2017), equations 3 and 5, bin by bin; the edges as they are written."""
    total = 0.0
    for m in range(1, bins + 1):
        rows = [i for i, c in enumerate(confidences) if (m - 1) / bins < c <= m / bins]
        if rows:
            accuracy = sum(right[i] for i in rows) / len(rows)
            confidence = sum(confidences[i] for i in rows) / len(rows)
            total += len(rows) / len(confidences) * abs(accuracy - confidence)
    return total


def test_the_numbers_of_a_network_written_out(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    """One image, one class, one bin at a time, in Python's floats."""
    task = Calibration(names=("gaussian_noise",), severities=(3,), source="generated", bins=7)
    measured = found(task, known, data, context)
    assert len(measured) == 3 * 2 * len(METRICS)
    images = {"clean": data.images}
    images["gaussian_noise"] = corrupt(data.images, "gaussian_noise", 3, seed=context.seed, index=torch.arange(53))
    for branch, model in known.items():
        for name, seen in images.items():
            confidences, right, brier, nll = [], [], [], []
            with torch.no_grad():
                out = model.eval()(to_input(seen, torch.device("cpu"))).tolist()
            for row, label in zip(out, data.labels.tolist(), strict=True):
                odds = [math.exp(one - max(row)) for one in row]
                probabilities = [one / sum(odds) for one in odds]
                predicted = row.index(max(row))
                confidences.append(probabilities[predicted])
                right.append(predicted == label)
                brier.append(sum((p - (k == label)) ** 2 for k, p in enumerate(probabilities)))
                nll.append(-math.log(probabilities[label]))
            for metric, expected in (
                ("ece", written_out(confidences, right, 7)),
                ("brier", sum(brier) / 53),
                ("nll", sum(nll) / 53),
            ):
                one = value(measured, metric, branch=branch, images=name)
                assert one.value == pytest.approx(expected, rel=1e-6), (branch, name, metric)
                assert one.n == 53
            surprise = np.array(right) - np.array(confidences)
            one = value(measured, "ece_equal_mass", branch=branch, images=name)
            expected = calibration_error(equal_mass(np.array(confidences), 7), surprise)
            assert one.value == pytest.approx(expected, rel=1e-6)
            for metric, scores, top in (("brier", brier, 2.0), ("nll", nll, math.inf)):
                one = value(measured, metric, branch=branch, images=name)
                interval = t_interval(scores, low=0.0, high=top)
                if interval is not None and max(scores) - min(scores) > 1e-9:
                    assert (one.low, one.high) == pytest.approx(interval, rel=1e-5)


def test_units_and_places(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    task = Calibration(names=("fog", "contrast"), severities=(1, 5), source="generated")
    measured = found(task, {"linear": known["linear"]}, data, context)
    assert [m.metric for m in measured] == list(METRICS) * 5
    assert {m.metric: m.unit for m in measured} == {
        "ece": "fraction",
        "ece_equal_mass": "fraction",
        "ece_if_calibrated": "fraction",
        "brier": "number",
        "nll": "number",
    }
    places = [tuple(m.where.get(key) for key in ("images", "severity", "source")) for m in measured[:: len(METRICS)]]
    assert places[:3] == [("clean", None, None), ("fog", 1, "generated"), ("fog", 5, "generated")]
    assert len(set(places)) == 5


def certain(share: float, confidence: float, n: int) -> tuple[Tensor, Tensor]:
    """Logits of three classes with one confidence, right on this share of the images."""
    rest = math.log((1 - confidence) / 2)
    out = torch.full((n, 3), rest)
    out[:, 0] = math.log(confidence)
    labels = torch.ones(n, dtype=torch.int64)
    labels[: round(share * n)] = 0
    return out, labels


@pytest.mark.parametrize(("share", "confidence"), [(0.5, 0.9), (0.9, 0.5), (0.7, 0.7)])
def test_one_confidence_in_closed_form(share: float, confidence: float) -> None:
    """All images in one bin: |accuracy - confidence|; both scores are expectations over right and wrong."""
    n = 200
    said = forecast_of(*certain(share, confidence, n))
    for shares in (equal_width(said.confidence, 15), equal_mass(said.confidence, 15)):
        assert calibration_error(shares, said.surprise) == pytest.approx(abs(share - confidence), abs=1e-6)
    rest = (1 - confidence) / 2
    brier = share * ((1 - confidence) ** 2 + 2 * rest**2)
    brier += (1 - share) * (confidence**2 + (1 - rest) ** 2 + rest**2)
    assert float(said.brier.mean()) == pytest.approx(brier, rel=1e-6)
    assert float(said.nll.mean()) == pytest.approx(-share * math.log(confidence) - (1 - share) * math.log(rest))
    (expected,) = {error_if_calibrated(equal_width(said.confidence, 15), said.confidence)}
    assert expected == pytest.approx(math.sqrt(2 / math.pi * confidence * (1 - confidence) / n), rel=1e-6)


def test_equal_images_have_no_interval_and_say_so(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """The one that reads labels is always right with one confidence."""
    measured = found(Calibration(names=("fog",), source="generated"), {"reads": known["reads"]}, data, context)
    for metric in ("ece", "ece_equal_mass", "brier", "nll"):
        one = value(measured, metric, images="clean")
        assert (one.low, one.high) == (None, None)
        assert one.note.startswith("no interval: ")
    assert value(measured, "nll", images="clean").value == pytest.approx(math.log(math.e + 4) - 1)


def test_confident_networks_lose_no_digits() -> None:
    """A logit of 60 more: the other classes' probabilities are e^-60, below the float's precision beside 1."""
    out = torch.tensor([[60.0, 0.0, 0.0], [60.0, 0.0, 0.0]])
    said = forecast_of(out, torch.tensor([0, 1]))
    assert said.nll.tolist() == pytest.approx([2 * math.exp(-60), 60.0], rel=1e-9, abs=1e-16)
    assert said.brier.tolist() == pytest.approx([0.0, 2.0], abs=1e-12)
    assert said.surprise.tolist() == pytest.approx([0.0, -1.0])


def test_only_the_first_images(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    task = Calibration(names=("fog",), source="generated")
    models = {"linear": known["linear"]}
    assert found(replace(task, limit=20), models, data, context) == found(task, models, data.first(20), context)


def test_probabilities_in_place_of_logits_are_flagged(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    """They are between 0 and 1, so that a softmax of them is sure of nothing."""
    models = {"logits": known["linear"], "probabilities": nn.Sequential(known["linear"], nn.Softmax(dim=1))}
    measured = found(Calibration(names=("gaussian_noise",), source="generated"), models, data, context)
    trust = {(m.where["branch"], m.trust, *(one.name for one in m.reasons)) for m in measured}
    assert trust == {("logits", "plain"), ("probabilities", "flagged", "probabilities")}


def test_wrong_options_are_refused() -> None:
    for values, message in (
        ({"names": ("fgo",)}, "did you mean 'fog'"),
        ({"severities": (3, 3)}, "twice"),
        ({"bins": 0}, "bins"),
        ({"bin": 10}, "bin"),
    ):
        with pytest.raises(UserError, match=message):
            build(Calibration, values, "calibration")
