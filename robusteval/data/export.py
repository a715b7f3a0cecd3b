"""`export`: an image set written as files that other tools read, and that `load` reads back to the same digest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from robusteval.data.digest import Images, Labels, content_digest, records
from robusteval.data.layouts import binary
from robusteval.data.layouts.note import Note, note_name
from robusteval.data.registry import DATASETS, DatasetInfo
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError, unknown

ExportLayout = Literal["binary", "npz", "png"]


def export(images: ImageSet, folder: Path, layout: ExportLayout) -> tuple[Path, ...]:
    """The files that were written: everything or nothing, never over something that exists.

    - ``binary``: the official file names and rows. Beside them, a note says how many rows there are and their digest,
      so that a part of a data set can be read back too.
    - ``npz``: ``images`` (N, 32, 32, 3) and ``labels``, with such a note.
    - ``png``: one picture an image, ``<name>-<split>/<class>/<position>.png``, as image-folder readers want it.

    Args:
        images: what to write; after `ImageSet.first`, only what is held.
        folder: the data folder; made if it does not exist. Both splits can go into one.
        layout: which files.

    Raises:
        UserError: unknown layout, a file is there already, or the folder cannot be written.
    """
    if layout not in _WRITERS:
        raise unknown("export", "layout", layout, _WRITERS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
            _WRITERS[layout](images, Path(temporary))
            return tuple(folder / path for path in _publish(Path(temporary), folder))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from None


def _publish(source: Path, folder: Path) -> list[Path]:
    """The relative paths of all files, after they were made durable and moved into the folder."""
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    for path in files:
        if (folder / path).exists():
            raise UserError(f"{folder / path}: exists; allowed: a folder without it")
    for path in files:
        with (source / path).open("rb") as file:
            os.fsync(file.fileno())
    _move(source, folder)
    return files


def _move(source: Path, folder: Path) -> None:
    """Each entry renamed into the folder; entries of a folder that exists there already, one by one."""
    for entry in sorted(source.iterdir()):
        target = folder / entry.name
        if entry.is_dir() and target.is_dir():
            _move(entry, target)
        else:
            entry.rename(target)


def _binary(images: ImageSet, folder: Path) -> None:
    info, pixels, labels = _content(images)
    place = folder / binary.FOLDERS[info.family]
    place.mkdir()
    names = binary.FILES[info.family][images.split]
    ends = np.cumsum(binary.shares(len(labels), len(names)))
    for name, part in zip(names, np.split(records(pixels, labels, info.coarse), ends[:-1]), strict=True):
        part.tofile(place / name)
    _write_note(images, pixels, labels, place)


def _npz(images: ImageSet, folder: Path) -> None:
    _, pixels, labels = _content(images)
    np.savez(folder / f"{images.name}-{images.split}.npz", images=pixels.transpose(0, 2, 3, 1), labels=labels)
    _write_note(images, pixels, labels, folder)


def _png(images: ImageSet, folder: Path) -> None:
    _, pixels, labels = _content(images)
    place = folder / f"{images.name}-{images.split}"
    for name in images.classes:
        (place / name).mkdir(parents=True)
    for position, (picture, label) in enumerate(zip(pixels.transpose(0, 2, 3, 1), labels, strict=True)):
        Image.fromarray(picture).save(place / images.classes[label] / f"{position:05}.png")


_WRITERS: Mapping[str, Callable[[ImageSet, Path], None]] = {"binary": _binary, "npz": _npz, "png": _png}


def _content(images: ImageSet) -> tuple[DatasetInfo, Images, Labels]:
    return DATASETS[images.name], images.images.cpu().numpy(), images.labels.cpu().numpy()


def _write_note(images: ImageSet, pixels: Images, labels: Labels, folder: Path) -> None:
    digest = content_digest(pixels, labels)
    note = Note(name=images.name, split=images.split, n=len(labels), digest=digest)
    (folder / note_name(images.name, images.split)).write_text(note.model_dump_json(indent=2) + "\n", encoding="utf-8")
