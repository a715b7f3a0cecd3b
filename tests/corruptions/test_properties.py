"""What holds for every corruption, image, size, table and severity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robusteval.corruptions import CBAR, CORRUPTIONS, HELD_OUT, TABLES, Table, corrupt
from robusteval.data import load
from robusteval.randomness import Stream

ALL = CORRUPTIONS + HELD_OUT + CBAR
names = st.sampled_from(CORRUPTIONS + HELD_OUT)
tables: st.SearchStrategy[Table] = st.sampled_from(["cifar", "imagenet"])
made_by: list[tuple[Table, str]] = [(table, name) for table, rows in TABLES.items() for name in rows]
makers = st.sampled_from(made_by)
severities = st.integers(1, 5) | st.floats(1, 5)
sides = st.integers(16, 72)
quickly = settings(max_examples=60, deadline=None, derandomize=True, database=None)

FIXED = ("brightness", "contrast", "saturate", "gaussian_blur", "defocus_blur", "zoom_blur", "pixelate")
MIXING = ("gaussian_blur", "defocus_blur", "zoom_blur", "motion_blur", "glass_blur", "pixelate", "elastic_transform")
"""These make every value from values of the image by weights that sum to 1."""


SYMMETRIC = ("brightness", "contrast", "saturate", "gaussian_blur", "defocus_blur")


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images of blotches, uint8 (count, 3, height, width), with some values at both ends."""
    coarse = Stream.of(seed).at("blotches").uniform(torch.arange(count), 3, 1 + height // 6, 1 + width // 6)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return (smooth * 300 - 20).clamp(0, 255).to(torch.uint8)


@quickly
@given(makers, severities, sides, sides, st.integers(0, 2**40))
def test_an_image_becomes_another_of_the_same_form_and_stays_itself(
    maker: tuple[Table, str], severity: float, height: int, width: int, place: int
) -> None:
    table, name = maker
    images, index = pictures(3, height, width), torch.arange(3) + place
    before = images.clone()
    made = corrupt(images, name, severity, seed=5, index=index, table=table)
    assert (made.dtype, made.shape, made.is_contiguous()) == (torch.uint8, images.shape, True)
    assert torch.equal(images, before)
    assert made.data_ptr() != images.data_ptr()
    # Neither the neighbours in a batch nor their order or layout in memory have any influence.
    turned = images.flip(0).contiguous(memory_format=torch.channels_last)
    assert torch.equal(corrupt(turned, name, severity, seed=5, index=index.flip(0), table=table).flip(0), made)
    framed = torch.nn.functional.pad(images, (3, 2, 1, 4))[:, :, 1:-4, 3:-2]
    assert torch.equal(corrupt(framed, name, severity, seed=5, index=index, table=table), made)
    for one in range(3):
        alone = corrupt(images[one : one + 1], name, severity, seed=5, index=index[one : one + 1], table=table)
        assert torch.equal(alone[0], made[one])


@quickly
@given(makers, severities, st.integers(24, 72), st.integers(24, 72), st.integers(0, 2**40), st.integers(0, 99))
def test_draws_depend_on_seed_and_index_alone(
    maker: tuple[Table, str], severity: float, height: int, width: int, place: int, seed: int
) -> None:
    table, name = maker
    images = pictures(1, height, width).expand(4, -1, -1, -1)
    index = torch.tensor([place, place + 1, place, place + 2**32])
    made = corrupt(images, name, severity, seed=seed, index=index, table=table)
    assert torch.equal(made[0], made[2])
    others = (made[1], made[3], corrupt(images[:1], name, severity, seed=seed + 1, index=index[:1], table=table)[0])
    for other in others:
        if name in (*FIXED, "jpeg_compression", "circular_motion_blur"):
            assert torch.equal(made[0], other)
    if name.endswith(("noise", "noise_sample", "sparkles")):
        assert not any(torch.equal(made[0], other) for other in others)


@quickly
@given(st.sampled_from(MIXING), severities, tables, sides, sides, st.integers(0, 40), st.integers(200, 255))
def test_blurs_make_no_level_that_lies_outside_of_the_images(
    name: str, severity: float, table: Table, height: int, width: int, low: int, high: int
) -> None:
    images = pictures(2, height, width).clamp(low, high)
    made = corrupt(images, name, severity, seed=0, index=torch.arange(2), table=table)
    # Each time that levels are cut off to bytes, a flat patch may lose one.
    assert int(made.min()) >= low - 2
    # A disk of radius 8 touches the border of its square, which mirrors it: its weights sum to 1.014.
    assert int(made.max()) <= high * (1.015 if name == "defocus_blur" else 1)


@quickly
@given(st.sampled_from(SYMMETRIC), severities, tables, sides, sides)
def test_turned_images_are_treated_alike(name: str, severity: float, table: Table, height: int, width: int) -> None:
    images, index = pictures(1, height, width), torch.zeros(1, dtype=torch.int64)
    made = corrupt(images, name, severity, seed=0, index=index, table=table)
    other = corrupt(images.flip(2, 3), name, severity, seed=0, index=index, table=table).flip(2, 3)
    # The mean that contrast keeps is added up from the first pixel on.
    assert int((made.int() - other.int()).abs().max()) <= (name == "contrast")


@quickly
@given(st.lists(names, min_size=2, max_size=3, unique=True), severities, tables, sides, sides)
def test_a_compound_is_its_parts_in_order(
    some: list[str], severity: float, table: Table, height: int, width: int
) -> None:
    images, index = pictures(2, height, width), torch.tensor([7, 3])
    step = images
    for name in some:
        step = corrupt(step, name, severity, seed=1, index=index, table=table)
    assert torch.equal(corrupt(images, "+".join(some), severity, seed=1, index=index, table=table), step)


# Severities of the others are no order of strength: two numbers of the strength change against each other.
MONOTONE: dict[Table, tuple[str, ...]] = {
    "cifar": ("zoom_blur", "fog", *(name for name in CBAR if name != "checkerboard_cutout")),
    "imagenet": ("defocus_blur", "motion_blur", "zoom_blur", "blue_noise_sample", "brownish_noise", "sparkles"),
}
EVERYWHERE = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "gaussian_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
)


