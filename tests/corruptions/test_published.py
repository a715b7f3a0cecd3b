"""The generator against what is known of the published images, on all 10,000 test images."""

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from robusteval.corruptions import CORRUPTIONS, HELD_OUT, corrupt
from robusteval.corruptions.published import DETERMINISTIC, LABELS, PUBLISHED
from robusteval.data import ImageSet, load

pytestmark = [pytest.mark.data, pytest.mark.slow]

# Mean shift and root mean square of the change in grey levels, severities 1 to 5: the published code, run once
# on the same images with random numbers of its own.
REFERENCE = {
    "gaussian_noise": "-0.54/10.07 -0.56/15.00 -0.56/19.85 -0.56/22.24 -0.56/24.60",
    "shot_noise": "-0.61/7.75 -0.69/10.88 -0.90/17.02 -0.95/19.55 -1.25/23.74",
    "impulse_noise": "+0.06/14.32 +0.12/20.20 +0.17/24.76 +0.29/31.93 +0.43/37.78",
    "glass_blur": "+0.17/22.41 -0.81/22.12 -0.83/20.32 -0.62/32.09 -0.62/29.96",
    "motion_blur": "-0.51/11.62 -0.49/16.91 -0.49/20.81 -0.50/20.78 -0.47/23.87",
    "snow": "+10.65/13.44 +23.59/26.76 +25.19/30.50 +36.83/41.95 +51.33/56.40",
    "frost": "+30.42/32.38 +44.76/47.86 +49.44/54.43 +44.77/50.46 +41.10/49.75",
    "fog": "-0.72/13.22 -1.02/26.18 -0.97/33.73 -1.13/39.84 -1.21/47.81",
    "elastic_transform": "-0.65/35.94 -0.72/33.06 -0.65/29.78 -0.61/27.54 -0.57/22.84",
    "speckle_noise": "-0.68/7.99 -0.90/13.10 -1.04/15.61 -1.38/20.53 -1.80/25.33",
    "spatter": "+1.02/7.85 +2.75/12.87 +6.75/18.91 -2.86/18.33 -4.79/23.52",
}


@pytest.fixture(scope="session", params=PUBLISHED)
def clean(request: pytest.FixtureRequest) -> ImageSet:
    """All test images of each data set of which corrupted ones are published."""
    folder = os.environ.get("ROBUSTEVAL_DATA")
    if not folder:
        pytest.skip("ROBUSTEVAL_DATA does not name a folder with the complete CIFAR data")
    return load(request.param, "test", data_dir=Path(folder))


def md5_of(parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> str:
    """The md5 of the file that numpy.save would write of uint8 parts of an array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    digest = hashlib.md5(header.getvalue())
    for part in parts:
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_file_is_the_published_one_to_the_byte(clean: ImageSet, name: str) -> None:
    made = (corrupt(clean.images, name, severity, seed=0, index=torch.arange(10_000)) for severity in range(1, 6))
    parts = (images.permute(0, 2, 3, 1).numpy() for images in made)
    assert md5_of(parts, (50_000, 32, 32, 3)) == PUBLISHED[clean.name].md5[name]


def test_the_labels_are_the_published_ones_to_the_byte(clean: ImageSet) -> None:
    labels = clean.labels.numpy().astype(np.uint8)
    assert md5_of([labels] * 5, (50_000,)) == PUBLISHED[clean.name].md5[LABELS]


@pytest.mark.parametrize("name", REFERENCE)
def test_random_corruptions_change_images_as_much_as_the_published_code(cifar_test: ImageSet, name: str) -> None:
    # Two severities keep the test short; the fifth is the strongest, and spatter has water at 2 and mud at 5.
    for severity in (2, 5):
        shift, size = map(float, REFERENCE[name].split()[severity - 1].split("/"))
        images = corrupt(cifar_test.images, name, severity, seed=0, index=torch.arange(10_000))
        change = images.to(torch.int16).sub_(cifar_test.images).flatten(1).float()
        means, squares = change.mean(1).double(), change.square().mean(1).double()
        rms = float(squares.mean().sqrt())
        # Two runs with independent draws: four standard errors of their difference, and the table's rounding.
        noise = 4 * 2**0.5 / 100
        assert float(means.mean()) == pytest.approx(shift, abs=noise * float(means.std()) + 0.005), severity
        assert rms == pytest.approx(size, abs=noise * float(squares.std()) / (2 * rms) + 0.005), severity


def test_every_other_corruption_is_accounted_for() -> None:
    assert {*DETERMINISTIC, *REFERENCE} == {*CORRUPTIONS, *HELD_OUT}
