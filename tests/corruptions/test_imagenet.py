"""ImageNet-C's table: against the package imagecorruptions where its recipe is the same, else against the recipe.

Random corruptions are compared on the same draws: the package's are taken from our streams.
"""

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from robusteval.corruptions import IMAGENET, blur, corrupt, elastic, spatter, textures, weather
from robusteval.corruptions.filters import Border, motion_blur
from robusteval.data import load
from robusteval.randomness import Stream

SEVERITIES = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    reason = "imagecorruptions needs libraries that need not be there"
    return pytest.importorskip("imagecorruptions.corruptions", reason=reason, exc_type=ImportError)


@pytest.fixture(scope="module")
def large() -> Tensor:
    """Three photographs of 224 x 224, smooth but for a little noise, the last one with much black and white."""
    small = load("cifar10-sample", "test").images[:3].float()
    smooth = F.interpolate(small, size=(224, 224), mode="bicubic", align_corners=False)
    smooth += Stream.of(0).normal(torch.arange(3), 3, 224, 224) * 4
    smooth[2] = smooth[2] * 3 - 250
    return smooth.round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def oblong(large: Tensor) -> Tensor:
    """Three of 80 x 141: no side is a multiple of anything useful."""
    return large[:, :, 50:130, 40:181].contiguous()


INDEX = torch.tensor([3, 10, 2**33 + 5])


