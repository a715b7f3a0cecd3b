"""Random corruptions do to real networks and to pixels what the published generator's do.

The reference is one run of the published code (with its own draws) on the same 10,000 test images; of it only the
accuracies and the pixels' mean shift and root mean square are known, not the outcome of every image. A paired
comparison is possible all the same: if both generators are the same, image i is right with the same probability
q_i under both, and the variance of the difference is that of the draws alone: the sum of q_i (1 - q_i) over images,
once for the reference and half of it for the mean of our two seeds. Our two seeds tell that sum: they disagree on
image i with probability 2 q_i (1 - q_i). So the squared standard error is 3/4 of the disagreements over n squared, a
good deal less than for two samples of different images. The same holds for pixels, with the squared difference of an
image's value between two seeds in the place of a disagreement. Where the reference is the mean of several runs,
its share of the variance is divided by their number (`RUNS`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from robusteval.corruptions import CORRUPTIONS, HELD_OUT, corrupt
from robusteval.corruptions.noise import gaussian_noise
from robusteval.data import ImageSet
from robusteval.models import build
from robusteval.models.weights import load_state, read_state
from robusteval.randomness import Stream

THOROUGH = pytest.mark.skipif(
    not os.environ.get("ROBUSTEVAL_THOROUGH"), reason="ten minutes more: only where ROBUSTEVAL_THOROUGH is set"
)

pytestmark = pytest.mark.data

# Percent right of the ResNet-20 of akamaster/pytorch_resnet_cifar10 and of an adversarially trained small network
# (cnn_a_adv of alpha-beta-CROWN), then mean shift / root mean square of the change in grey levels; severities 1 to 5.
REFERENCE = {
    "gaussian_noise": (
        "72.39 51.68 34.70 28.75 23.95",
        "65.73 65.51 64.84 64.64 63.76",
        "-0.54/10.07 -0.56/15.00 -0.56/19.85 -0.56/22.24 -0.56/24.60",
    ),
    "shot_noise": (
        "81.32 71.36 48.64 40.30 30.61",
        "65.75 65.72 65.34 64.81 64.42",
        "-0.61/7.75 -0.69/10.88 -0.90/17.02 -0.95/19.55 -1.25/23.74",
    ),
    "impulse_noise": (
        "79.65 66.89 55.96 36.14 22.80",
        "65.52 64.92 63.95 61.42 58.32",
        "+0.06/14.32 +0.12/20.20 +0.17/24.76 +0.29/31.93 +0.43/37.78",
    ),
    "glass_blur": (
        "47.30 49.29 51.58 39.21 42.45",
        "61.82 61.29 58.94 57.39 54.77",
        "+0.17/22.41 -0.81/22.12 -0.83/20.32 -0.62/32.09 -0.62/29.96",
    ),
    "motion_blur": (
        "85.67 76.98 68.26 68.29 59.57",
        "60.85 55.94 51.66 51.21 47.20",
        "-0.51/11.62 -0.49/16.91 -0.49/20.81 -0.50/20.78 -0.47/23.87",
    ),
    "snow": (
        "84.86 72.81 77.10 74.43 68.45",
        "65.32 63.44 62.03 57.67 53.32",
        "+10.65/13.44 +23.59/26.76 +25.19/30.50 +36.83/41.95 +51.33/56.40",
    ),
    "frost": (
        "85.40 78.44 67.19 65.19 53.20",
        "60.25 54.79 47.79 46.66 40.91",
        "+30.42/32.38 +44.76/47.86 +49.44/54.43 +44.77/50.46 +41.10/49.75",
    ),
    "fog": (
        "91.64 89.85 87.82 83.43 66.51",
        "57.63 43.75 35.02 29.75 23.75",
        "-0.72/13.22 -1.02/26.18 -0.97/33.73 -1.13/39.84 -1.21/47.81",
    ),
    "elastic_transform": (
        "85.54 85.91 81.29 74.30 69.64",
        "58.24 58.00 56.63 55.33 55.62",
        "-0.65/35.94 -0.72/33.06 -0.65/29.78 -0.61/27.54 -0.57/22.84",
    ),
    "speckle_noise": (
        "81.12 66.40 59.32 45.60 35.70",
        "66.00 65.77 65.22 64.88 63.97",
        "-0.68/7.99 -0.90/13.10 -1.04/15.61 -1.38/20.53 -1.80/25.33",
    ),
    "spatter": (
        "88.29 81.68 76.91 81.16 71.38",
        "65.81 65.67 64.28 64.00 61.50",
        "+1.02/7.85 +2.75/12.87 +6.75/18.91 -2.86/18.33 -4.79/23.52",
    ),
}

RUNS = {("elastic_transform", 4): 12}
"""Where the reference of the ResNet-20 is the mean of more than one run of the published code.

The one run that all other figures are from was a rare draw in this cell: 75.51 %. Fed with that run's very numbers,
our generator gives 75.45 %, with another answer (right or wrong) on 88 of the 10,000 images. The reference here is
new runs of the published function, each over all test images in order:

    np.random.seed(seed); images = [np.uint8(elastic_transform(image, 4)) for image in test_images]

