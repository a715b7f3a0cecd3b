"""`write`: generated corrupted images as files in the layout of CIFAR-10-C, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robusteval import manifest
from robusteval.corruptions.contents import (
    TABLE,
    Contents,
    generated_name,
    of_bar,
    read_contents,
    readme,
    write_contents,
)
from robusteval.corruptions.published import LABELS, PUBLISHED, digest
from robusteval.corruptions.request import Request, published_md5
from robusteval.corruptions.strengths import GENERATOR_VERSION, Strength, parts, strength
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.progress import Progress, Silent
from robusteval.records import DataRef

README = "README.md"
_ROWS = 1_000
"""Images at a time: an interruption is noticed between two such blocks."""


class Written(NamedTuple):
    """One file of images.

    Attributes:
        path: of the file.
        kept: whether it was there already.
        sha256, md5: of all its bytes.
        equal: whether it is the published file to the byte; None where nothing is published that it could equal:
            random draws, other images, other severities.
    """

    path: Path
    kept: bool
    sha256: str
    md5: str
    equal: bool | None


def write(images: ImageSet, folder: Path, request: Request, *, progress: Progress | None = None) -> Iterator[Written]:
    """Each file of images as soon as it is in its place, first those that are there already.

    Whatever instant this is stopped at, every file in the folder is complete, and the next call with the same request
    makes only what is missing. A request for other corruptions adds to the folder. Beside the images are
    ``labels.npy``, the manifest and a text for people that says what this is and what it is not.

    Args:
        images: the clean images.
        folder: where to; made if it does not exist.
        request: what to write.
        progress: told of every block of images.

    Raises:
        UserError: a request that cannot be meant; a folder that holds other images or files of these names, bears the
            published files' name, or cannot be written.
    """
    request.check(images)
    contents = _contents(images, folder, request)
    missing = [name for name in (LABELS, *request.names) if not _is_there(folder, name, contents)]
    rows = len(images.labels) * len(request.severities)
    height, width = images.images.shape[2:]
    _check_room(folder, len(missing) * rows * height * width * 3)
    progress = progress or Silent()
    with manifest.locked(folder):
        if LABELS in missing:
            labels = np.tile(images.labels.numpy().astype(np.uint8), len(request.severities))
            contents = _put(folder, LABELS, contents, _saved((rows,), [labels]))
        manifest.replace(folder / README, readme(contents).encode())
        progress.begin("corrupt", len([*_blocks(images, request)]) * (len(missing) - (LABELS in missing)))
        for name in sorted(request.names, key=lambda name: name in missing):
            if name in missing:
                made = _made(images, name, request, progress)
                contents = _put(
                    folder,
                    name,
                    contents.model_copy(update={"strengths": {**contents.strengths, name: _strengths(name, request)}}),
                    _saved((rows, height, width, 3), made),
                    must_equal=published_md5(name, images, request) if request.exact else None,
                )
            file = f"{name}.npy"
            md5, published = contents.md5[file], published_md5(name, images, request)
            equal = None if published is None else md5 == published
            if request.exact and equal is False:  # it is there since a call without --exact
                raise _differs(folder / file, md5, published)
            yield Written(folder / file, name not in missing, contents.sha256[file], md5, equal)


def _contents(images: ImageSet, folder: Path, request: Request) -> Contents:
    """The manifest to add to: that of the folder if it is about the same images, else a new one."""
    name = generated_name(images.name, request.names)
    official = {published.folder.lower() for published in PUBLISHED.values()}
    if folder.resolve().name.lower().removesuffix("-bar") in official:
        raise UserError(
            f"{folder}: a folder of this name is for the published files only; allowed: another, for example "
            f"{folder.with_name(name)}"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; allowed: a folder to write to")
    asked = Contents(
        name=name,
        generator=GENERATOR_VERSION,
        table=f"{TABLE}-bar" if of_bar(request.names) else TABLE,
        seed=request.seed,
        data=images.ref(),
        severities=request.severities,
    )
    found = read_contents(folder)
    if found is None:
        found = asked
    for field in ("name", "generator", "table", "seed", "data", "severities"):
        if getattr(found, field) != getattr(asked, field):
            raise UserError(
                f"{folder}: holds images with another {field} ({_words(getattr(found, field))}, not "
                f"{_words(getattr(asked, field))}); choose another --out"
            )
    ours = {README, *found.sha256} if found.sha256 else set()
    for file in (README, *(f"{name}.npy" for name in (LABELS, *request.names))):
        if (folder / file).exists() and file not in ours:
            raise UserError(f"{folder / file}: exists, and not from here; allowed: a folder without it")
    return found


def _words(value: object) -> str:
    if isinstance(value, DataRef):
        return f"{value.n} images of {value.name} {value.split}, digest {value.digest[:12]}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _is_there(folder: Path, name: str, contents: Contents) -> bool:
    """Whether the file is completely there, from its whole content."""
    file = f"{name}.npy"
    return (folder / file).is_file() and digest(folder / file, "sha256") == contents.sha256[file]


def _check_room(folder: Path, needed: int) -> None:
    """Raises unless the disk has room for so many bytes: better now than after the first gigabyte."""
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(f"{folder}: needs {needed / 1e9:.2f} GB and has {free / 1e9:.2f} GB; allowed: a larger disk")


def _strengths(name: str, request: Request) -> tuple[Strength, ...]:
    return tuple(
        tuple(number for part in parts(name) for number in strength(TABLE, part, severity))
        for severity in request.severities
    )


def _blocks(images: ImageSet, request: Request) -> Iterator[tuple[int, slice]]:
    """The severity and the images of each block of rows, in the order of the file."""
    for severity in request.severities:
        for start in range(0, len(images.labels), _ROWS):
            yield severity, slice(start, min(start + _ROWS, len(images.labels)))


def _made(images: ImageSet, name: str, request: Request, progress: Progress) -> Iterator[NDArray[np.uint8]]:
    """The corrupted images, channels last, block by block."""
    for severity, rows in _blocks(images, request):
        yield request.made(images, name, severity, rows).permute(0, 2, 3, 1).contiguous().numpy()
        progress.advance(note=f"{name} {severity}")


def _saved(shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> Iterator[memoryview]:
    """The bytes that `numpy.save` would write of an array that is given in parts."""
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    yield header.getbuffer()
    for block in blocks:
        yield block.data


def _put(
    folder: Path, name: str, contents: Contents, parts: Iterable[memoryview], *, must_equal: str | None = None
) -> Contents:
    """The manifest with the file, after both were put in place.

    The manifest goes first. Stopped between the two, it names a file that is not there, which is made again; a file
    that it does not name is never taken for one of ours.
    """
    path = folder / f"{name}.npy"
    temporary = path.with_name(path.name + ".tmp")
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
                sha256.update(part)
                md5.update(part)
            file.flush()
            os.fsync(file.fileno())
        if must_equal is not None and md5.hexdigest() != must_equal:
            raise _differs(path, md5.hexdigest(), must_equal)
        digests = {"sha256": {**contents.sha256, path.name: sha256.hexdigest()}}
        digests["md5"] = {**contents.md5, path.name: md5.hexdigest()}
        contents = contents.model_copy(update=digests)
        write_contents(folder, contents)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return contents


def _differs(path: Path, md5: str, published: str | None) -> UserError:
    return UserError(
        f"{path}: is not the published file to the byte (md5 {md5}, not {published}): this machine's arithmetic rounds "
        "differently; allowed: without --exact"
    )
