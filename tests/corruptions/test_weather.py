"""Snow, frost, fog and brightness against the published recipe, picture by picture, on the same draws."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from robusteval.corruptions import CIFAR, textures, weather
from robusteval.randomness import Stream


def pixels(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def back(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images).transpose(0, 3, 1, 2)


def fallen(layer: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """ImageMagick's motion blur of one grey layer: sums of 16 bits, cut off to 8."""
    kernel = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    total = np.zeros(layer.shape)
    rows, columns = np.mgrid[:32, :32]
    for i, weight in enumerate(kernel / kernel.sum()):
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        total += weight * 257.0 * layer[np.clip(rows + down, 0, 31), np.clip(columns + right, 0, 31)]
    return (np.floor(total + 0.5) // 257).astype(np.uint8)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_snow(photos: Tensor, index: Tensor, severity: int) -> None:
    c = CIFAR["snow"][severity - 1]
    rng = Stream.of(1).at("snow")
    flakes = rng.at("flakes").normal(index, 1, 32, 32).double().numpy()[:, 0]
    angles = rng.at("angle").uniform(index, 1).numpy()[:, 0] * np.float32(90) - np.float32(135)
    want = []
    for image, noise, angle in zip(pixels(photos), flakes, angles, strict=True):
        x = np.array(image, dtype=np.float32) / np.float32(255)
        layer = noise * c[1] + c[0]
        crop = math.ceil(32 / c[2])
        top = (32 - crop) // 2
        layer = ndimage.zoom(layer[top : top + crop, top : top + crop], c[2], order=1)
        trim = (layer.shape[0] - 32) // 2
        layer = layer[trim : trim + 32, trim : trim + 32]
        layer[layer < c[3]] = 0
        layer = fallen((np.clip(layer, 0, 1) * 255).astype(np.uint8), c[4], c[5], float(angle))[..., None] / 255.0
        grey = (x @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
        x = c[6] * x + (1 - c[6]) * np.maximum(x, grey * 1.5 + 0.5)
        want.append(np.uint8(np.clip(x + layer + np.rot90(layer, k=2), 0, 1) * 255))
    got = weather.snow(photos, c, rng, index).numpy()
    # The order in which the three colours are added to a grey decides some last bits.
    difference = np.abs(got.astype(int) - back(want))
    assert difference.max() <= 1


@pytest.mark.parametrize("severity", [1, 4, 5])
def test_frost(photos: Tensor, index: Tensor, severity: int) -> None:
    weight, ice = CIFAR["frost"][severity - 1]
    rng = Stream.of(2).at("frost")
    which = rng.at("photograph").integers(index, 5, 1)[:, 0].tolist()
    corners = rng.at("corner").uniform(index, 2).double().tolist()
    want = []
    for image, photograph, (down, right) in zip(pixels(photos), which, corners, strict=True):
        texture = textures.frost()[photograph].permute(1, 2, 0).numpy()
        top, left = int(down * (texture.shape[0] - 32)), int(right * (texture.shape[1] - 32))
        crop = texture[top : top + 32, left : left + 32]
        want.append(np.uint8(np.clip(weight * image + ice * crop, 0, 255)))
    np.testing.assert_array_equal(weather.frost(photos, (weight, ice), rng, index), back(want))
    assert set(which) == {0, 1, 2, 3, 4}


def landscape(noise: np.ndarray, decay: float) -> np.ndarray:
    """Diamond and square point by point, on a torus of 32 x 32; noise in the order of its use, in -1..1."""
    field, draws = np.zeros((32, 32)), iter(noise.tolist())
    step, wobble = 32, 100.0

    def around(places: list[tuple[int, int]]) -> float:
        return sum(field[y % 32, x % 32] for y, x in places) / 4 + wobble * wobble * next(draws)

    while step >= 2:
        half, grid = step // 2, range(0, 32, step)
        for y in grid:
            for x in grid:
                field[y + half, x + half] = around([(y, x), (y + step, x), (y, x + step), (y + step, x + step)])
        for y in grid:
            for x in grid:
                field[y, x + half] = around([(y + half, x + half), (y - half, x + half), (y, x), (y, x + step)])
        for y in grid:
            for x in grid:
                field[y + half, x] = around([(y + half, x + half), (y + half, x - half), (y, x), (y + step, x)])
        step, wobble = half, wobble / decay
    field -= field.min()
    return field / field.max()


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_fog(photos: Tensor, index: Tensor, severity: int) -> None:
    amount, decay = CIFAR["fog"][severity - 1]
    rng = Stream.of(3).at("fog")
    noise = rng.at("plasma").uniform(index, 1023).double().numpy() * 2 - 1
    want = []
    for image, draws in zip(pixels(photos), noise, strict=True):
        x = image / 255.0
        brightest = x.max()
        x += amount * landscape(draws, decay)[..., None]
        want.append(np.uint8(np.clip(x * brightest / (brightest + amount), 0, 1) * 255))
    difference = np.abs(weather.fog(photos, (amount, decay), rng, index).numpy().astype(int) - back(want))
    assert difference.max() <= 1


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_brightness_is_scikit_images_to_the_last_bit(photos: Tensor, index: Tensor, severity: int) -> None:
    color = pytest.importorskip("skimage.color", reason="scikit-image is a peer to compare with, not a dependency")
    (amount,) = CIFAR["brightness"][severity - 1]
    want = []
    for image in pixels(photos):
        x = color.rgb2hsv(image / 255.0)
        x[:, :, 2] = np.clip(x[:, :, 2] + amount, 0, 1)
        want.append(np.uint8(np.clip(color.hsv2rgb(x), 0, 1) * 255))
    np.testing.assert_array_equal(weather.brightness(photos, (amount,), Stream.of(0), index), back(want))


def test_brightness_scales_all_channels_by_the_same_factor() -> None:
    # With hue and saturation kept, adding d to the largest channel v multiplies every channel by (v + d) / v.
    levels = torch.tensor([[200, 100, 41], [13, 130, 99], [60, 60, 180], [7, 7, 7]], dtype=torch.uint8)
    got = weather.brightness(levels.view(4, 3, 1, 1), (0.1,), Stream.of(0), torch.arange(4)).view(4, 3)
    for before, after in zip(levels.tolist(), got.tolist(), strict=True):
        exact = [value * (max(before) + 25.5) / max(before) for value in before]
        assert after == [int(value) for value in exact]
