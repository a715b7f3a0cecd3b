"""What holds for every corruption: what its randomness depends on, and what it leaves alone."""

import hashlib
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from robusteval.corruptions import CIFAR, CORRUPTIONS, GENERATOR_VERSION, HELD_OUT, corrupt
from robusteval.data import load
from robusteval.errors import UserError

ALL = CORRUPTIONS + HELD_OUT
FIXED = {
    "defocus_blur",
    "zoom_blur",
    "gaussian_blur",
    "brightness",
    "contrast",
    "saturate",
    "pixelate",
    "jpeg_compression",
}

# sha256 (first 16 digits) of 40 images at all severities. Every one is whole numbers or float64 in a fixed
# order. Snow and spatter are missing: their normal draws are float32 logarithms and cosines of the platform.
VERSION_1 = {
    "gaussian_noise": "5002126b3be86235",
    "shot_noise": "c1fd339dba471df2",
    "impulse_noise": "c465c1a4751df710",
    "defocus_blur": "1ac4c78fc1b70d34",
    "glass_blur": "c7deda73d974e638",
    "motion_blur": "e25f93ee7097c132",
    "zoom_blur": "9d9a43e3cb156b6b",
    "frost": "6919786a2fa273e9",
    "fog": "561ae8c7f456bf55",
    "brightness": "46713983ed266b5d",
    "contrast": "8f984ec8d0b006a4",
    "elastic_transform": "81a5618ae3c733d4",
    "pixelate": "3c1f4e2fde8ecec5",
    "jpeg_compression": "7abbd778a51cf3c5",
    "speckle_noise": "922e4708c291216e",
    "gaussian_blur": "15bc2827f4b261ec",
    "saturate": "fdb30d87c77fadf0",
}


def test_there_are_fifteen_and_four_with_five_strengths_each() -> None:
    assert (len(CORRUPTIONS), len(HELD_OUT), len(set(ALL))) == (15, 4, 19)
    assert set(CIFAR) == set(ALL)
    assert all(len(row) == 5 and len(set(row)) == 5 for row in CIFAR.values())


@pytest.mark.parametrize("name", VERSION_1)
def test_a_version_of_the_generator_makes_the_same_pixels_everywhere(name: str) -> None:
    assert GENERATOR_VERSION == "1", "a new version needs new digests"
    images, digest = load("cifar10-sample", "test").images[:40], hashlib.sha256()
    for severity in range(1, 6):
        digest.update(corrupt(images, name, severity, seed=0, index=torch.arange(40)).numpy())
    assert digest.hexdigest()[:16] == VERSION_1[name]


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_corrupted_alike_in_every_batch(photos: Tensor, index: Tensor, name: str) -> None:
    # 144 images are more than are processed at a time.
    images, places = photos.repeat(3, 1, 1, 1), torch.cat([index, index + 1000, index + 5000])
    whole = corrupt(images, name, 5, seed=1, index=places)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    order = torch.randperm(144, generator=torch.Generator().manual_seed(0))
    assert torch.equal(corrupt(images[order], name, 5, seed=1, index=places[order]), whole[order])
    for part in (slice(0, 1), slice(5, 7), slice(40, 57), slice(100, 133)):
        assert torch.equal(corrupt(images[part], name, 5, seed=1, index=places[part]), whole[part])


@pytest.mark.parametrize("name", ALL)
def test_seed_index_and_severity_change_the_draws_of_the_random_ones(photos: Tensor, index: Tensor, name: str) -> None:
    images = photos[:8]
    once = corrupt(images, name, 3, seed=1, index=index[:8])
    assert not torch.equal(once, images)
    assert torch.equal(once, corrupt(images, name, 3, seed=1, index=index[:8]))
    for other in (
        corrupt(images, name, 3, seed=2, index=index[:8]),
        corrupt(images, name, 3, seed=1, index=index[:8] + 1),
    ):
        same = float((other == once).flatten(1).all(1).double().mean())
        # Two angles of motion can round to the same pixels.
        assert same == 1 if name in FIXED else same <= 0.25
    assert not torch.equal(corrupt(images, name, 4, seed=1, index=index[:8]), once)


def test_severities_draw_independently(photos: Tensor, index: Tensor) -> None:
    grey = torch.full_like(photos, 128)
    low, high = (corrupt(grey, "gaussian_noise", s, seed=0, index=index).double() - 127.5 for s in (1, 5))
    correlation = float((low * high).mean() / (low.square().mean() * high.square().mean()).sqrt())
    assert abs(correlation) < 5 / low.numel() ** 0.5


@pytest.mark.parametrize("name", ALL)
def test_the_callers_images_stay_and_may_lie_in_memory_as_they_like(photos: Tensor, index: Tensor, name: str) -> None:
    images = photos[:20].contiguous(memory_format=torch.channels_last)
    before = images.clone()
    state = torch.get_rng_state()
    got = corrupt(images, name, 2, seed=0, index=index[:20])
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert got.is_contiguous()
    assert torch.equal(got, corrupt(photos[:20].clone(), name, 2, seed=0, index=index[:20]))


@pytest.mark.parametrize("name", ["motion_blur", "zoom_blur", "elastic_transform", "snow", "spatter"])
def test_autocast_and_threads_do_not_reach_the_arithmetic(photos: Tensor, index: Tensor, name: str) -> None:
    plain = corrupt(photos, name, 5, seed=0, index=index)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - threads if threads < 3 else 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(corrupt(photos, name, 5, seed=0, index=index), plain)
    finally:
        torch.set_num_threads(threads)


# Severities of these are no order of strength: two parameters change against each other.
WAVERING = {"glass_blur", "frost", "elastic_transform", "saturate", "spatter", "motion_blur"}


@pytest.mark.parametrize("name", [name for name in ALL if name not in WAVERING])
def test_distortion_grows_with_severity(photos: Tensor, index: Tensor, name: str) -> None:
    errors = [
        float((corrupt(photos, name, severity, seed=0, index=index).double() - photos).square().mean())
        for severity in range(1, 6)
    ]
    assert errors == sorted(errors)


def test_no_images_give_no_images() -> None:
    nothing = torch.empty(0, 3, 32, 32, dtype=torch.uint8)
    assert corrupt(nothing, "snow", 1, seed=0, index=torch.empty(0, dtype=torch.int64)).shape == nothing.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "gausian_noise"}, "did you mean 'gaussian_noise'"),
        ({"severity": 0}, "severity 0 is not one of"),
        ({"severity": 6}, "severity 6 is not one of"),
        ({"severity": 2.5}, "severity 2.5 is not one of"),
        ({"images": torch.rand(2, 3, 32, 32)}, "float32 (2, 3, 32, 32); allowed: uint8"),
        (
            {"images": torch.zeros(2, 32, 32, 3, dtype=torch.uint8)},
            "uint8 (2, 32, 32, 3); allowed: uint8 (B, 3, 32, 32)",
        ),
        ({"images": torch.zeros(3, 32, 32, dtype=torch.uint8)}, "uint8 (3, 32, 32); allowed"),
        ({"index": torch.arange(3)}, "index has the shape (3,)"),
        ({"index": torch.rand(2)}, "one integer for each image"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], message: str) -> None:
    given = {
        "images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        "name": "snow",
        "severity": 1,
        "seed": 0,
        "index": torch.arange(2),
    } | change
    with pytest.raises(UserError) as caught:
        corrupt(given["images"], given["name"], given["severity"], seed=given["seed"], index=given["index"])
    assert message in str(caught.value)


def test_the_names_cost_no_import_of_torch() -> None:
    code = "import sys, robusteval.corruptions as c; assert c.CORRUPTIONS and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
