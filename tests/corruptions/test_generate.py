"""What holds for every corruption: what its randomness depends on, and what it leaves alone."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from robusteval.corruptions import CBAR, CIFAR, CORRUPTIONS, GENERATOR_VERSION, HELD_OUT, TABLES, corrupt
from robusteval.data import load
from robusteval.errors import UserError

ALL = CORRUPTIONS + HELD_OUT + CBAR
FIXED = {
    "circular_motion_blur",
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
# order, or sines of the platform whose last bit does not show. Snow, spatter and both sparkles are missing, because
# their normal draws are float32 logarithms and cosines of the platform, and ripple and pinch_and_twirl, where the last
# bit of a weight decides whether a flat patch keeps its level.
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
    "blue_noise_sample": "47f6d242820c228a",
    "checkerboard_cutout": "64e7486acf181a2d",
    "brownish_noise": "6635436e7c23477b",
    "circular_motion_blur": "b4a42a53845ea8ec",
    "lines": "763eba17f5178fd7",
    "transverse_chromatic_abberation": "be02c06a478f9e9b",
}


def test_there_are_fifteen_and_four_with_five_strengths_each() -> None:
    assert (len(CORRUPTIONS), len(HELD_OUT), len(CBAR), len(set(ALL))) == (15, 4, 10, 29)
    assert set(CIFAR) == {*CORRUPTIONS, *HELD_OUT}
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
        # Two angles of motion can round to the same pixels, and there are six orders of three channels.
        most = 0.5 if name == "transverse_chromatic_abberation" else 0.25
        assert same == 1 if name in FIXED else same <= most
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


@pytest.mark.parametrize(
    "name",
    ["motion_blur", "zoom_blur", "elastic_transform", "snow", "spatter", "brownish_noise", "circular_motion_blur"],
)
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
        ({"name": "defocus_blur+"}, "unknown corruption ''; allowed: blue_noise_sample, brightness"),
        ({"name": "fog+gaussian_nois"}, "did you mean 'gaussian_noise'"),
        ({"name": "fog+snow+fog"}, "'fog+snow+fog' has a corruption twice; allowed: each once"),
        ({"severity": 0}, "severity 0 is not one of 1, 2, 3, 4, 5, nor between them"),
        ({"severity": 6}, "severity 6 is not one of"),
        ({"severity": 5.01}, "severity 5.01 is not one of"),
        ({"severity": float("nan")}, "severity nan is not one of"),
        ({"severity": True}, "severity True is not one of"),
        ({"severity": "3"}, "severity '3' is not one of"),
        ({"table": "imagnet"}, "unknown table 'imagnet'; did you mean 'imagenet'?; allowed: auto, cifar, imagenet"),
        (
            {"images": torch.tensor([0.0, 0.5, 1.0]).repeat(2048).view(2, 3, 32, 32)},
            "float32 (2, 3, 32, 32) from 0 to 1; (images * 255).round().to(torch.uint8)?; allowed: uint8 (B, 3, H, W)",
        ),
        (
            {"images": torch.tensor([0.0, 0.5, 200.0]).repeat(2048).view(2, 3, 32, 32)},
            "from 0 to 255; images.round().to(torch.uint8)?; allowed",
        ),
        (
            {"images": torch.tensor([-1.5, 0.5, 1.0]).repeat(2048).view(2, 3, 32, 32)},
            "from -1.5 to 1; normalised? corruptions come before that; allowed",
        ),
        (
            {"images": torch.zeros(2, 32, 32, 3, dtype=torch.uint8)},
            "uint8 (2, 32, 32, 3); channels last? images.permute(0, 3, 1, 2); allowed: uint8 (B, 3, H, W)",
        ),
        (
            {"images": torch.zeros(3, 32, 32, dtype=torch.uint8)},
            "uint8 (3, 32, 32); one image? images.unsqueeze(0); allowed",
        ),
        ({"images": torch.zeros(2, 1, 32, 32, dtype=torch.uint8)}, "uint8 (2, 1, 32, 32); allowed"),
        (
            {"images": torch.zeros(2, 3, 32, 15, dtype=torch.uint8)},
            "(2, 3, 32, 15); allowed: uint8 (B, 3, H, W), H",
        ),
        ({"images": torch.zeros(2, 3, 32, 32, dtype=torch.int64)}, "int64 (2, 3, 32, 32); allowed"),
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
        "table": "auto",
    } | change
    with pytest.raises(UserError) as caught:
        corrupt(
            given["images"],
            given["name"],
            given["severity"],
            seed=given["seed"],
            index=given["index"],
            table=given["table"],
        )
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_of_a_compound_follow_each_other_with_the_draws_they_have_alone(photos: Tensor, index: Tensor) -> None:
    for table in ("cifar", "imagenet"):
        step = corrupt(photos, "defocus_blur", 4, seed=2, index=index, table=table)
        step = corrupt(step, "gaussian_noise", 4, seed=2, index=index, table=table)
        step = corrupt(step, "frost", 4, seed=2, index=index, table=table)
        together = corrupt(photos, "defocus_blur+gaussian_noise+frost", 4, seed=2, index=index, table=table)
        assert torch.equal(together, step)
    other = corrupt(photos, "gaussian_noise+defocus_blur+frost", 4, seed=2, index=index, table="imagenet")
    assert not torch.equal(together, other)


def test_tables_draw_independently(photos: Tensor, index: Tensor) -> None:
    grey = torch.full_like(photos, 128)
    one, other = (
        corrupt(grey, "gaussian_noise", 3, seed=0, index=index, table=table).double() - 127.5
        for table in ("cifar", "imagenet")
    )
    assert 2 < float(other.std() / one.std()) < 2.5
    correlation = float((one * other).mean() / (one.square().mean() * other.square().mean()).sqrt())
    assert abs(correlation) < 5 / one.numel() ** 0.5


@pytest.mark.parametrize("name", ALL)
def test_a_whole_severity_may_be_written_as_a_float(photos: Tensor, index: Tensor, name: str) -> None:
    whole = corrupt(photos[:4], name, 3, seed=0, index=index[:4])
    assert torch.equal(corrupt(photos[:4], name, 3.0, seed=0, index=index[:4]), whole)


@pytest.mark.parametrize("table", ["cifar", "imagenet"])
def test_between_two_severities_the_noise_is_between_them(photos: Tensor, index: Tensor, table: str) -> None:
    grey = torch.full_like(photos, 128)
    sizes = [
        float(corrupt(grey, "gaussian_noise", severity, seed=0, index=index, table=table).double().std())
        for severity in (1, 1.25, 1.5, 1.75, 2)
    ]
    np.testing.assert_allclose(sizes, np.linspace(sizes[0], sizes[-1], 5), rtol=0.01)


@pytest.mark.parametrize("name", TABLES["imagenet"])
def test_auto_takes_the_table_of_the_size(photos: Tensor, index: Tensor, name: str) -> None:
    small, large = photos[:2], photos[:2].repeat_interleave(2, 3)
    for images, table in ((small, "cifar"), (large, "imagenet")):
        made = corrupt(images, name, 2, seed=0, index=index[:2])
        assert torch.equal(made, corrupt(images, name, 2, seed=0, index=index[:2], table=table))
        other = "cifar" if table == "imagenet" else "imagenet"
        same = torch.equal(made, corrupt(images, name, 2, seed=0, index=index[:2], table=other))
        # The second severity of saturate is the same number in both tables.
        assert same == (name == "saturate")


def test_the_names_cost_no_import_of_torch() -> None:
    code = "import sys, robusteval.corruptions as c; assert c.CORRUPTIONS and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
