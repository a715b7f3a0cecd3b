"""Per-image outcomes as short texts, for files that people read in a diff."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTHS = (np.dtype("u1"), np.dtype("<u2"), np.dtype("<u4"))
"""Of a packed count, the narrowest that holds them all comes first."""


def pack(scores: npt.NDArray[Any], parts: int = 1) -> str:
    """The scores of images as base64: a bit an image that is right or wrong, else the number of its parts.

    Args:
        scores: (n,): booleans, or the share of each image's parts that are right.
        parts: of an image, e.g. its corrupted versions.

    >>> pack(np.array([True, False, True])), pack(np.array([0.5, 1.0]), 4)
    ('oA==', 'AgQ=')
    """
    if parts == 1:
        return base64.b64encode(np.packbits(scores.astype(np.bool_)).tobytes()).decode()
    counts = np.rint(scores * parts)
    assert np.abs(counts - scores * parts).max(initial=0) < 1e-6 * parts, "shares of so many parts"
    return base64.b64encode(counts.astype(_width(parts)).tobytes()).decode()


def unpack(text: str, n: int, parts: int = 1) -> npt.NDArray[Any]:
    """The scores (n,) that were packed: booleans for one part an image, else float64.

    Raises:
        ValueError: the text is not what `pack` makes of n images.

    >>> unpack("oA==", 3).tolist(), unpack("AgQ=", 2, 4).tolist()
    ([True, False, True], [0.5, 1.0])
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"outcomes are not base64: {error}") from None
    width = _width(parts)
    if len(data) != (-(-n // 8) if parts == 1 else n * width.itemsize):
        raise ValueError(f"{len(data)} bytes of outcomes cannot be those of {n} images")
    if parts == 1:
        return np.unpackbits(np.frombuffer(data, np.uint8), count=n).astype(np.bool_)
    counts = np.frombuffer(data, width)
    if n and counts.max() > parts:
        raise ValueError(f"an image with {counts.max()} right of {parts}")
    return counts / parts


def _width(parts: int) -> np.dtype[Any]:
    return next(width for width in WIDTHS if parts <= np.iinfo(width).max)
