"""JPEG against Pillow, whose library is another one, where both must agree, and against closed forms."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robusteval.corruptions import CIFAR, digital, jpeg
from robusteval.randomness import Stream


def pillow(images: Tensor, quality: int) -> np.ndarray:
    """The images after a file of Pillow's, uint8 (B, 3, H, W)."""
    results = []
    for image in images.permute(0, 2, 3, 1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        results.append(np.asarray(Image.open(file)))
    return np.stack(results).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("quality", [5, 40, 50, 80, 95, 100])
def test_grey_pictures_are_pillows_to_the_last_bit(photos: Tensor, quality: int) -> None:
    # Without colour, what the two libraries do differently has no effect.
    grey = photos[:, 1:2].expand(-1, 3, -1, -1).contiguous()
    np.testing.assert_array_equal(jpeg.recoded(grey, quality), pillow(grey, quality))


@pytest.mark.parametrize(("height", "width"), [(17, 31), (50, 91), (224, 224), (16, 200)])
@pytest.mark.parametrize("quality", [7, 25, 80])
def test_grey_pictures_of_any_size_are_pillows_to_the_last_bit(
    photos: Tensor, quality: int, height: int, width: int
) -> None:
    grey = photos[:2, :1].repeat(1, 3, 7, 7)[:, :, 3 : 3 + height, 5 : 5 + width].contiguous()
    np.testing.assert_array_equal(jpeg.recoded(grey, quality), pillow(grey, quality))


def test_a_border_is_repeated_to_fill_blocks(photos: Tensor) -> None:
    # A picture that is continued by its own last rows and columns to 48 x 48 is coded alike.
    cut = photos[:, :, :27, :22]
    whole = torch.nn.functional.pad(cut.float(), (0, 26, 0, 21), mode="replicate").to(torch.uint8)
    np.testing.assert_array_equal(jpeg.recoded(cut, 25), jpeg.recoded(whole, 25)[:, :, :27, :22])


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_colours_are_near_those_of_the_other_library(photos: Tensor, index: Tensor, severity: int) -> None:
    (quality,) = CIFAR["jpeg_compression"][severity - 1]
    got = digital.jpeg_compression(photos, (quality,), Stream.of(0), index).numpy().astype(float)
    other = pillow(photos, int(quality)).astype(float)
    # The quality next to it is further away, and the original much further.
    assert 0.1 < np.abs(got - other).mean() < 2
    assert np.abs(got - photos.numpy()).mean() > 2 * np.abs(got - other).mean()


def test_a_picture_of_one_colour_keeps_it_within_the_rounding() -> None:
    levels = torch.tensor([[0, 0, 0], [255, 255, 255], [200, 30, 90], [12, 240, 130]], dtype=torch.uint8)
    flat = levels.view(4, 3, 1, 1).expand(-1, -1, 32, 32).contiguous()
    got = jpeg.recoded(flat, 100)
    assert bool((got == got[:, :, :1, :1]).all())
    assert int((got.int() - flat.int()).abs().max()) <= 2


@pytest.mark.parametrize("points", [8, 16])
def test_the_cosines_are_whole_and_within_one_unit(points: int) -> None:
    matrix = jpeg.cosines(points, jpeg._FORWARD_8 if points == 8 else jpeg._INVERSE_16).numpy()
    assert np.array_equal(matrix, np.rint(matrix))
    for frequency, sample in np.ndindex(8, points):
        scale = math.sqrt(2) if frequency else 1
        exact = 8192 * scale * math.cos((2 * sample + 1) * frequency * math.pi / (2 * points))
        assert abs(matrix[frequency, sample] - exact) < 1.5
    # Even frequencies are symmetric and odd ones antisymmetric, corrections included.
    np.testing.assert_array_equal(matrix[:, ::-1], matrix * (-1.0) ** np.arange(8)[:, None])


def test_quantisation_follows_the_librarys_scale() -> None:
    assert jpeg.quantisation(jpeg._BRIGHTNESS, 50)[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]
    assert jpeg.quantisation(jpeg._COLOUR, 100).unique().tolist() == [1]
    # Pillow tells the tables of its files, in zigzag order only inside the file.
    for quality in (10, 40, 45, 65, 80):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
        tables = Image.open(file).quantization
        for place, table in enumerate((jpeg._BRIGHTNESS, jpeg._COLOUR)):
            assert sorted(tables[place]) == sorted(jpeg.quantisation(table, quality).flatten().tolist())
            assert tables[place][0] == jpeg.quantisation(table, quality)[0, 0]
