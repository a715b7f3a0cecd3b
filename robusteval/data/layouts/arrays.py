"""What every layout hands over: uint8 (N, 3, 32, 32) images and int64 (N,) labels, or a clear refusal."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robusteval.errors import UserError


class Arrays(NamedTuple):
    """Images uint8 (N, 3, 32, 32), labels int64 (N,), where they came from, and the digest promised there, if any."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    source: str
    digest: str | None = None


def arrays(images: npt.NDArray[Any], labels: npt.NDArray[Any], source: str, *, digest: str | None = None) -> Arrays:
    """The arrays in the common form.

    Args:
        images: uint8, (N, 3, 32, 32) or (N, 32, 32, 3).
        labels: any integer type, (N,) or (N, 1).
        source: the file or folder, for messages.
        digest: what the content digest must be, if something beside the files says so.

    Raises:
        UserError: another type or shape, or not one label per image.
    """
    if images.dtype != np.uint8 or images.shape[1:] not in ((3, 32, 32), (32, 32, 3)):
        raise UserError(
            f"{source}: images are {images.dtype} {images.shape}; allowed: uint8 (N, 3, 32, 32) or (N, 32, 32, 3)"
        )
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        raise UserError(
            f"{source}: labels are {labels.dtype} {labels.shape} for {len(images)} images; "
            f"allowed: integers ({len(images)},)"
        )
    if images.shape[1] != 3:
        images = images.transpose(0, 3, 1, 2)
    return Arrays(np.ascontiguousarray(images), labels.reshape(-1).astype(np.int64), source, digest)
