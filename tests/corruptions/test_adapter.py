"""The corruptions of the package imagecorruptions: its own images, and randomness that is ours."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from robusteval.corruptions import CORRUPTIONS, HELD_OUT, adapter
from robusteval.errors import UserError
from robusteval.randomness import Stream

imagecorruptions = pytest.importorskip(
    "imagecorruptions", reason="OpenCV, which the package needs, does not load without libGL", exc_type=ImportError
)

ALL = CORRUPTIONS + HELD_OUT
FIXED = {
    "defocus_blur",
    "zoom_blur",
    "gaussian_blur",
    "brightness",
    "contrast",
    "saturate",
    "pixelate",
    "jpeg_compression",
}


def test_the_package_has_these_nineteen() -> None:
    assert tuple(imagecorruptions.get_corruption_names("all")) == ALL
    assert tuple(adapter.PREFIX + name for name in ALL) == adapter.NAMES


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("name", ALL)
def test_an_image_is_the_packages_own_with_a_seed_of_its_own(photos: Tensor, name: str, severity: int) -> None:
    images, index = photos[:3], torch.tensor([5, 0, 1 << 33])
    before = images.clone()
    state, torch_state = np.random.get_state(), torch.get_rng_state()
    got = adapter.corrupt(images, adapter.PREFIX + name, severity, seed=7, index=index)
    for mine, kept in zip(np.random.get_state(), state, strict=True):
        assert np.array_equal(mine, kept)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(images, before)
    assert (got.dtype, got.shape, got.is_contiguous()) == (torch.uint8, images.shape, True)

    words = Stream.of(7).at("imagecorruptions", name, severity).bits(index, 5) & 0xFFFFFFFF
    try:
        for image, made, seeds in zip(images, got, words.long() & 0xFFFFFFFF, strict=True):
            np.random.seed(seeds[:4].tolist())
            more = {"seed": int(seeds[4])} if name in ("impulse_noise", "glass_blur") else {}
            picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            with np.errstate(all="ignore"):
                expected = imagecorruptions.corrupt(picture, severity=severity, corruption_name=name, **more)
            assert np.array_equal(made.permute(1, 2, 0).numpy(), expected)
    finally:
        np.random.set_state(state)


@pytest.mark.parametrize("name", ALL)
def test_draws_depend_on_seed_index_and_severity_alone(photos: Tensor, name: str) -> None:
    images, index = photos[:4], torch.tensor([4, 9, 2, 7])

    def made(rows: list[int], seed: int = 1, shift: int = 0) -> Tensor:
        return adapter.corrupt(images[rows], adapter.PREFIX + name, 3, seed=seed, index=index[rows] + shift)

    once = made([0, 1, 2, 3])
    assert not torch.equal(once, images)
    np.random.random(3)  # whatever the global generator did in between
    assert torch.equal(made([3, 1]), once[[3, 1]])
    for other in (made([0, 1, 2, 3], seed=2), made([0, 1, 2, 3], shift=1)):
        same = int((other == once).flatten(1).all(1).sum())
        assert same == 4 if name in FIXED else same == 0


def test_the_strengths_are_imagenets() -> None:
    """Gaussian noise on grey images: a standard deviation of 0.08 of the scale where CIFAR-10-C has 0.04."""
    grey = torch.full((1, 3, 96, 96), 128, dtype=torch.uint8)
    for severity, sigma in ((1, 0.08), (2, 0.12)):
        made = adapter.corrupt(grey, "imagecorruptions:gaussian_noise", severity, seed=0, index=torch.arange(1))
        assert float(made.double().std()) / 255 == pytest.approx(sigma, rel=0.02)


def test_images_of_other_sizes_and_none_at_all() -> None:
    wide = torch.arange(3 * 40 * 64, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 3, 40, 64)
    for name in ("motion_blur", "frost", "elastic_transform"):
        assert adapter.corrupt(wide, f"imagecorruptions:{name}", 2, seed=0, index=torch.arange(1)).shape == wide.shape
    none = adapter.corrupt(wide[:0], "imagecorruptions:fog", 2, seed=0, index=torch.arange(0))
    assert none.shape == (0, 3, 40, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "imagecorruptions:fogg"}, "did you mean 'imagecorruptions:fog'"),
        ({"name": "fog"}, "unknown corruption 'fog'"),
        ({"severity": 0}, "severity 0 is not one of"),
        ({"severity": 2.5}, "severity 2.5 is not one of"),
        ({"severity": True}, "severity True is not one of"),
        ({"images": torch.rand(2, 3, 32, 32)}, "float32 (2, 3, 32, 32); allowed: uint8 (B, 3, H, W)"),
        ({"images": torch.zeros(2, 32, 32, 3, dtype=torch.uint8)}, "uint8 (2, 32, 32, 3); allowed"),
        ({"images": torch.zeros(2, 3, 32, 31, dtype=torch.uint8)}, "sides from 32 pixels"),
        ({"index": torch.arange(3)}, "index has the shape (3,)"),
        ({"index": torch.rand(2)}, "one integer for each image"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], message: str) -> None:
    given = {
        "images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        "name": "imagecorruptions:fog",
        "severity": 1,
        "seed": 0,
        "index": torch.arange(2),
    } | change
    with pytest.raises(UserError) as caught:
        adapter.corrupt(given["images"], given["name"], given["severity"], seed=given["seed"], index=given["index"])
    assert message in str(caught.value)


def test_the_generator_is_as_it_was_after_a_failure_too(photos: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        np.random.random()
        raise RuntimeError("as it may")

    monkeypatch.setattr(imagecorruptions, "corrupt", fails)
    before = np.random.get_state()[1].copy()
    with pytest.raises(RuntimeError, match="as it may"):
        adapter.corrupt(photos[:1], "imagecorruptions:fog", 1, seed=0, index=torch.arange(1))
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_package_that_cannot_be_imported_is_one_line(photos: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file\nand more")

    monkeypatch.setattr(adapter, "import_module", missing)
    with pytest.raises(UserError, match=r"needs the Python package 'imagecorruptions-imaug' \(libGL.so.1[^\n]*\)$"):
        adapter.corrupt(photos[:1], "imagecorruptions:fog", 1, seed=0, index=torch.arange(1))


def test_the_names_cost_no_import() -> None:
    code = (
        "import sys, robusteval.corruptions.adapter as a; assert len(a.NAMES) == 19 and a.generator(); "
        "assert not {'torch', 'cv2', 'numba', 'imagecorruptions'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
