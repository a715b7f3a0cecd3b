"""Contrast, pixelate, saturate and the elastic transform against Pillow, scipy and the published recipe."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from robusteval.corruptions import CIFAR, digital, elastic
from robusteval.randomness import Stream


def pixels(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def back(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_contrast(photos: Tensor, severity: int) -> None:
    (factor,) = CIFAR["contrast"][severity - 1]
    # Where a channel's mean is a whole number, results are whole numbers too, and the last bit of the sum decides.
    lines = photos.flatten(2).clone()
    for line in lines.view(-1, 1024):
        spare = line.nonzero()[: int(line.sum()) % 1024, 0]
        line[spare] -= 1
    exact = lines.view_as(photos)
    assert int((exact.flatten(2).sum(2) % 1024 == 0).sum()) > 100
    images = torch.cat([photos, exact])
    want = []
    for image in pixels(images):
        x = image / 255.0
        means = np.mean(x, axis=(0, 1), keepdims=True)
        want.append(np.uint8(np.clip((x - means) * factor + means, 0, 1) * 255))
    np.testing.assert_array_equal(digital.contrast(images, (factor,), Stream.of(0), torch.arange(96)), back(want))


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_saturate_is_scikit_images_to_the_last_bit(photos: Tensor, index: Tensor, severity: int) -> None:
    color = pytest.importorskip("skimage.color", reason="scikit-image is a peer to compare with, not a dependency")
    factor, addition = CIFAR["saturate"][severity - 1]
    want = []
    for image in pixels(photos):
        x = color.rgb2hsv(image / 255.0)
        x[:, :, 1] = np.clip(x[:, :, 1] * factor + addition, 0, 1)
        want.append(np.uint8(np.clip(color.hsv2rgb(x), 0, 1) * 255))
    np.testing.assert_array_equal(digital.saturate(photos, (factor, addition), Stream.of(0), index), back(want))


@pytest.mark.parametrize("factor", [0.95, 0.9, 0.85, 0.75, 0.65, 0.5, 0.3, 0.11])
def test_pixelate_is_pillows_box_filter(photos: Tensor, index: Tensor, factor: float) -> None:
    want = []
    for image in pixels(photos):
        small = Image.fromarray(image).resize((int(32 * factor), int(32 * factor)), Image.Resampling.BOX)
        want.append(np.asarray(small.resize((32, 32), Image.Resampling.BOX)))
    np.testing.assert_array_equal(digital.pixelate(photos, (factor,), Stream.of(0), index), back(want))


def test_pixelate_other_sizes(photos: Tensor) -> None:
    image = photos[0].repeat(1, 2, 3)[:, :50, :91]
    small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((63, 35), Image.Resampling.BOX)
    want = np.asarray(small.resize((91, 50), Image.Resampling.BOX)).transpose(2, 0, 1)
    np.testing.assert_array_equal(digital.pixelate(image[None], (0.7,), Stream.of(0), torch.zeros(1))[0], want)


def sheared(x: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """A float32 picture under the affine map of three moved points: bilinear, at multiples of 1/32, mirrored."""
    centre = np.array([16.0, 16.0])
    start = np.array([centre + 10, [26, 6], centre - 10])
    end = start + moves
    # The map sends start to end; pixels are looked up through its inverse.
    matrix = np.linalg.lstsq(np.hstack([start, np.ones((3, 1))]), end, rcond=None)[0].T
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    padded = np.pad(x, [(31, 31), (31, 31), (0, 0)], mode="reflect")
    out = np.empty_like(x)
    for row in range(32):
        for column in range(32):
            place = []
            for a, b, c in inverse:
                fixed = (round(a * column * 1024) + round((b * row + c) * 1024) + 16) >> 5
                place.append((fixed >> 5, np.float32((fixed & 31) / 32)))
            (left, right_part), (top, down_part) = place
            four = padded[top + 31 : top + 33, left + 31 : left + 33]
            weights = np.outer([1 - down_part, down_part], [1 - right_part, right_part]).astype(np.float32)
            out[row, column] = (four * weights[..., None]).sum((0, 1), dtype=np.float32)
    return out


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_elastic_transform(photos: Tensor, index: Tensor, severity: int) -> None:
    alpha, sigma, shift = (32 * share for share in CIFAR["elastic_transform"][severity - 1])
    rng = Stream.of(6).at("elastic")
    moves = (rng.at("points").uniform(index, 3, 2).double().numpy() * 2 - 1) * shift
    noise = rng.at("displacement").uniform(index, 2, 32, 32).double().numpy() * 2 - 1
    want = []
    for image, move, (across, down) in list(zip(pixels(photos), moves, noise, strict=True))[-8:]:
        x = sheared((image / 255.0).astype(np.float32), move)
        if alpha:
            dx, dy = (
                (ndimage.gaussian_filter(d, sigma, mode="reflect", truncate=3) * alpha).astype(np.float32)
                for d in (across, down)
            )
            rows, columns = np.mgrid[:32, :32]
            places = np.stack([rows + dy, columns + dx])
            x = np.stack([ndimage.map_coordinates(x[..., c], places, order=1, mode="reflect") for c in range(3)], -1)
        want.append(np.uint8(np.clip(x, 0, 1) * 255))
    got = elastic.elastic_transform(photos, CIFAR["elastic_transform"][severity - 1], rng, index)[-8:].numpy()
    difference = np.abs(got.astype(int) - back(want))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.9998


def test_no_affine_map_leads_more_than_a_side_outside() -> None:
    for _, _, share in CIFAR["elastic_transform"]:
        moves = torch.tensor(list(itertools.product((-32 * share, 32 * share), repeat=6)), dtype=torch.float64)
        for places in elastic.affine(moves.view(-1, 3, 2), 32, 32):
            # Room for the displacement, of which five pixels are more than there is.
            assert places.min() > -26
            assert places.max() < 57


def test_the_affine_map_is_opencvs(photos: Tensor, index: Tensor) -> None:
    """OpenCV 5 no longer rounds coordinates to 1/32 pixel: most values stay within the slope times that."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is a peer to compare with, not a dependency")
    rng = np.random.default_rng(0)
    moves = torch.from_numpy(rng.uniform(-2.5, 2.5, (48, 3, 2)))
    smooth = torch.from_numpy(
        np.stack([ndimage.gaussian_filter(i.numpy().astype(np.float32), (0, 2, 2)) for i in photos])
    )
    values = elastic.bilinear(smooth.transpose(0, 1).contiguous(), *elastic.affine(moves, 32, 32), border="mirror")
    start = np.float32([[26, 26], [26, 6], [6, 6]])
    for place in range(45):
        matrix = cv2.getAffineTransform(start, start + moves[place].numpy().astype(np.float32))
        picture = np.ascontiguousarray(smooth[place].permute(1, 2, 0).numpy())
        want = cv2.warpAffine(picture, matrix, (32, 32), borderMode=cv2.BORDER_REFLECT_101)
        got = values[:, place].permute(1, 2, 0).numpy()
        assert np.abs(got - want).max() < 3
        assert np.abs(got - want).mean() < 0.2
