"""The contact sheet shows what `corrupt` makes, in its place and with its name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robusteval.corruptions import CBAR, CORRUPTIONS, HELD_OUT, adapter, corrupt
from robusteval.corruptions.sheet import sheet
from robusteval.data import ImageSet, load
from robusteval.errors import UserError
from robusteval.report.figures.style import png, svg


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load("cifar10-sample", "test").first(12)


def texts(labels: list[object]) -> list[str]:
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("names", [("fog", "shot_noise"), (*CORRUPTIONS, *HELD_OUT)])
def test_each_photograph_is_in_its_place(images: ImageSet, names: tuple[str, ...]) -> None:
    figure = sheet(images, names, image=3, seed=8)
    blocks = figure.axes
    assert len(blocks) == (1 if len(names) == 2 else 2)
    shown = [name for axes in blocks for name in texts(axes.get_yticklabels())]
    assert shown == [name.replace("_", " ") for name in names]
    clean = images.images[3:4]
    row = 0
    for axes in blocks:
        assert texts(axes.get_xticklabels()) == ["clean", "1", "2", "3", "4", "5"]
        (picture,) = axes.images
        pixels = np.asarray(picture.get_array())
        rows, columns = len(axes.get_yticklabels()), 6
        size = pixels.shape[0] // rows
        assert pixels.shape == (size * rows, size * columns, 3)
        for line in range(rows):
            for column in range(columns):
                tile = pixels[line * size : (line + 1) * size, column * size : (column + 1) * size]
                gap = (size - 128) // 2
                inner = tile[gap:-gap:4, gap:-gap:4][:32, :32]
                made = clean
                if column:
                    made = corrupt(clean, names[row], column, seed=8, index=torch.tensor([3]))
                np.testing.assert_array_equal(inner, made[0].permute(1, 2, 0).numpy())
                assert (tile[0] == 255).all()
            row += 1
    assert row == len(names)


def test_held_out_names_are_told_apart(images: ImageSet) -> None:
    def words(names: tuple[str, ...]) -> str:
        return " ".join(texts(sheet(images, names, image=0, seed=0).texts))

    assert "cifar10-c-gen: corruption by severity" in words(("fog",))
    assert "Image 0 of cifar10-sample test" in words(("fog",))
    assert "held out" not in words(("fog",))
    assert "Grey names: held out" in words(("fog", "spatter"))
    (axes,) = sheet(images, ("fog", "spatter"), image=0, seed=0).axes
    fog, spatter = (label.get_color() for label in axes.get_yticklabels())
    assert fog != spatter


def test_a_sheet_says_what_its_images_are_called(images: ImageSet) -> None:
    def words(*names: str) -> str:
        return " ".join(texts(sheet(images, names, image=0, seed=0).texts))

    assert "cifar10-c-bar-gen: corruption by severity" in words("ripple")
    assert "cifar10-c-gen and cifar10-c-bar-gen: corruption by severity" in words("fog", "snow", "ripple")


def test_a_sheet_of_the_other_package_says_so(images: ImageSet) -> None:
    pytest.importorskip("imagecorruptions", reason="its own corruptions are drawn")
    words = " ".join(texts(sheet(images, ("imagecorruptions:fog",), image=0, seed=0).texts))
    assert "cifar10-c-gen" not in words
    assert "imagecorruptions-imaug" in words
    assert adapter.NOTE in words.replace("\n", " ")


@pytest.mark.parametrize(
    "names",
    [(*CORRUPTIONS, *HELD_OUT), CBAR, ("fog", "imagecorruptions:elastic_transform")],
    ids=["all", "bar", "other"],
)
def test_names_and_photographs_stay_inside_the_picture(images: ImageSet, names: tuple[str, ...]) -> None:
    if names[-1] in adapter.NAMES:
        pytest.importorskip("imagecorruptions", reason="its own corruptions are drawn")
    figure = sheet(images, names, image=0, seed=0)
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    boxes = [label.get_window_extent() for axes in figure.axes for label in axes.get_yticklabels()]
    boxes += [axes.get_window_extent() for axes in figure.axes]
    for box in (*boxes, *(text.get_window_extent() for text in figure.texts)):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    if len(names) <= 10:
        return
    left, right = (axes.get_window_extent() for axes in figure.axes)
    assert min(label.get_window_extent().x0 for label in figure.axes[1].get_yticklabels()) > left.x1
    assert right.x0 > left.x1


def test_the_same_sheet_is_the_same_bytes(images: ImageSet) -> None:
    for write in (png, svg):
        first, second = (write(sheet(images, ("fog",), image=0, seed=0)) for _ in range(2))
        assert first == second


@pytest.mark.parametrize("image", [-1, 12])
def test_an_image_that_is_not_there(images: ImageSet, image: int) -> None:
    with pytest.raises(UserError, match=rf"--image: {image}; allowed: 0 to 11, the images of cifar10-sample"):
        sheet(images, ("fog",), image=image, seed=0)
