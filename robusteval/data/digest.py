"""One identity for the same images and labels in the same order, whatever file layout they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from robusteval.data.registry import DATASETS, DatasetInfo, Split

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_CHUNK = 10_000


def content_digest(images: Images, labels: Labels) -> str:
    """The sha256, as 64 hex digits, of the shape, the pixels and the labels.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).

    >>> content_digest(np.zeros((1, 3, 2, 2), np.uint8), np.array([7]))[:16]
    '132095c529959fb8'
    """
    state = hashlib.sha256("robusteval-images-1 {} {} {} {}\n".format(*images.shape).encode())
    state.update(np.ascontiguousarray(images).data)
    state.update(np.ascontiguousarray(labels.astype("<i8", copy=False)).data)
    return state.hexdigest()


def records(images: Images, labels: Labels, coarse: tuple[int, ...]) -> Images:
    """The rows of the official binary layout, uint8 (N, 1 or 2 + C*H*W): label bytes, then the planes R, G, B.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        coarse: superclass of each class, written before the class if there are any.
    """
    columns = [labels.astype(np.uint8)[:, None], images.reshape(len(images), -1)]
    if coarse:
        columns.insert(0, np.asarray(coarse, np.uint8)[labels][:, None])
    return np.concatenate(columns, axis=1)


def _chunks(images: Images, labels: Labels, coarse: tuple[int, ...]) -> Iterator[Images]:
    for start in range(0, len(labels), _CHUNK):
        yield records(images[start : start + _CHUNK], labels[start : start + _CHUNK], coarse)


def is_known(info: DatasetInfo, split: Split, images: Images, labels: Labels, digest: str) -> bool:
    """Whether this is the real content of the split.

    Where the content digest is not pinned, the official binary file is rebuilt from images and labels (superclasses
    follow from the classes) and compared with its published sha256: this works for every layout.
    """
    if split in info.digests:
        return digest == info.digests[split]
    published = info.binary_sha256.get(split)
    if published is None or len(labels) != info.sizes[split]:
        return False
    state = hashlib.sha256()
    for chunk in _chunks(images, labels, info.coarse):
        state.update(chunk.data)
    return state.hexdigest() == published


def known_elsewhere(info: DatasetInfo, split: Split, digest: str) -> tuple[str, Split] | None:
    """The (name, split) whose pinned digest this is, when it is not the one that was asked for."""
    for other in DATASETS.values():
        for known, pinned in other.digests.items():
            if digest == pinned and (other.name, known) != (info.name, split):
                return other.name, known
    return None


def official_order(info: DatasetInfo, images: Images, labels: Labels) -> tuple[Images, Labels]:
    """Images and labels with the official files' blocks of 10,000 in the official order.

    Some conversions keep the order inside each file of the training set but not the order of the files. Content that
    is not exactly a permutation of the official blocks is returned as it is.
    """
    if not info.block_md5 or len(labels) != _CHUNK * len(info.block_md5):
        return images, labels
    found = [hashlib.md5(c.data, usedforsecurity=False).hexdigest() for c in _chunks(images, labels, info.coarse)]
    if found == list(info.block_md5) or sorted(found) != sorted(info.block_md5):
        return images, labels
    rows = np.concatenate([np.arange(_CHUNK) + _CHUNK * found.index(md5) for md5 in info.block_md5])
    return images[rows], labels[rows]
