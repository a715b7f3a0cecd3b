"""The python pickles that torchvision downloads, read through torchvision, which checks their published md5 first."""

from __future__ import annotations

import tarfile
import warnings
import zlib
from pathlib import Path
from urllib.error import HTTPError

import numpy as np

from robusteval.data.layouts.arrays import Arrays, arrays
from robusteval.data.registry import DatasetInfo, Split
from robusteval.errors import UserError

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def subfolders(info: DatasetInfo) -> tuple[str, ...]:
    """Where the files usually are below a data folder."""
    return (FOLDERS[info.family],)


def expected(info: DatasetInfo, split: Split) -> str:
    """What a missing-data message says was looked for."""
    return f"{FOLDERS[info.family]}/ (torchvision)"


def read(folder: Path, info: DatasetInfo, split: Split) -> Arrays | None:
    """The arrays of a split, None if this is not torchvision's folder.

    Raises:
        UserError: a file is missing or not the published one.
    """
    if folder.absolute().name != FOLDERS[info.family] or not any(folder.iterdir()):
        return None
    return _through_torchvision(folder.absolute().parent, info, split, download=False)


def download(root: Path, info: DatasetInfo, split: Split) -> Arrays:
    """The arrays of a split after torchvision has put the set's folder into ``root``.

    Raises:
        UserError: the download failed or brought something else than the published files.
    """
    return _through_torchvision(root, info, split, download=True)


def _through_torchvision(root: Path, info: DatasetInfo, split: Split, *, download: bool) -> Arrays:
    from torchvision import datasets

    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[info.family]
    folder = root / FOLDERS[info.family]
    try:
        with warnings.catch_warnings():
            # NumPy 2.4.0 to 2.4.4 complain about the way these files of 2009 spell a dtype.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            found = reader(root, train=split == "train", download=download)
    except (OSError, RuntimeError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, HTTPError):
            error.close()  # it is the response too, and holds the connection open
        if download:
            raise UserError(
                f"{info.name}: the download to {root} failed ({reason}); get {reader.url} elsewhere, "
                f"unpack it there and pass --data-dir {root}"
            ) from None
        raise UserError(
            f"{folder}: incomplete or damaged ({reason}); delete it and run `robusteval data get {info.name}`"
        ) from None
    return arrays(found.data, np.asarray(found.targets), str(folder))
