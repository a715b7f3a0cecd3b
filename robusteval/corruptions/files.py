"""Reader of published corrupted images: the ``.npy`` layout of CIFAR-10-C and CIFAR-100-C.

``ROOT/CIFAR-10-C/NAME.npy`` holds uint8 (50000, 32, 32, 3): the 10,000 test images in their official order,
once for each severity from 1 to 5. ``labels.npy`` holds their 50,000 labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robusteval.corruptions.strengths import CORRUPTIONS, HELD_OUT
from robusteval.errors import UserError, unknown

FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
"""Data set -> the folder of its published corrupted test images."""

_IMAGES = 10_000
_SHAPE = (5 * _IMAGES, 32, 32, 3)


def available(root: Path, dataset: str) -> bool:
    """Whether published files of the data set lie under ``root``; False for a data set that has none."""
    return dataset in FOLDERS and (root / FOLDERS[dataset]).is_dir()


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The array of one file, memory-mapped, if it has the shape."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        names = sorted(file.name for file in path.parent.glob("*.npy"))
        raise UserError(f"{path}: there is no such file; the folder has: {', '.join(names) or 'none'}") from None
    except (OSError, ValueError, EOFError):
        size = path.stat().st_size if path.is_file() else 0
        raise UserError(f"{path}: not a complete .npy file ({size} bytes); get it again") from None
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise UserError(f"{path}: holds the shape {getattr(array, 'shape', None)}; allowed: {shape}")
    return array


def read(root: Path, dataset: str, name: str, severity: int, *, expect: Tensor) -> Tensor:
    """The first images of one corruption and severity from the published files, uint8 (N, 3, 32, 32).

    Args:
        root: the folder that holds ``CIFAR-10-C``.
        dataset: ``cifar10`` or ``cifar100``.
        name: the corruption; files are found by name.
        severity: 1 to 5.
        expect: the labels of the first N test images, integers (N,): the files must have the same.

    Raises:
        UserError: no such folder, file or name; a file of another length, type or shape; other labels.
    """
    if dataset not in FOLDERS:
        raise unknown("corrupted files", "data set", dataset, FOLDERS)
    if name not in CORRUPTIONS + HELD_OUT:
        raise unknown("corrupted files", "corruption", name, CORRUPTIONS + HELD_OUT)
    if not 1 <= severity <= 5:
        raise UserError(f"corrupted files: severity {severity!r} is not one of 1, 2, 3, 4, 5")
    folder = root / FOLDERS[dataset]
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    count, start = len(expect), (severity - 1) * _IMAGES
    if count > _IMAGES:
        raise UserError(f"{folder}: has {_IMAGES} images of each severity, not {count}")
    labels = _mapped(folder / "labels.npy", _SHAPE[:1])
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{folder / 'labels.npy'}: holds {labels.dtype}; allowed: integers")
    if not np.array_equal(labels[start : start + count], expect.cpu().numpy()):
        raise UserError(f"{folder / 'labels.npy'}: its labels are not those of the first {count} test images")
    images = _mapped(folder / f"{name}.npy", _SHAPE)
    if images.dtype != np.uint8:
        raise UserError(f"{folder / name}.npy: holds {images.dtype}; allowed: uint8")
    return torch.from_numpy(np.ascontiguousarray(images[start : start + count].transpose(0, 3, 1, 2)))
