"""`load`: images and labels of a known data set, checked before anything is computed from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import torch
from torch import Tensor

from robusteval.data import layouts, sample
from robusteval.data.digest import content_digest, is_known, known_elsewhere
from robusteval.data.layouts.arrays import Arrays
from robusteval.data.registry import DATASETS, DatasetInfo, Split
from robusteval.errors import UserError, unknown
from robusteval.records import DataRef

DATA_VARIABLE = "ROBUSTEVAL_DATA"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels of one split.

    Attributes:
        name, split: which set.
        images: uint8 (N, 3, H, W), on the CPU.
        labels: int64 (N,).
        classes: class names in label order.
        digest: content digest of the whole split as it was read, also after `first`.
        verified: whether that is the digest of the real data.
        whole: how many images the split has; None: those held are all.
    """

    name: str
    split: Split
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    digest: str
    verified: bool
    whole: int | None = None

    def first(self, n: int | None) -> ImageSet:
        """The set with only its first ``n`` images (all of them if None or more than there are).

        Raises:
            UserError: ``n`` is less than 1.
        """
        if n is None:
            return self
        if n < 1:
            raise UserError(f"limit: {n} images; allowed: 1 or more")
        return replace(self, images=self.images[:n], labels=self.labels[:n], whole=self.available)

    @property
    def available(self) -> int:
        """How many images the split has, also after `first`."""
        return len(self.labels) if self.whole is None else self.whole

    def ref(self) -> DataRef:
        """The reference for records; its ``n`` is the number of images held."""
        return DataRef(name=self.name, split=self.split, n=len(self.labels), digest=self.digest, verified=self.verified)


class Verification(NamedTuple):
    """What was found where a split was looked for: its identity, class counts (in label order) and place."""

    name: str
    split: Split
    n: int
    counts: tuple[int, ...]
    digest: str
    verified: bool
    source: str


def load(name: str, split: Split, *, data_dir: Path | None = None, download: bool = False) -> ImageSet:
    """The checked images and labels of a split.

    Args:
        name: a key of `DATASETS`.
        split: ``train`` or ``test``.
        data_dir: folder to search (layouts: `robusteval.data.layouts`); without it ``ROBUSTEVAL_DATA``, and without
            that the user's cache folder. Not used for the embedded sample.
        download: get the data through torchvision when they are not in the folder.

    Raises:
        UserError: unknown name, missing, incomplete, damaged or mislabelled data, or a failed download.
    """
    return _load(name, split, data_dir, download)[0]


def verify(name: str, split: Split, *, data_dir: Path | None = None, download: bool = False) -> Verification:
    """What `load` would give: digest, whether it is the real one, class counts and the files' place.

    Raises:
        UserError: as `load`.
    """
    images, source = _load(name, split, data_dir, download)
    counts = tuple(torch.bincount(images.labels, minlength=len(images.classes)).tolist())
    return Verification(name, split, len(images.labels), counts, images.digest, images.verified, source)


def data_folder(data_dir: Path | None) -> Path:
    """The folder that is searched: the one given, else ``ROBUSTEVAL_DATA``, else one in the user's cache."""
    if data_dir is not None:
        return data_dir
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_cache_path("robusteval", appauthor=False) / "data"


def _load(name: str, split: Split, data_dir: Path | None, download: bool) -> tuple[ImageSet, str]:
    if name not in DATASETS:
        raise unknown("dataset", "data set", name, DATASETS)
    info = DATASETS[name]
    found = sample.read(split) if info.embedded else layouts.read(data_folder(data_dir), info, split, download=download)
    return checked(info, split, found), found.source


def checked(info: DatasetInfo, split: Split, found: Arrays) -> ImageSet:
    """The image set made of arrays that some layout held.

    Raises:
        UserError: wrong shape, type, size or labels; class counts that the complete set does not have; content that
            is another known split, or not what the note beside exported files says.
    """
    images, labels, where = found.images, found.labels, found.source
    size, classes = info.sizes[split], len(info.classes)
    if images.dtype != np.uint8 or images.shape != (len(images), 3, 32, 32):
        raise UserError(f"{where}: images are {images.dtype} {images.shape}; allowed: uint8 (N, 3, 32, 32)")
    if labels.dtype != np.int64 or labels.shape != (len(images),):
        raise UserError(
            f"{where}: labels are {labels.dtype} {labels.shape} for {len(images)} images; allowed: one each"
        )
    if not 0 < len(images) <= size:
        raise UserError(f"{where}: {len(images)} images; {info.name} {split} has {size}")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{where}: labels from {labels.min()} to {labels.max()}; {info.name} has 0 to {classes - 1}: "
            "damaged, or not this data set"
        )
    counts = np.bincount(labels, minlength=classes)
    if len(images) == size and (counts != size // classes).any():
        odd = int(np.flatnonzero(counts != size // classes)[0])
        raise UserError(
            f"{where}: {counts[odd]} images are labelled {info.classes[odd]!r}; {info.name} {split} has "
            f"{size // classes} of every class: damaged, or the labels are not this data set's"
        )
    digest = content_digest(images, labels)
    if found.digest is not None and digest != found.digest:
        raise UserError(f"{where}: the content has changed since it was written (digest {digest}, not {found.digest})")
    elsewhere = known_elsewhere(info, split, digest)
    if elsewhere is not None:
        raise UserError(f"{where}: this is {' '.join(elsewhere)}, not {info.name} {split}")
    return ImageSet(
        name=info.name,
        split=split,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        classes=info.classes,
        digest=digest,
        verified=is_known(info, split, images, labels, digest),
    )