def pixels(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def difference(got: Tensor, want: list[np.ndarray]) -> np.ndarray:
    return np.abs(got.numpy().astype(int) - np.stack([np.uint8(one) for one in want]).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    "name", ["brightness", "saturate", "contrast", "gaussian_blur", "defocus_blur", "zoom_blur", "pixelate"]
)
def test_what_draws_nothing_is_the_packages(
    peer: ModuleType, large: Tensor, oblong: Tensor, name: str, severity: int
) -> None:
    # At other sizes than 224, the package's nearest pixel need not be the box filter's.
    for images in (large,) if name == "pixelate" else (large, oblong):
        want = [getattr(peer, name)(Image.fromarray(image), severity) for image in pixels(images)]
        apart = difference(corrupt(images, name, severity, seed=0, index=INDEX, table="imagenet"), want)
        if name == "defocus_blur":
            # OpenCV convolves with large kernels by a Fourier transform, whose rounding decides some last bits.
            assert apart.max() <= 1
            assert (apart > 0).mean() < 1e-3
        else:
            assert apart.max() == 0


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_pillows_box_filter(oblong: Tensor, large: Tensor, severity: int) -> None:
    (share,) = IMAGENET["pixelate"][severity - 1]
    for images in (large, oblong):
        height, width = images.shape[2:]
        want = []
        for image in pixels(images):
            small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
            want.append(np.asarray(small.resize((width, height), Image.Resampling.BOX)))
        got = corrupt(images, "pixelate", severity, seed=0, index=INDEX, table="imagenet")
        assert difference(got, want).max() == 0


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"])
def test_noises_change_pixels_as_much_as_the_packages(
    peer: ModuleType, large: Tensor, name: str, severity: int
) -> None:
    state = np.random.get_state()
    try:
        np.random.seed(severity)
        option = {"seed": severity} if name == "impulse_noise" else {}
        theirs = [np.uint8(getattr(peer, name)(Image.fromarray(x), severity, **option)) for x in pixels(large)]
    finally:
        np.random.set_state(state)
    ours = pixels(corrupt(large, name, severity, seed=0, index=INDEX))
    change = [made.astype(float) - pixels(large) for made in (ours, np.stack(theirs))]
    for power in (1, 2):
        one, other = (each.ravel() ** power for each in change)
        error = math.sqrt((one.var() + other.var()) / one.size)
        # Half of the variance lies between images and is the same for both; the bar is what 40 tests need.
        assert abs(one.mean() - other.mean()) < 4 * error, power


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_the_packages_but_for_its_fractions(
    peer: ModuleType, large: Tensor, oblong: Tensor, severity: int
) -> None:
    radius, sigma = IMAGENET["motion_blur"][severity - 1]
    for images in (large, oblong):
        rng = Stream.of(1).at("motion")
        angles = (rng.at("angle").uniform(INDEX, 1)[:, 0] * 90 - 45).tolist()
        turned = zip(pixels(images), angles, strict=True)
        want = [peer._motion_blur(x, int(radius), sigma, angle) for x, angle in turned]
        apart = difference(blur.motion(images, (radius, sigma), rng, INDEX), want)
        # ImageMagick rounds a sum of 16 bits before it is cut off to 8; the package cuts off at once.
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.02


def patched(monkeypatch: pytest.MonkeyPatch, name: str, draws: Iterator[np.ndarray]) -> None:
    """Makes one of numpy's functions scale the next of our draws: standard normal, or uniform in -1..1."""

    def normal(loc: float = 0, scale: float = 1, size: object = None) -> np.ndarray:
        return next(draws).reshape(size) * scale + loc

    def uniform(low: float, high: float, size: object = None) -> np.ndarray:
        assert low == -high
        return next(draws).reshape(size) * high

    monkeypatch.setattr(np.random, name, {"normal": normal, "uniform": uniform}[name])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_spatter_is_the_packages(
    peer: ModuleType, large: Tensor, oblong: Tensor, severity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for images in (large, oblong):
        rng = Stream.of(2).at("spatter")
        noise = rng.at("liquid").normal(INDEX, *images.shape[2:]).double().numpy()
        patched(monkeypatch, "normal", iter(noise))
        want = [peer.spatter(Image.fromarray(image), severity) for image in pixels(images)]
        apart = difference(spatter.spatter(images, IMAGENET["spatter"][severity - 1], rng, INDEX), want)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_is_the_packages(
    peer: ModuleType, large: Tensor, oblong: Tensor, severity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for images in (large, oblong):
        rng = Stream.of(3).at("fog")
        noise = rng.at("plasma").uniform(INDEX, 256 * 256 - 1).double().numpy() * 2 - 1
        cuts = np.cumsum([4**scale for scale in range(8) for _ in range(3)])[:-1]
        patched(monkeypatch, "uniform", (part for draws in noise for part in np.split(draws, cuts)))
        want = [peer.fog(Image.fromarray(image), severity) for image in pixels(images)]
        apart = difference(weather.fog(images, IMAGENET["fog"][severity - 1], rng, INDEX), want)
        # The package's landscape has 24 bits, the published one 53.
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3


def middle(layer: np.ndarray, factor: float) -> np.ndarray:
    """The middle of a layer (H, W) enlarged, trimmed on all sides."""
    crop = [math.ceil(side / factor) for side in layer.shape]
    top = [(side - part) // 2 for side, part in zip(layer.shape, crop, strict=True)]
    wide = ndimage.zoom(layer[top[0] : top[0] + crop[0], top[1] : top[1] + crop[1]], factor, order=1)
    trim = [(after - before) // 2 for after, before in zip(wide.shape, layer.shape, strict=True)]
    return wide[trim[0] : trim[0] + layer.shape[0], trim[1] : trim[1] + layer.shape[1]]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_is_the_published_recipe(large: Tensor, oblong: Tensor, severity: int) -> None:
    c = IMAGENET["snow"][severity - 1]
    for images in (large, oblong):
        rng = Stream.of(4).at("snow")
        flakes = rng.at("flakes").normal(INDEX, 1, *images.shape[2:]).double().numpy()[:, 0]
        angles = rng.at("angle").uniform(INDEX, 1)[:, 0] * 90 - 135
        want = []
        for image, noise, angle in zip(pixels(images), flakes, angles, strict=True):
            x = image.astype(np.float32) / np.float32(255)
            layer = middle(noise * c[1] + c[0], c[2])
            layer = np.uint8(np.clip(np.where(layer < c[3], 0, layer), 0, 1) * 255)
            # This blur is compared with ImageMagick's elsewhere.
            fallen = motion_blur(
                torch.from_numpy(layer)[None, None], angle[None], radius=c[4], sigma=c[5], heading="up"
            )
            layer = fallen[0, 0].numpy()[..., None] / 255.0
            grey = (x @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
            x = c[6] * x + (1 - c[6]) * np.maximum(x, grey * 1.5 + 0.5)
            want.append(np.clip(x + layer + np.rot90(layer, k=2), 0, 1) * 255)
        apart = difference(weather.snow(images, c, rng, INDEX), want)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_is_a_crop_of_the_whole_photograph(large: Tensor, severity: int) -> None:
    index = torch.arange(12)
    images = large.repeat(4, 1, 1, 1)[:, :, :200]
    weight, ice = IMAGENET["frost"][severity - 1]
    rng = Stream.of(0).at("corruption", "imagenet", "frost", severity)
    which = rng.at("photograph").integers(index, 5, 1)[:, 0].tolist()
    corners = rng.at("corner").uniform(index, 2).double().tolist()
    want = []
    for image, photograph, (down, right) in zip(pixels(images), which, corners, strict=True):
        whole = textures.frost(1)[photograph].permute(1, 2, 0).numpy()
        assert min(whole.shape[:2]) > 300
        top, left = int(down * (whole.shape[0] - 200)), int(right * (whole.shape[1] - 224))
        want.append(np.clip(weight * image + ice * whole[top : top + 200, left : left + 224], 0, 255))
    assert difference(corrupt(images, "frost", severity, seed=0, index=index), want).max() == 0


def test_a_photograph_that_is_too_small_is_enlarged() -> None:
    for shrink, height, width in ((1, 400, 120), (5, 63, 64), (5, 224, 224), (1, 300, 600)):
        before, after = textures.frost(shrink), textures.ice(shrink, height, width, torch.device("cpu"))
        assert len(before) == len(after.sizes) == 5
        ends = (*after.starts.tolist()[1:], after.pixels.shape[1])
        for picture, (tall, wide), start, end in zip(before, after.sizes.tolist(), after.starts, ends, strict=True):
            assert tall > height
            assert wide > width
            assert end - start == tall * wide
            enlarged = (tall, wide) != tuple(picture.shape[1:])
            assert enlarged == (picture.shape[1] <= height or picture.shape[2] <= width)
            mean = after.pixels[:, start:end].float().mean(1)
            assert torch.allclose(mean, picture.flatten(1).float().mean(1), atol=1.5 if enlarged else 1e-3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_the_published_recipe(large: Tensor, oblong: Tensor, severity: int) -> None:
    strength = IMAGENET["elastic_transform"][severity - 1]
    for images in (large[:2], oblong):
        index, (height, width) = INDEX[: len(images)], images.shape[2:]
        alpha, sigma, shift = (min(height, width) * share for share in strength)
        if height == 224:
            published = ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88))
            published += ((29.28, 2.44, 4.88),)
            assert (alpha, sigma, shift) == pytest.approx(published[severity - 1])
        rng = Stream.of(5).at("elastic")
        moves = (rng.at("points").uniform(index, 3, 2).double().numpy() * 2 - 1) * shift
        noise = rng.at("displacement").uniform(index, 2, height, width).double().numpy() * 2 - 1
        rows, columns = np.mgrid[:height, :width]
        want = []
        for image, move, layers in zip(pixels(images), moves, noise, strict=True):
            x = (image / 255.0).astype(np.float32)
            centre, third = np.array([height // 2, width // 2]), min(height, width) // 3
            start = np.array([centre + third, [centre[0] + third, centre[1] - third], centre - third])
            there = np.vstack([np.linalg.solve(np.hstack([start, np.ones((3, 1))]), start + move).T, [0, 0, 1]])
            back = np.linalg.inv(there)
            # Multiples of 1/32, from two sums in units of 1/1024.
            places = [
                (np.rint(a * columns * 1024) + np.rint((b * rows + c) * 1024) + 16).astype(np.int64) // 32 / 32
                for a, b, c in back[:2]
            ]
            x = np.stack(
                [ndimage.map_coordinates(x[..., c], places[::-1], order=1, mode="mirror") for c in range(3)], -1
            )
            across, down = (
                (ndimage.gaussian_filter(layer, sigma, mode="reflect", truncate=3) * alpha).astype(np.float32)
                for layer in layers
            )
            places = [rows + down, columns + across]
            x = np.stack([ndimage.map_coordinates(x[..., c], places, order=1, mode="reflect") for c in range(3)], -1)
            want.append(np.clip(x, 0, 1) * 255)
        apart = difference(elastic.elastic_transform(images, strength, rng, index), want)
        assert (apart > 1).mean() < 1e-4
        assert (apart > 0).mean() < 2e-3


@pytest.mark.parametrize("border", ["mirror", "reflect"])
def test_far_coordinates_are_folded_as_often_as_it_takes(border: Border) -> None:
    values = torch.arange(100.0).view(1, 1, 10, 10)
    across = torch.arange(-40, 60).double().view(1, 10, 10) * 0.75
    down = across.flip(1) * 2 - 3.3
    got = elastic.bilinear(values, down, across, border)
    places = [down[0].numpy(), across[0].numpy()]
    want = ndimage.map_coordinates(values[0, 0].double().numpy(), places, order=1, mode=border)
    np.testing.assert_allclose(got[0, 0], want, atol=1e-9)
    near = [at.clamp(-8.9, 17.9) for at in (down, across)]
    one_fold = elastic.bilinear(values, *near, border, near=True)
    assert torch.equal(one_fold, elastic.bilinear(values, *near, border))
