"""The ten of CIFAR-10-C-bar against the published recipe, pixel by pixel, on the same draws."""

import cmath
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from robusteval.corruptions import CBAR, CORRUPTIONS, HELD_OUT, corrupt, occlusion, sparkle, spectral, spline, warp
from robusteval.corruptions.bar import CIFAR_BAR, IMAGENET_BAR
from robusteval.errors import UserError
from robusteval.randomness import Stream

# ``cifar10_c_bar.csv`` and the part of ``imagenet_c_bar.csv`` with the same names, entered a second time.
LEVELS = """
blue_noise_sample .7 1.4 2.1 3.5 4.2
checkerboard_cutout 1 2 3 4 5
inverse_sparkles 1 1.5 2.5 4.5 5
pinch_and_twirl 5.5 6 6.5 8.5 10
ripple 5.5 6 6.5 7.5 8
brownish_noise 2.5 4 5.5 6.5 7
circular_motion_blur 2.8 3.6 4.4 5.2 6
lines .5 1 1.5 2 2.5
sparkles .7 3.5 5.6 6.3 7
transverse_chromatic_abberation 1 2 5 9 10
"""
IMAGENET_LEVELS = """
inverse_sparkles 1 2 4 9 10
sparkles 1 2 3 5 6
blue_noise_sample .8 1.6 2.4 4 5.6
checkerboard_cutout 2 3 4 5 6
brownish_noise 1 2 3 4 5
"""
SIDE = 32
RNG = Stream.of(1).at("bar")


@pytest.fixture
def few(photos: Tensor) -> Tensor:
    """Six photographs and the three hard cases: black, white, two colours."""
    return torch.cat([photos[:6], photos[-3:]])


INDEX = torch.arange(9) * 11 + 5


def drawn(purpose: str, *shape: int) -> np.ndarray:
    """The uniform draws of the nine images, float64."""
    return RNG.at(purpose).uniform(INDEX, *shape).double().numpy()


def pictures(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def agree(got: Tensor, want: list[np.ndarray], *, flips: int = 0, by: int = 0) -> None:
    """Equal but for so many values, which may differ by so much."""
    difference = np.abs(pictures(got).astype(int) - np.stack(want).astype(int))
    assert (difference > 0).sum() <= flips
    assert difference.max() <= by


def entered(text: str) -> dict[str, list[tuple[float, ...]]]:
    rows = (line.split() for line in text.split("\n") if line)
    return {name: [(float(level),) for level in levels] for name, *levels in rows}


def test_the_levels_are_the_published_ones() -> None:
    for text, table in ((LEVELS, CIFAR_BAR), (IMAGENET_LEVELS, IMAGENET_BAR)):
        assert entered(text) == {name: [*row] for name, row in table.items()}
    assert list(CIFAR_BAR) == [*CBAR]
    assert not {*CBAR} & {*CORRUPTIONS, *HELD_OUT}


def ten_times_ten(image: int, channel: int, channels: int, power: Callable[[float], float]) -> np.ndarray:
    """Noise as the sum of its waves, one by one: the inverse Fourier transform written out."""
    half = drawn("phases", channels, SIDE, SIDE // 2)[image, channel] * 2 * math.pi
    phase = np.hstack([half, np.rot90(half, 2)])
    line = np.arange(SIDE)
    total = np.zeros((SIDE, SIDE))
    for row, column in itertools.product(range(SIDE), repeat=2):
        # The frequency zero is in the middle of the published spectrum.
        wave = 2 * np.pi * ((row - 16) * line[:, None] + (column - 16) * line) / SIDE
        total += (
            power(math.hypot(column - 16, row - 16)) * (cmath.exp(1j * phase[row, column]) * np.exp(1j * wave)).real
        )
    return total / np.sqrt(np.mean((total - total.mean()) ** 2))


@pytest.mark.parametrize("level", [0.7, 4.2])
def test_blue_noise_sample(few: Tensor, level: float) -> None:
    want = []
    for place, image in enumerate(pictures(few[:3])):
        keep = ten_times_ten(place, 0, 1, lambda distance: distance) > 0.3 * level - 2.5
        want.append(np.where(keep[:, :, None], image, 0))
    agree(spectral.blue_noise_sample(few, (level,), RNG, INDEX)[:3], want)


def test_brownish_noise(few: Tensor) -> None:
    want = []
    for place, image in enumerate(pictures(few[:2])):
        noise = [ten_times_ten(place, c, 3, lambda distance: 1 / (distance**2 + 1)) for c in range(3)]
        want.append(np.clip(image + 6.4 * 5.5 * np.stack(noise, axis=2), 0, 255).astype(np.uint8))
    agree(spectral.brownish_noise(few, (5.5,), RNG, INDEX)[:2], want)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 17), (20, 31), (31, 20), (64, 48)])
