"""Each blur against the published recipe, written pixel by pixel or with scipy, on the same draws."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from robusteval.corruptions import CIFAR, IMAGENET, blur
from robusteval.corruptions.filters import Border, gaussian, motion_blur, motion_kernels, motion_taps, padded, planes
from robusteval.corruptions.zoom import mean_one_by_one, mean_zoomed
from robusteval.randomness import Stream


def smoothed(x: np.ndarray, sigma: float) -> np.ndarray:
    """What ``skimage.filters.gaussian(x, sigma, channel_axis=-1)`` computes for floats (H, W, 3)."""
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def pixels(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def back(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_gaussian_blur_is_scipys_to_the_last_bit(many: Tensor, index: Tensor, severity: int) -> None:
    (sigma,) = CIFAR["gaussian_blur"][severity - 1]
    want = back([np.uint8(np.clip(smoothed(x / 255.0, sigma), 0, 1) * 255) for x in pixels(many)])
    np.testing.assert_array_equal(blur.gaussian_blur(many, (sigma,), Stream.of(0), index), want)


@pytest.mark.parametrize(("sigma", "truncate", "border"), [(9.0, 4.0, "nearest"), (40.0, 3.0, "reflect")])
def test_long_filters_are_scipys(many: Tensor, sigma: float, truncate: float, border: Border) -> None:
    values = planes(many[:2, :, :20, :27].double())
    got = gaussian(values, sigma, truncate=truncate, border=border)
    want = ndimage.gaussian_filter(values.numpy(), (sigma, sigma, 0), mode=border, truncate=truncate)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    # Whatever is filtered beside it, a plane is the same to the last bit.
    assert torch.equal(gaussian(values[:, :, 4:5], sigma, truncate=truncate, border=border)[:, :, 0], got[:, :, 4])


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_defocus_blur_is_a_correlation_with_the_disk(photos: Tensor, index: Tensor, severity: int) -> None:
    strength = CIFAR["defocus_blur"][severity - 1]
    kernel = blur.disk(*strength).astype(np.float64)[..., None]
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    want = [np.uint8(np.clip(ndimage.correlate(x / 255.0, kernel, mode="mirror"), 0, 1) * 255) for x in pixels(photos)]
    np.testing.assert_array_equal(blur.defocus_blur(photos, strength, Stream.of(0), index), back(want))


def test_the_disk_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is a peer to compare with, not a dependency")
    for radius, sigma in (*CIFAR["defocus_blur"], *IMAGENET["defocus_blur"], (3.0, 0.5), (6.0, 0.9), (9, 0.8)):
        reach, taps = (8, 3) if radius <= 8 else (int(radius), 5)
        line = np.arange(-reach, reach + 1)
        flat = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float32)
        want = cv2.GaussianBlur(flat / flat.sum(), ksize=(taps, taps), sigmaX=sigma)
        np.testing.assert_allclose(blur.disk(radius, sigma), want, rtol=3e-7, atol=1e-30)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_glass_blur_is_the_published_loop(photos: Tensor, index: Tensor, severity: int) -> None:
    sigma, reach, passes = CIFAR["glass_blur"][severity - 1]
    rng = Stream.of(3).at("glass")
    words = rng.bits(index, 30, 30).numpy()
    want = []
    for x, word in zip(pixels(photos)[-8:], words[-8:], strict=True):
        x = np.uint8(smoothed(x / 255.0, sigma) * 255)
        for turn in range(int(passes)):
            for h in range(31, 1, -1):
                for w in range(31, 1, -1):
                    bits = int(word[h - 2, w - 2]) >> (2 * turn)
                    dx, dy = -(bits & 1), -(bits >> 1 & 1)
                    # On views of the last axis the published swap is this copy.
                    x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
        want.append(np.uint8(np.clip(smoothed(x / 255.0, sigma), 0, 1) * 255))
    got = blur.glass_blur(photos, (sigma, reach, passes), rng, index)
    np.testing.assert_array_equal(got[-8:], back(want))


@pytest.mark.parametrize(("height", "width"), [(24, 24), (18, 40)])
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_glass_blur_of_a_longer_reach_is_the_published_loop(
    photos: Tensor, index: Tensor, severity: int, height: int, width: int
) -> None:
    sigma, reach, passes = IMAGENET["glass_blur"][severity - 1]
    reach, passes = int(reach), int(passes)
    images = photos.repeat(1, 1, 1, 2)[-6:, :, :height, :width]
    rng = Stream.of(3).at("glass")
    want, followed = [], 0
    for place, x in zip(index[-6:], pixels(images), strict=True):
        x = np.uint8(smoothed(x / 255.0, sigma) * 255)
        for turn in range(passes):
            stream = rng if reach == 1 else rng.at("pass", turn)
            words = stream.bits(place[None], height - 2 * reach, width - 2 * reach)[0].numpy().view(np.uint32)
            for h in range(height - reach, reach, -1):
                for w in range(width - reach, reach, -1):
                    word = int(words[h - reach - 1, w - reach - 1])
                    if reach == 1:
                        dx, dy = -(word >> 2 * turn & 1), -(word >> 2 * turn + 1 & 1)
                    else:
                        dx, dy = ((half * 2 * reach >> 16) - reach for half in (word & 0xFFFF, word >> 16))
                    assert -reach <= min(dx, dy) <= max(dx, dy) < reach
                    followed += (dy, dx) > (0, 0)
                    x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
        want.append(np.uint8(np.clip(smoothed(x / 255.0, sigma), 0, 1) * 255))
    got = blur.glass_blur(images, (sigma, reach, passes), rng, index[-6:])
    np.testing.assert_array_equal(got, back(want))
    assert (followed > 0) == (reach > 1)


def imagemagick(x: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """Motion blur of one picture (H, W, C) pixel by pixel: 16-bit sums, cut off to 8 bits."""
    width = 2 * math.ceil(radius) + 1
    kernel = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(width)]
    radians = math.radians(angle)
    px, py = width * math.sin(radians), width * math.cos(radians)
    length = math.hypot(px, py)
    total = np.zeros(x.shape)
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    for i, weight in enumerate(kernel):
        right, down = math.ceil(i * py / length - 0.5), math.ceil(i * px / length - 0.5)
        source = x[np.clip(rows + down, 0, x.shape[0] - 1), np.clip(columns + right, 0, x.shape[1] - 1)]
        total += weight / sum(kernel) * 257.0 * source
    return (np.floor(total + 0.5) // 257).astype(np.uint8)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_motion_blur_is_imagemagicks(photos: Tensor, index: Tensor, severity: int) -> None:
    radius, sigma = CIFAR["motion_blur"][severity - 1]
    rng = Stream.of(4).at("motion")
    angles = rng.at("angle").uniform(index, 1)[:, 0] * 90 - 45
    assert -45 <= angles.min() < -30
    assert 30 < angles.max() < 45
    want = back([imagemagick(x, radius, sigma, float(a)) for x, a in zip(pixels(photos), angles, strict=True)])
    np.testing.assert_array_equal(blur.motion(photos, (radius, sigma), rng, index), want)


@pytest.mark.parametrize("angle", [-135.0, -110.3, -90.0, -60.7, -45.0])
def test_motion_blur_goes_up_for_snow(photos: Tensor, angle: float) -> None:
    layer = photos[:3, :1]
    got = motion_blur(layer, torch.full((3,), angle), radius=14, sigma=12, heading="up")
    want = back([imagemagick(x, 14, 12, angle) for x in pixels(layer)])
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("height", "width"), [(48, 80), (16, 64), (64, 64)])
@pytest.mark.parametrize("severity", [1, 5])
def test_motion_blur_of_larger_pictures(photos: Tensor, index: Tensor, severity: int, height: int, width: int) -> None:
    radius, sigma = IMAGENET["motion_blur"][severity - 1]
    large = photos.repeat(1, 1, 2, 3)[:6, :, :height, :width]
    rng = Stream.of(4).at("motion")
    angles = rng.at("angle").uniform(index[:6], 1)[:, 0] * 90 - 45
    want = back([imagemagick(x, radius, sigma, float(a)) for x, a in zip(pixels(large), angles, strict=True)])
    np.testing.assert_array_equal(blur.motion(large, (radius, sigma), rng, index[:6]), want)


def test_motion_kernels_lie_along_their_angle() -> None:
    taps = motion_taps(6, 1)
    assert sum(taps) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(np.divide(taps[1:], taps[:-1]), np.exp(-(np.arange(1, len(taps)) - 0.5)), rtol=1e-12)
    kernels, place = motion_kernels(torch.tensor([0.0, 45.0, -45.0]), taps, "right")
    row, column = place.tolist()
    np.testing.assert_allclose(kernels[0, 0, row, column:], taps)
    assert kernels[0].count_nonzero() == len(taps)
    for kernel, down in ((kernels[1, 0], 1), (kernels[2, 0], -1)):
        # On the diagonal, the second tap rounds to the same pixel as the first.
        assert kernel[row + down, column + 1] == taps[1] + taps[2]
        assert kernel.sum() == pytest.approx(1, abs=1e-9)


def clipped_zoom(image: np.ndarray, factor: float) -> np.ndarray:
    """The middle, enlarged and trimmed on all sides; published for squares, here with the same rule on each side."""
    crop = [math.ceil(side / factor) for side in image.shape[:2]]
    top = [(side - part) // 2 for side, part in zip(image.shape, crop, strict=False)]
    middle = image[top[0] : top[0] + crop[0], top[1] : top[1] + crop[1]]
    large = ndimage.zoom(middle, (factor, factor, 1), order=1)
    trim = [(whole - side) // 2 for whole, side in zip(large.shape[:2], image.shape[:2], strict=True)]
    return large[trim[0] : trim[0] + image.shape[0], trim[1] : trim[1] + image.shape[1]]


def zooms(images: Tensor, strength: tuple[float, ...]) -> np.ndarray:
    """The published loop over the factors of zoom."""
    factors = np.arange(1, *strength)
    want = []
    for image in pixels(images):
        x = (image / 255.0).astype(np.float32)
        total = np.zeros_like(x)
        for factor in factors:
            total += clipped_zoom(x, factor)
        want.append(np.uint8(np.clip((x + total) / (len(factors) + 1), 0, 1) * 255))
    return back(want)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_zoom_blur_is_scipys_to_the_last_bit(photos: Tensor, index: Tensor, severity: int) -> None:
    strength = CIFAR["zoom_blur"][severity - 1]
    np.testing.assert_array_equal(blur.zoom_blur(photos, strength, Stream.of(0), index), zooms(photos, strength))


@pytest.mark.parametrize(("height", "width"), [(224, 224), (40, 40), (50, 91), (16, 33), (64, 64), (17, 17)])
@pytest.mark.parametrize("severity", [1, 5])
def test_zoom_blur_of_other_sizes(photos: Tensor, index: Tensor, severity: int, height: int, width: int) -> None:
    strength = IMAGENET["zoom_blur"][severity - 1]
    images = photos[:3].repeat(1, 1, 7, 7)[:, :, 5 : 5 + height, 9 : 9 + width].contiguous()
    got = blur.zoom_blur(images, strength, Stream.of(0), index[:3]).numpy()
    difference = np.abs(got.astype(int) - zooms(images, strength))
    # scipy multiplies a pixel with both weights at once, which may decide a last bit.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-5


@pytest.mark.parametrize("side", [16, 32, 64])
def test_both_ways_to_a_mean_of_zooms_are_one(photos: Tensor, side: int) -> None:
    values = planes(photos.repeat(1, 1, 2, 2)[:, :, :side, :side]).contiguous()
    for stop, step in (*CIFAR["zoom_blur"], *IMAGENET["zoom_blur"]):
        factors = tuple(np.arange(1, stop, step).tolist())
        np.testing.assert_array_equal(mean_zoomed(values, factors), mean_one_by_one(values, factors))


def test_the_zoom_repairs_what_the_matrix_leaves_open() -> None:
    # On one grey level the mean is that level exactly, and only the published float32 sum decides what it becomes.
    levels = torch.arange(256, dtype=torch.uint8).expand(8, 8, 256).contiguous()
    factors = np.arange(1, 1.26, 0.01)
    one = (np.arange(256) / 255.0).astype(np.float32)
    total = np.zeros_like(one)
    for _ in factors:
        total += one
    want = np.uint8(np.clip((one + total) / np.float32(len(factors) + 1), 0, 1) * np.float32(255))
    assert (want != np.arange(256)).any()
    got = mean_zoomed(levels, tuple(factors.tolist()))
    np.testing.assert_array_equal(got[3, 5], want)


def test_borders_have_scipys_names() -> None:
    line = torch.arange(5.0).view(5, 1, 1)
    for border, name in (("nearest", "edge"), ("reflect", "symmetric"), ("mirror", "reflect")):
        want = np.pad(np.arange(5.0), 3, mode=name)
        np.testing.assert_array_equal(padded(line, 0, 3, border).flatten(), want)
        np.testing.assert_array_equal(padded(line.transpose(0, 1), 1, 3, border).flatten(), want)
