import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from robusteval.data import load
from robusteval.data.augment import as_float
from robusteval.data.ops import OPERATIONS, _all_on_all, apply, as_levels
from robusteval.randomness import Stream

AFFINE, BILINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR


def seen_through(image, *matrix):
    return image.transform(image.size, AFFINE, matrix, resample=BILINEAR)


PIL = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "solarize": ImageOps.solarize,
    "color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "rotate": lambda image, degrees: image.rotate(degrees, resample=BILINEAR),
    "shear_x": lambda image, slope: seen_through(image, 1, slope, 0, 0, 1, 0),
    "shear_y": lambda image, slope: seen_through(image, 1, 0, 0, slope, 1, 0),
    "translate_x": lambda image, pixels: seen_through(image, 1, 0, pixels, 0, 1, 0),
    "translate_y": lambda image, pixels: seen_through(image, 1, 0, 0, 0, 1, pixels),
}
FACTORS = (-0.2, 2.2)
RANGES = {
    "posterize": (1, 9),
    "solarize": (-2, 260),
    "color": FACTORS,
    "contrast": FACTORS,
    "brightness": FACTORS,
    "sharpness": FACTORS,
    "rotate": (-30, 31),
    "shear_x": (-0.6, 0.6),
    "shear_y": (-0.6, 0.6),
    "translate_x": (-40, 41),
    "translate_y": (-40, 41),
}
WHOLE = ("posterize", "rotate", "translate_x", "translate_y")


def by_pil(name, images, strengths):
    """The operation done by PIL, one image at a time."""
    out = []
    for image, strength in zip(images, strengths.tolist(), strict=True):
        made = PIL[name](Image.fromarray(image.permute(1, 2, 0).numpy()), strength)
        out.append(torch.from_numpy(np.array(made)).permute(2, 0, 1))
    return torch.stack(out)


@pytest.fixture(scope="module")
def images():
    """Photographs, noise, noise of few levels, and images of one level but for a pixel."""
    g = torch.Generator().manual_seed(0)
    noise = [torch.randint(low, high, (30, 3, 32, 32), generator=g) for low, high in ((0, 256), (90, 97), (250, 256))]
    flat = torch.tensor([0, 77, 255]).view(3, 1, 1, 1).expand(3, 3, 32, 32).repeat(2, 1, 1, 1)
    flat[3:, :, 5, 7] = 140
    return torch.cat([load("cifar10-sample", "test").images[:150], torch.cat([*noise, flat]).to(torch.uint8)])


def drawn(name, count):
    low, high = RANGES.get(name, (0, 1))
    strengths = low + (high - low) * Stream.of(1).at(name).uniform(torch.arange(count), 1)[:, 0].double()
    return strengths.floor() if name in WHOLE else strengths


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_pil_to_the_last_bit(name, images):
    before = images.clone()
    strengths = drawn(name, len(images))
    out = OPERATIONS[name](images, strengths)
    assert torch.equal(images, before)
    assert torch.equal(out, by_pil(name, images, strengths))


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness", "rotate", "shear_x", "translate_x"])
def test_strengths_at_which_nothing_changes(name, images):
    neutral = torch.full((len(images),), float(name in ("color", "contrast", "brightness", "sharpness")))
    assert torch.equal(OPERATIONS[name](images, neutral), images)


def test_images_need_not_be_square(images):
    wide = images[:40, :, :20]
    for name in OPERATIONS:
        strengths = drawn(name, len(wide))
        assert torch.equal(OPERATIONS[name](wide, strengths), by_pil(name, wide, strengths)), name


def test_any_angle_is_within_one_level_of_pil(images):
    degrees = -400 + 800 * Stream.of(2).uniform(torch.arange(len(images)), 1)[:, 0].double()
    degrees[:6] = torch.tensor([45.0, -45.0, 90.0, 180.0, 360.0, -90.0])
    off = (OPERATIONS["rotate"](images, degrees).int() - by_pil("rotate", images, degrees).int()).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() < 1e-4


def test_apply_gives_every_image_its_own_operation(images):
    names = tuple(OPERATIONS)[3:]
    count = len(images)
    which = Stream.of(3).integers(torch.arange(count), len(names) + 1, 1)[:, 0] - 1
    strengths = torch.zeros(count, dtype=torch.float64)
    for number, name in enumerate(names):
        strengths = torch.where(which == number, drawn(name, count), strengths)
    before = images.clone()
    out = apply(images, names, which, strengths)
    assert torch.equal(images, before)
    for i in range(count):
        number = int(which[i])
        one = images[i : i + 1] if number < 0 else by_pil(names[number], images[i : i + 1], strengths[i : i + 1])
        assert torch.equal(out[i : i + 1], one), names[number]
    assert torch.equal(_all_on_all(images, names, which, strengths), out)  # the way of a GPU
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    assert torch.equal(apply(images[order], names, which[order], strengths[order]), out[order])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_levels(images):
    names, count = tuple(OPERATIONS), len(images)
    for number, name in enumerate(names):
        which, strengths = torch.full((count,), number), drawn(name, count)
        here = apply(images, names, which, strengths)
        there = apply(images.cuda(), names, which.cuda(), strengths.cuda()).cpu()
        if name == "rotate":  # by the GPU's own sine and cosine
            assert (here.int() - there.int()).abs().max() <= 1
            assert (here != there).float().mean() < 1e-4
        else:
            assert torch.equal(here, there), name


def test_levels_are_the_inverse_of_floats():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(as_levels(as_float(levels)), levels)
    assert as_levels(torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 1.0])).tolist() == [0, 0, 1, 255]