def test_noise_of_any_size_has_its_spectrum_and_is_real(height: int, width: int) -> None:
    phase = spectral.phases(RNG, INDEX, 2, height, width)
    power = 1 / (spectral.distances(height, width, phase.device).square() + 1)
    noise = spectral.fields(phase, power)
    assert noise.shape == (9, 2, height, width)
    assert noise.std(dim=(2, 3), correction=0).numpy() == pytest.approx(1, abs=1e-12)
    # The real part of a wave is half of it and half of its opposite: largest where the power is.
    size = torch.fft.fft2(noise).abs().square().mean(dim=(0, 1)).roll((height // 2, width // 2), (0, 1))
    row, column = divmod(int(size.argmax()), width)
    assert abs(row - height // 2) <= 1
    assert abs(column - width // 2) <= 1
    assert float(size[0, 0]) < 1e-2 * float(size.max())


@pytest.mark.parametrize("level", [1, 5])
def test_checkerboard_cutout(few: Tensor, level: int) -> None:
    angles, squares = drawn("angle", 1)[:, 0] * 2 * math.pi, (drawn("square", 1)[:, 0] * 0.15 + 0.1) * SIDE
    cells = drawn("cells", 40, 40)
    want, negative = [], 0
    for image, angle, square, cell in zip(pictures(few), angles, squares, cells, strict=True):
        made, count = image.copy(), int(4 * SIDE // square)
        grid = cell[:count, :count] < level / 10
        for row, column in itertools.product(range(SIDE), repeat=2):
            down = (math.cos(angle) * row + math.sin(angle) * column) / square
            across = (-math.sin(angle) * row + math.cos(angle) * column) / square
            # int() cuts off towards zero, and a negative place counts from the end.
            if int(down % 2) == int(across % 2) and grid[int(down), int(across)]:
                made[row, column] = 128
                negative += min(down, across) < -1
        want.append(made)
    agree(occlusion.checkerboard_cutout(few, (level,), RNG, INDEX), want)
    assert negative > 20


def test_the_cutouts_hide_their_share() -> None:
    """Half of the squares are black, and a tenth of the level of those is hidden."""
    index = torch.arange(1000)
    white = torch.full((1000, 3, 32, 32), 255, dtype=torch.uint8)
    for level in (1, 3.5, 5):
        hidden = occlusion.checkerboard_cutout(white, (level,), RNG, index) == 128
        shares = hidden.double().mean(dim=(1, 2, 3))
        assert float(shares.mean()) == pytest.approx(level / 20, abs=4 * float(shares.std()) / 1000**0.5)


@pytest.mark.parametrize("level", [0.5, 2.5])
def test_lines(few: Tensor, level: float) -> None:
    draw = pytest.importorskip("skimage.draw", reason="scikit-image is a peer to compare with, not a dependency")
    count = int(level / 10 * SIDE)
    angles, spreads = drawn("angle", 1)[:, 0] * 2 * math.pi, drawn("spread", 1)[:, 0] * 0.9 + 0.1
    middles, turns = drawn("middle", count, 2), drawn("turn", count)
    want = []
    for place, image in enumerate(pictures(few)):
        made = image.copy()
        for (first, second), turn in zip(middles[place] * SIDE, turns[place], strict=True):
            angle = angles[place] + 2 * math.pi * spreads[place] * (turn - 0.5)
            along, over = SIDE * math.cos(angle), SIDE * math.sin(angle)
            ends = (int(first - along), int(second - over), int(first + along), int(second + over))
            before = made.astype(np.float64)
            for row, column, cover in zip(*draw.line_aa(*ends), strict=True):
                if 0 <= row < SIDE and 0 <= column < SIDE:
                    made[row, column] = (1 - cover) * before[row, column] + cover * 128
        want.append(made)
    agree(occlusion.lines(few, (level,), RNG, INDEX), want)


def test_strokes_are_scikit_images() -> None:
    draw = pytest.importorskip("skimage.draw", reason="scikit-image is a peer to compare with, not a dependency")
    ends = Stream.of(3).integers(torch.arange(300), 60, 2, 2) - 20
    ends[0], ends[1], ends[2] = 4, torch.tensor([[0, 0], [0, 9]]), torch.tensor([[9, 9], [0, 0]])  # a point, two simple
    got = occlusion.strokes(ends[:, 0], ends[:, 1], 24, 31).numpy()
    for (start, end), cover in zip(ends.tolist(), got, strict=True):
        want = np.zeros((24, 31))
        for row, column, value in zip(*draw.line_aa(*start, *end), strict=True):
            if 0 <= row < 24 and 0 <= column < 31:
                want[row, column] = value
        np.testing.assert_allclose(cover, want, rtol=0, atol=1e-15)


def lit(centre: np.ndarray, lengths: np.ndarray, fall: float) -> np.ndarray:
    """The light of one sparkle, pixel by pixel."""
    made, rays = np.zeros((SIDE, SIDE)), len(lengths)
    for row, column in itertools.product(range(SIDE), repeat=2):
        down, across = row - centre[0], column - centre[1]
        turn = (math.atan2(across, down) + math.pi) / (2 * math.pi) * rays
        part = turn - int(turn)
        near, far = lengths[int(turn) % rays], lengths[(int(turn) + 1) % rays]
        bright = ((near + part * (far - near)) ** 2 / (down**2 + across**2 + 1e-4)) ** fall
        made[row, column] = min(max((1 - (part - 0.5) ** 2) * bright, 0), 1)
    return made[:, :, None]


@pytest.mark.parametrize("level", [0.7, 7])
def test_sparkles(few: Tensor, level: float) -> None:
    centres, counts = drawn("centres", 5, 2) * SIDE, 50 + RNG.at("rays").integers(INDEX, 150, 5).numpy()
    normal = RNG.at("lengths").normal(INDEX, 5, 199).double().numpy()
    radius = level / 100 * SIDE
    want = []
    for place, image in enumerate(pictures(few)):
        values = image.astype(np.float64)
        for centre, count, draws in zip(centres[place], counts[place], normal[place], strict=True):
            lengths = np.maximum(1, radius + 0.25 * radius * draws[:count])
            values = values.astype(np.float32).astype(np.float64)
            values += lit(centre, lengths, 1) * (255 - values)
        want.append(np.clip(values, 0, 255).astype(np.uint8))
    agree(sparkle.sparkles(few, (level,), RNG, INDEX), want, flips=2, by=1)


@pytest.mark.parametrize("level", [1, 5])
def test_inverse_sparkles(few: Tensor, level: float) -> None:
    centres, counts = (drawn("centre", 2) / 2 + 0.25) * SIDE, 50 + RNG.at("rays").integers(INDEX, 150, 1).numpy()
    normal = RNG.at("lengths").normal(INDEX, 1, 199).double().numpy()
    want = []
    for place, image in enumerate(pictures(few)):
        bright = lit(centres[place], 8 + 2 * normal[place, 0, : counts[place, 0]], 0.13 * level)
        want.append((255 + bright * (image - 255.0)).astype(np.uint8))
    agree(sparkle.inverse_sparkles(few, (level,), RNG, INDEX), want, flips=2, by=1)


def between(image: np.ndarray, down: float, across: float) -> np.ndarray:
    """A pixel between four, black outside, in the type of the image."""
    kind = image.dtype.type
    top, left = math.floor(down), math.floor(across)

    def at(row: int, column: int) -> np.ndarray:
        inside = 0 <= row < SIDE and 0 <= column < SIDE
        return image[row, column] if inside else np.zeros(3, image.dtype)

    weights = (1.0 - across + left, 1.0 - (left + 1) + across, 1.0 - down + top, 1.0 - (top + 1) + down)
    one, two, three, four = map(kind, weights)
    above = at(top, left) * one + at(top, left + 1) * two
    return above * three + (at(top + 1, left) * one + at(top + 1, left + 1) * two) * four


@pytest.mark.parametrize("level", [5.5, 8])
def test_ripple(few: Tensor, level: float) -> None:
    wavelengths, phases = (drawn("wavelength", 2) * 0.2 + 0.1) * SIDE, drawn("phase", 2) * 2 * math.pi
    amplitude = level / 400 * SIDE
    want = []
    for place, image in enumerate(pictures(few)):
        made = np.zeros_like(image)
        for row, column in itertools.product(range(SIDE), repeat=2):
            turns = 2 * math.pi * np.array([row, column]) / wavelengths[place] + phases[place]
            down, across = np.array([row, column]) + amplitude * np.sin(turns)
            made[row, column] = np.clip(between(image.astype(np.float64), down, across), 0, 255)
        want.append(made)
    # The last bit of a weight decides whether a flat patch keeps its level.
    agree(warp.ripple(few, (level,), RNG, INDEX), want, flips=200, by=1)


@pytest.mark.parametrize("level", [5.5, 10])
def test_pinch_and_twirl(few: Tensor, level: float) -> None:
    signs = 1 - 2 * (RNG.at("direction").bits(INDEX, 3, 3) & 1).numpy()
    want = []
    for place, image in enumerate(pictures(few)):
        made = image.astype(np.float32)
        for right, low in itertools.product(range(3), repeat=2):  # in place, one patch after another
            angle, centre = signs[place, low, right] * level * math.pi / 20, np.array([low, right]) * 10 + 5.0
            patch = np.zeros((10, 10, 3), np.float32)
            for row, column in itertools.product(range(10), repeat=2):
                point = np.array([10 * low + row, 10 * right + column], dtype=np.float64)
                distance = np.linalg.norm(point - centre)
                if 0 < distance <= 5:
                    down, across = (point - centre) * math.sin(math.pi / 2 * distance / 5) ** -(0.04 * level + 0.1)
                    turn = angle * (1 - distance / 5) ** 2
                    sine, cosine = math.sin(turn), math.cos(turn)
                    point = centre + np.array([down * cosine - across * sine, down * sine + across * cosine])
                patch[row, column] = between(made, *point)
            made[10 * low : 10 * low + 10, 10 * right : 10 * right + 10] = patch
        want.append(np.clip(made, 0, 255).astype(np.uint8))
    agree(warp.pinch_and_twirl(few, (level,), RNG, INDEX), want, flips=200, by=1)


@pytest.mark.parametrize("level", [2.8, 6])
def test_circular_motion_blur(few: Tensor, level: float) -> None:
    want = []
    for image in pictures(few):
        values, total, weights = image.astype(np.float32) / np.float32(255), np.zeros((SIDE, SIDE, 3), np.float32), []
        for turn in range(21):
            share = 2 * turn / 20 - 1
            weights.append(math.exp(-2 * share**2))
            total += ndimage.rotate(values, share * 1.5 * level, reshape=False) * np.float32(weights[-1])
        total /= np.float32(sum(weights))
        want.append(np.clip(total * np.float32(255), 0, 255).astype(np.uint8))
    agree(spline.circular_motion_blur(few, (level,), RNG, INDEX), want)


@pytest.mark.parametrize("level", [1, 2, 5, 9, 10])
def test_transverse_chromatic_abberation(few: Tensor, level: float) -> None:
    orders = [*itertools.permutations(range(3))]
    choice = RNG.at("order").integers(INDEX, 6, 1)[:, 0].tolist()
    want = []
    for image, chosen in zip(pictures(few), choice, strict=True):
        made = image.copy()
        for channel, factor in zip(orders[chosen], (1.0, 1.0 + level * 0.05 / 2, 1.0 + level * 0.05), strict=True):
            large = ndimage.zoom(image[:, :, channel], factor, prefilter=False)
            edge = (len(large) - SIDE) // 2
            made[:, :, channel] = large[edge : edge + SIDE, edge : edge + SIDE]
        want.append(made)
    agree(spline.transverse_chromatic_abberation(few, (level,), RNG, INDEX), want)
    assert len({*choice}) > 2


def opposite(rng: Stream, index: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Phases as those of a real picture: the mistake of who knows better than the published code."""
    phase = PHASES(rng, index, channels, height, width)
    phase[..., width // 2 :] *= -1
    return phase


def clipped(at: np.ndarray, side: int) -> spline.Taps:
    """Spline taps that repeat the border instead of mirroring it."""
    found = TAPS(at, side)
    low = np.floor(at).astype(np.int64) + np.arange(-1, 3).reshape(-1, *[1] * at.ndim)
    return found._replace(place=np.clip(low, 0, side - 1))


PHASES, TAPS, SAMPLED = spectral.phases, spline.taps, warp.sampled


@pytest.mark.parametrize(
    ("place", "name", "mistake", "check"),
    [
        (spectral, "phases", opposite, lambda few: test_blue_noise_sample(few, 4.2)),
        (spectral, "distances", lambda *size: torch.ones(size[:2], dtype=torch.float64), test_brownish_noise),
        (occlusion, "_GREY", 127, lambda few: test_checkerboard_cutout(few, 5)),
        (occlusion, "_GREY", 127, lambda few: test_lines(few, 2.5)),
        (sparkle, "_LIGHTS", 4, lambda few: test_sparkles(few, 7)),
        (sparkle, "_FEWEST", 51, lambda few: test_inverse_sparkles(few, 5)),
        (warp, "sampled", lambda v, y, x: SAMPLED(v, y, x.clamp(0, 31)), lambda few: test_ripple(few, 8)),
        (warp, "sampled", lambda v, y, x: SAMPLED(v, x, y), lambda few: test_pinch_and_twirl(few, 10)),
        (spline, "_TURNS", 20, lambda few: test_circular_motion_blur(few, 6)),
        (spline, "_POLE", -0.2679, lambda few: test_circular_motion_blur(few, 6)),
        (spline, "taps", clipped, lambda few: test_transverse_chromatic_abberation(few, 1)),
    ],
)
def test_planted_mistakes_show(
    few: Tensor,
    place: object,
    name: str,
    mistake: object,
    check: Callable[[Tensor], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spline._rotation.cache_clear()
    monkeypatch.setattr(place, name, mistake)
    with pytest.raises(AssertionError):
        check(few)
    spline._rotation.cache_clear()


def test_large_images_have_the_five_of_imagenet() -> None:
    images, index = torch.zeros(1, 3, 40, 48, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    for name in CBAR:
        assert corrupt(images, name, 3, seed=0, index=index, table="cifar").shape == images.shape
        if name in IMAGENET_BAR:
            assert corrupt(images, name, 3, seed=0, index=index).shape == images.shape
            continue
        with pytest.raises(UserError, match=f"no strengths of {name} are published for large images"):
            corrupt(images, name, 3, seed=0, index=index)
