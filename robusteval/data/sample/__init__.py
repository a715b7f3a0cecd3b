"""Reader of the embedded sample: real CIFAR-10 images as two lossless WebP mosaics, chosen by a seeded script."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import numpy.typing as npt
from PIL import Image

from robusteval.data.digest import content_digest
from robusteval.data.layouts.arrays import Arrays, arrays
from robusteval.data.registry import SAMPLE, Split
from robusteval.errors import UserError

COLUMNS = 10
"""Images in a row of a mosaic. Image i is of class i % 10, so that each column of a mosaic is a class."""


def read(split: Split) -> Arrays:
    """The sample's images and labels.

    Raises:
        UserError: the installed files are damaged.
    """
    place = resources.files(__name__)
    try:
        with (place / f"{split}.webp").open("rb") as file:
            mosaic = np.asarray(Image.open(file))
        labels = np.asarray(json.loads((place / "index.json").read_text("utf-8"))[split]["labels"])
        found = arrays(unfold(mosaic), labels, str(place))
        reason = "digest" if content_digest(found.images, found.labels) != SAMPLE.digests[split] else ""
    except (OSError, ValueError, LookupError, TypeError, SyntaxError) as error:
        reason = " ".join(str(error).split())
    if reason:
        raise UserError(f"{place}: the embedded sample is damaged ({reason}); install robusteval again")
    return found


def indices(split: Split) -> list[int]:
    """The position of every sample image in CIFAR-10's split of the same name."""
    stored = json.loads((resources.files(__name__) / "index.json").read_text("utf-8"))
    return list(stored[split]["indices"])


def fold(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One picture (H, W, 3) with the images (N, 3, 32, 32) row by row, ``COLUMNS`` in a row."""
    tiles = images.reshape(-1, COLUMNS, 3, 32, 32).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(tiles.reshape(len(images) // COLUMNS * 32, COLUMNS * 32, 3))


def unfold(mosaic: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The images (N, 3, 32, 32) of a picture made by `fold`."""
    tiles = mosaic.reshape(-1, 32, COLUMNS, 32, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiles.reshape(-1, 3, 32, 32))
