"""The photographs of ice that the published generator mixes in, from the package that distributes them."""

from __future__ import annotations

import hashlib
import io
import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from robusteval.errors import UserError

PACKAGE = "imagecorruptions-imaug"
"""The distribution to install for the files."""

MODULE = "imagecorruptions"
"""Its module: found, never imported, because importing it needs OpenCV with its libraries, and numba."""

DIGESTS = {
    "frost1.png": "ff9f907860bd7a835d459e32f9d588062b7f61ee267343cc7222b56753a14755",
    "frost2.png": "fe211a89b336999c207a852ce05818d4545d0b57c5beadd824b4cc9d9a9b6137",
    "frost3.png": "2d0d50b4a9bb213f38b024ef7768731bb83cc08d2f26b5766bbc167cdfa0e504",
    "frost4.jpg": "3f8b91ca1a9fa7167b09e773da53f5ae60d0a1fd88f02a783f6e328a72887f6e",
    "frost5.jpg": "5fc6a19df4a429ba68abdcc8f8a4278d4c9f81c9ccafd2c92ab0c8cf8992ebd2",
}
"""File -> sha256. There is a sixth photograph, but the published draw has five outcomes."""

SHRINK = 5
"""For CIFAR the photographs are shrunk to a fifth, without smoothing."""

_ROOM = 1.1
"""A photograph too small for an image is enlarged to this many times its size."""


class Ice(NamedTuple):
    """The photographs laid end to end.

    Attributes:
        pixels: uint8 (3, pixels of all photographs), row by row.
        sizes: heights and widths, int64 (5, 2).
        starts: where each begins, int64 (5,).
    """

    pixels: Tensor
    sizes: Tensor
    starts: Tensor


def _content(name: str) -> bytes:
    """The bytes of one photograph, checked against its digest."""
    spec = find_spec(MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"frost: its photographs come with the Python package {PACKAGE!r}, which is not installed")
    path = Path(spec.submodule_search_locations[0]) / "frost" / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"frost: cannot read {path} of the package {PACKAGE!r}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != DIGESTS[name]:
        raise UserError(f"frost: {path} is not the published photograph; reinstall the package {PACKAGE!r}")
    return data


@lru_cache(maxsize=2)
def frost(shrink: int = SHRINK) -> tuple[Tensor, ...]:
    """The five photographs, shrunk by an odd factor: uint8 (3, h, w) each.

    Raises:
        UserError: the package is missing, or a file is not the published one.
    """
    photographs = []
    for name in DIGESTS:
        with Image.open(io.BytesIO(_content(name))) as image:
            pixels = np.asarray(image.convert("RGB"))
        # Bilinear interpolation at exactly a fifth falls on the middle pixel of every five.
        middle = pixels[shrink // 2 :: shrink, shrink // 2 :: shrink]
        photographs.append(torch.from_numpy(np.ascontiguousarray(middle.transpose(2, 0, 1))))
    return tuple(photographs)


@lru_cache(maxsize=16)
def ice(shrink: int, height: int, width: int, device: torch.device) -> Ice:
    """The photographs for images of one size, on a device.

    The published code fails where an image does not fit into a photograph. Here such a photograph is enlarged with
    cubic interpolation until it does, with room to spare.
    """
    fitting = []
    for picture in frost(shrink):
        short = max(height / picture.shape[1], width / picture.shape[2])
        if short >= 1:
            size = [math.ceil(side * short * _ROOM) for side in picture.shape[1:]]
            large = F.interpolate(picture[None].float(), size=size, mode="bicubic", align_corners=False)[0]
            picture = large.round_().clamp_(0, 255).to(torch.uint8)
        fitting.append(picture)
    areas = torch.tensor([picture[0].numel() for picture in fitting])
    return Ice(
        torch.cat([picture.flatten(1) for picture in fitting], dim=1).to(device),
        torch.tensor([picture.shape[1:] for picture in fitting]).to(device),
        (areas.cumsum(0) - areas).to(device),
    )