CASES = [(table, name) for table, more in MONOTONE.items() for name in (*EVERYWHERE, *more)]


@pytest.mark.parametrize(("table", "name"), CASES)
def test_distortion_grows_with_severity(table: Table, name: str) -> None:
    images = load("cifar10-sample", "test").images[:32]
    if table == "imagenet":
        smooth = torch.nn.functional.interpolate(images[:12].float(), size=(72, 56), mode="bicubic")
        images = smooth.round().clamp(0, 255).to(torch.uint8)
    index = torch.arange(len(images))
    errors = [
        float((corrupt(images, name, severity, seed=0, index=index, table=table).double() - images).square().mean())
        for severity in (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)
    ]
    # Each severity has draws of its own, so that steps between neighbours may drown in them.
    assert errors[::2] == sorted(errors[::2])
    for low, between, high in zip(errors[::2], errors[1::2], errors[2::2], strict=False):
        assert 0.9 * low < between < 1.1 * high


@pytest.mark.parametrize(("height", "width"), [(16, 16), (256, 256), (16, 256), (256, 16), (129, 224)])
@pytest.mark.parametrize("name", ALL)
def test_sizes_from_16_to_256(name: str, height: int, width: int) -> None:
    images, index = pictures(1, height, width, seed=1), torch.tensor([11])
    for table in TABLES:
        if name not in TABLES[table]:
            continue
        made = corrupt(images, name, 4, seed=0, index=index, table=table)
        assert made.shape == images.shape
        error = float((made.double() - images).square().mean().sqrt())
        # It is corrupted, and still an image: even the strongest does less than an unrelated image would.
        # (A hole in a long white surface leaves little of it.)
        assert 0.2 < error < (145 if name == "inverse_sparkles" else 130), (table, error)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
@pytest.mark.parametrize(("table", "name"), made_by)
def test_a_gpu_makes_the_cpus_images_but_for_single_values(table: Table, name: str) -> None:
    images = load("cifar10-sample", "test").images[:100]
    index = torch.arange(len(images)) + 2**33
    for severity in (1, 2.5, 5):
        here = corrupt(images, name, severity, seed=0, index=index, table=table)
        there = corrupt(images.cuda(), name, severity, seed=0, index=index, table=table).cpu()
        different = here != there
        # The draws are the same numbers. Sums that are rounded otherwise, before levels are cut off to bytes, decide
        # some of the values that lie at a whole level, and a threshold has neighbours on both sides.
        assert float(different.double().mean()) <= 1e-3
        assert float((here.double() - there.double()).square().mean().sqrt()) <= 0.5
