"""Spatter and its steps against OpenCV, and against closed forms where there are any."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from robusteval.corruptions import CIFAR, spatter
from robusteval.randomness import Stream


def layers(n: int) -> np.ndarray:
    """Blobs like those of the liquid, uint8 (n, 32, 32)."""
    rng = np.random.default_rng(0)
    smooth = np.stack([ndimage.gaussian_filter(rng.normal(0.65, 0.3, (32, 32)), 1) for _ in range(n)])
    return np.uint8(np.where(smooth < 0.69, 0, smooth).clip(0, 1) * 255)


def test_canny_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is a peer to compare with, not a dependency")
    pictures = np.concatenate([layers(40), np.random.default_rng(1).integers(0, 256, (20, 32, 32), dtype=np.uint8)])
    got = spatter.canny(torch.from_numpy(pictures).int(), 50, 150).numpy()
    want = np.stack([cv2.Canny(picture, 50, 150) for picture in pictures]) > 0
    np.testing.assert_array_equal(got, want)
    assert 0.05 < got.mean() < 0.5


def test_distances_are_those_of_the_shortest_steps() -> None:
    edges = torch.zeros(2, 32, 32, dtype=torch.bool)
    edges[0, 10, 12] = True
    edges[1] = torch.from_numpy(np.random.default_rng(0).random((32, 32)) < 0.01)
    got = spatter.distance(edges).double() / 65536
    for picture, apart in zip(edges.numpy(), got.numpy(), strict=True):
        places = np.argwhere(picture)
        for row, column in np.ndindex(32, 32):
            # From (a, b) with a >= b: knight's moves (2.1969) and either straight (1) or diagonal (1.4) ones.
            large, small = np.sort(np.abs(places - (row, column)), axis=1)[:, ::-1].T
            straight = 2.1969 * small + (large - 2 * small)
            diagonal = 2.1969 * (large - small) + 1.4 * (2 * small - large)
            want = min(20, np.where(large >= 2 * small, straight, diagonal).min())
            assert apart[row, column] == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_spatter_is_the_published_recipe(photos: Tensor, index: Tensor, severity: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is a peer to compare with, not a dependency")
    c = CIFAR["spatter"][severity - 1]
    rng = Stream.of(8).at("spatter")
    noise = rng.at("liquid").normal(index, 1, 32, 32).double().numpy()[:, 0]
    want = []
    for image, draws in zip(photos.permute(0, 2, 3, 1).contiguous().numpy(), noise, strict=True):
        x = np.array(image, dtype=np.float32) / np.float32(255)
        liquid = ndimage.gaussian_filter(draws * c[1] + c[0], c[2], mode="nearest")
        liquid[liquid < c[3]] = 0
        if c[5]:
            mask = (liquid > c[3]).astype(np.float32)
            m = ndimage.gaussian_filter(mask, c[4], mode="nearest")[..., None]
            m[m < 0.8] = 0
            x = x * (1 - m) + np.float32([63, 42, 20]) / np.float32(255) * m
        else:
            liquid = (liquid * 255).astype(np.uint8)
            away = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
            away = cv2.equalizeHist(cv2.blur(np.minimum(away, 20), (3, 3)).astype(np.uint8))
            lit = cv2.blur(cv2.filter2D(away, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])), (3, 3))
            m = liquid * lit.astype(np.float32)
            x = x + (m / m.max() * np.float32(c[4]))[..., None] * (np.float32([175, 238, 238]) / np.float32(255))
        want.append(np.uint8(np.clip(x, 0, 1) * 255))
    got = spatter.spatter(photos, c, rng, index).permute(0, 2, 3, 1).numpy()
    difference = np.abs(got.astype(int) - np.stack(want))
    assert difference.max() <= 1


def test_no_drop_changes_nothing(photos: Tensor, index: Tensor) -> None:
    for mud in (0, 1):
        got = spatter.spatter(photos, (0.1, 0.01, 1, 0.7, 0.5, mud), Stream.of(0), index)
        np.testing.assert_array_equal(got, photos)
