"""Readers of corrupted images in the ``.npy`` layout of CIFAR-10-C: the published files, and generated ones.

``NAME.npy`` holds uint8 (S * N, H, W, 3): the N test images in their official order, once for each of S severities.
``labels.npy`` holds their labels. The published files have severities 1 to 5 of 10,000 images; what a folder of
generated ones has is in its manifest (`robusteval.corruptions.contents`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robusteval.corruptions.contents import TABLE, Contents, generated_name, of_bar, read_contents
from robusteval.corruptions.published import IMAGES, LABELS, PUBLISHED, SEVERITIES, Published, digest
from robusteval.corruptions.strengths import CORRUPTIONS, GENERATOR_VERSION, HELD_OUT
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError, unknown

FOLDERS = {dataset: published.folder for dataset, published in PUBLISHED.items()}
"""Data set -> the folder of its published corrupted test images."""


class Verdict(NamedTuple):
    """What a file in a folder of corrupted images turned out to be."""

    path: Path
    right: bool
    verdict: str
    digest: str


def available(root: Path, dataset: str) -> bool:
    """Whether published files of the data set lie under ``root``; False for a data set that has none."""
    return dataset in FOLDERS and (root / FOLDERS[dataset]).is_dir()


def read(root: Path, dataset: str, name: str, severity: int, *, expect: Tensor) -> Tensor:
    """The first images of one corruption and severity from the published files, uint8 (N, 3, 32, 32).

    Each file's md5 is compared with the published one, once in the life of the process.

    Args:
        root: the folder that holds ``CIFAR-10-C``.
        dataset: ``cifar10`` or ``cifar100``.
        name: the corruption; files are found by name.
        severity: 1 to 5.
        expect: the labels of the first N test images, integers (N,): the files must have the same.

    Raises:
        UserError: no such folder, file or name; a file of another length, type or shape, or not the published one;
            other labels.
    """
    if dataset not in FOLDERS:
        raise unknown("corrupted files", "data set", dataset, FOLDERS)
    if name not in CORRUPTIONS + HELD_OUT:
        raise unknown("corrupted files", "corruption", name, CORRUPTIONS + HELD_OUT)
    if severity not in SEVERITIES:
        raise UserError(f"corrupted files: severity {severity!r} is not one of 1, 2, 3, 4, 5")
    folder = root / FOLDERS[dataset]
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    images = _block(folder, name, (SEVERITIES.index(severity), len(SEVERITIES), IMAGES), expect)
    for file in (LABELS, name):
        _check_published(folder / f"{file}.npy", PUBLISHED[dataset], file)
    return images


def read_generated(folder: Path, name: str, severity: int, *, expect: Tensor) -> Tensor:
    """The first images of one corruption and severity from a folder that `robusteval data corrupt` wrote.

    What is read is ``generated`` wherever it is reported, uint8 (N, 3, H, W).

    Args:
        folder: the folder with the manifest.
        name: the corruption.
        severity: one that the folder has.
        expect: the labels of the first N test images, integers (N,).

    Raises:
        UserError: the folder has no manifest, or not that corruption or severity; a file that is not what was
            written; other labels.
    """
    contents = read_contents(folder)
    if contents is None:
        raise UserError(f"{folder}: holds no manifest.json of generated images; `robusteval data corrupt` writes them")
    if name not in contents.strengths:
        raise unknown(str(folder), "corruption", name, contents.strengths)
    if severity not in contents.severities:
        raise UserError(f"{folder}: has no severity {severity!r}; allowed: {', '.join(map(str, contents.severities))}")
    place = (contents.severities.index(severity), len(contents.severities), contents.data.n)
    images = _block(folder, name, place, expect)
    for file in (f"{LABELS}.npy", f"{name}.npy"):
        if _digest(folder / file, "sha256") != contents.sha256.get(file):
            raise UserError(f"{folder / file}: not what was written (sha256 differs); remove it and write it again")
    return images


def written(root: Path, data: ImageSet, name: str, severity: float, *, seed: int) -> Path | None:
    """The folder that has just the images which would be generated now, for `read_generated`; None if there is none.

    It lies under ``root``, is called what it holds (``cifar10-c-gen``), and its manifest names the same clean images,
    corruption, severity, table, seed and version of the generator.

    Args:
        root: the data folder.
        data: the clean images, or the first of them.
        name: a corruption that is made here.
        severity: its severity.
        seed: of all draws.

    Raises:
        UserError: its manifest cannot be read.
    """
    folder = root / generated_name(data.name, [name])
    found = read_contents(folder)
    if found is None or name not in found.strengths or severity not in found.severities:
        return None
    made = (found.generator, found.table, found.seed, found.data.name, found.data.split, found.data.digest)
    table = f"{TABLE}-bar" if of_bar([name]) else TABLE
    asked = (GENERATOR_VERSION, table, seed, data.name, data.split, data.digest)
    of_that_size = data.images.shape[2:] == (32, 32)
    return folder if made == asked and of_that_size and found.data.n >= len(data.labels) else None


def verified(root: Path, dataset: str) -> Iterator[Verdict]:
    """What each published file of a data set that is there turned out to be, from its whole content."""
    published = PUBLISHED[dataset]
    for name in (LABELS, *CORRUPTIONS, *HELD_OUT):
        path = root / published.folder / f"{name}.npy"
        if path.exists():
            found = _digest(path, "md5")
            right = found == published.md5[name]
            yield Verdict(path, right, "published" if right else "not the published file", found)


def verified_generated(folder: Path, contents: Contents) -> Iterator[Verdict]:
    """What each file of a folder of generated images turned out to be, from its whole content."""
    for file, written in contents.sha256.items():
        path = folder / file
        found = _digest(path, "sha256") if path.exists() else ""
        right = found == written
        yield Verdict(path, right, "as written" if right else "changed" if found else "missing", found)


def _block(folder: Path, name: str, place: tuple[int, int, int], expect: Tensor) -> Tensor:
    """The first rows of one severity, whose labels are as expected: uint8 (N, 3, 32, 32).

    Args:
        folder: of the files.
        name: the corruption.
        place: which block of rows, of how many, and the rows of each.
        expect: labels (N,).
    """
    position, blocks, size = place
    count, start = len(expect), position * size
    if count > size:
        raise UserError(f"{folder}: has {size} images of each severity, not {count}")
    labels = _mapped(folder / f"{LABELS}.npy", (blocks * size,))
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{folder / LABELS}.npy: holds {labels.dtype}; allowed: integers")
    if not np.array_equal(labels[start : start + count], expect.cpu().numpy()):
        raise UserError(f"{folder / LABELS}.npy: its labels are not those of the first {count} test images")
    images = _mapped(folder / f"{name}.npy", (blocks * size, 32, 32, 3))
    if images.dtype != np.uint8:
        raise UserError(f"{folder / name}.npy: holds {images.dtype}; allowed: uint8")
    return torch.from_numpy(np.ascontiguousarray(images[start : start + count].transpose(0, 3, 1, 2)))


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The array of one file, memory-mapped, if it has the shape."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        names = sorted(file.name for file in path.parent.glob("*.npy"))
        raise UserError(f"{path}: there is no such file; the folder has: {', '.join(names) or 'none'}") from None
    except (OSError, ValueError, EOFError):
        raise UserError(f"{path}: not a complete .npy file ({_looks(path)}); get it again") from None
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise UserError(f"{path}: holds the shape {getattr(array, 'shape', None)}; allowed: {shape}")
    return array


def _looks(path: Path) -> str:
    """What can be said of a file that is no array."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
        size = f"{path.stat().st_size} bytes"
    except OSError as error:
        return error.strerror or str(error)
    return f"{size}, a web page" if start.lstrip().startswith(b"<") else size


def _digest(path: Path, kind: Literal["md5", "sha256"]) -> str:
    try:
        return digest(path, kind)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _check_published(path: Path, published: Published, name: str) -> None:
    """Raises unless the file is the published one: nothing else may be called by the benchmark's name."""
    found = _digest(path, "md5")
    if found != published.md5[name]:
        raise UserError(
            f"{path}: not the file published as {published.folder} (md5 {found}, not {published.md5[name]}); get it "
            f"again from {published.url}, or give the folder another name"
        )