Seeds 0 to 11: 74.01 74.58 74.21 74.69 74.29 74.48 74.18 73.98 74.85 74.05 74.08 74.15 (OpenCV 5.0, scipy 1.17.1,
scikit-image 0.26.0, numpy 2.4.6).
"""

FIXED = {
    "brightness",
    "contrast",
    "defocus_blur",
    "gaussian_blur",
    "jpeg_compression",
    "pixelate",
    "saturate",
    "zoom_blur",
}
"""These are the published images to the byte, which another test shows."""

SEEDS = (0, 1)
N = 10_000
BAR = 3


class Small(nn.Module):
    """The adversarially trained network: two convolutions, two linear layers, no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()]
        self.layers = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.new_tensor([125.3, 123.0, 113.9]) / 255, x.new_tensor([63.0, 62.1, 66.7]) / 255
        return self.layers((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))


def weights(pattern: str) -> dict[str, Tensor]:
    folder = os.environ.get("ROBUSTEVAL_CHECKPOINTS")
    found = sorted(Path(folder).glob(pattern)) if folder else []
    if not found:
        pytest.skip(f"needs ROBUSTEVAL_CHECKPOINTS to name a folder with {pattern}")
    return read_state(found[0])


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    model = build("resnet20", classes=10, normalize="imagenet")
    load_state(model, weights("*resnet20-*"), where="resnet20")
    return model.eval().to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    model = Small()
    load_state(model.layers, weights("*cnn_a_adv*"), where="cnn_a_adv")
    return model.eval()


class Deviation(NamedTuple):
    """How far the mean over our seeds is from the reference, and the standard error of that; see above."""

    miss: float
    error: float

    def standard_errors(self, *, rounding: float = 0.0) -> float:
        """The distance in standard errors, less what rounding the reference can have made of it."""
        return max(abs(self.miss) - rounding, 0) / self.error


def deviation(ours: tuple[Tensor, Tensor], reference: float, *, runs: int = 1) -> Deviation:
    """The deviation of the mean of one value for every image (N,), given for each of our two seeds.

    ``runs`` is how many runs the reference is the mean of.
    """
    first, second = (values.double() for values in ours)
    disagreement = float((first - second).square().sum())
    variance = (1 / runs + 1 / 2) * disagreement / 2
    return Deviation(float((first + second).mean()) / 2 - reference, variance**0.5 / len(first))


def made(data: ImageSet, name: str, severity: int) -> tuple[Tensor, Tensor]:
    """The corrupted images for each of the two seeds."""
    first, second = (corrupt(data.images, name, severity, seed=seed, index=torch.arange(N)) for seed in SEEDS)
    return first, second


def right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images the network gets right, bool (N,)."""
    with torch.inference_mode():
        parts = [(part / 255).contiguous(memory_format=torch.channels_last) for part in images.split(250)]
        return torch.cat([model(part).argmax(1) for part in parts]) == labels


def check_accuracy(
    model: nn.Module, images: tuple[Tensor, Tensor], labels: Tensor, percent: str, *, runs: int = 1
) -> None:
    first, second = (right(model, some, labels) for some in images)
    found = deviation((first, second), float(percent) / 100, runs=runs)
    assert found.standard_errors() <= BAR, found


def check_pixels(images: tuple[Tensor, Tensor], clean: Tensor, reference: str) -> None:
    shift, rms = map(float, reference.split("/"))
    changes = [some.to(torch.int16).sub_(clean).flatten(1).float() for some in images]
    first, second = (change.mean(1) for change in changes)
    found = deviation((first, second), shift)
    assert found.standard_errors(rounding=0.005) <= BAR, found
    first, second = (change.square().mean(1) for change in changes)
    found = deviation((first, second), rms**2)
    assert found.standard_errors(rounding=0.01 * rms) <= BAR, found


@pytest.mark.parametrize("severity", [*(pytest.param(s, marks=THOROUGH) for s in (1, 2, 4)), 3, 5])
@pytest.mark.parametrize("name", REFERENCE)
def test_pixels_and_a_robust_network(cifar_test: ImageSet, small: nn.Module, name: str, severity: int) -> None:
    images = made(cifar_test, name, severity)
    _, percent, pixels = (row.split()[severity - 1] for row in REFERENCE[name])
    check_pixels(images, cifar_test.images, pixels)
    check_accuracy(small, images, cifar_test.labels, percent)


@THOROUGH
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", REFERENCE)
def test_a_plain_network(cifar_test: ImageSet, resnet: nn.Module, name: str, severity: int) -> None:
    percent = REFERENCE[name][0].split()[severity - 1]
    runs = RUNS.get((name, severity), 1)
    check_accuracy(resnet, made(cifar_test, name, severity), cifar_test.labels, percent, runs=runs)


def test_the_comparison_sees_noise_that_is_stronger_by_a_hundredth(cifar_test: ImageSet) -> None:
    first, second = (gaussian_noise(cifar_test.images, (0.0808,), Stream.of(seed), torch.arange(N)) for seed in SEEDS)
    with pytest.raises(AssertionError, match="Deviation"):
        check_pixels((first, second), cifar_test.images, REFERENCE["gaussian_noise"][2].split()[2])


def test_every_random_corruption_is_compared() -> None:
    assert {*REFERENCE} == {*CORRUPTIONS, *HELD_OUT} - FIXED
