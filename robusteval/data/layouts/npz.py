"""NumPy archives: ``images`` and ``labels`` of one split, or ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from robusteval.data.layouts.arrays import Arrays, arrays
from robusteval.data.layouts.note import read_note
from robusteval.data.registry import DatasetInfo, Split
from robusteval.errors import UserError


def subfolders(info: DatasetInfo) -> tuple[str, ...]:
    """Where the files usually are below a data folder: in no folder of their own."""
    return ()


def expected(info: DatasetInfo, split: Split) -> str:
    """What a missing-data message says was looked for."""
    return f"{info.name}-{split}.npz or {split}.npz (images, labels), {info.name}.npz (x_{split}, y_{split})"


def read(folder: Path, info: DatasetInfo, split: Split) -> Arrays | None:
    """The arrays of a split, None if none of its files are here.

    Raises:
        UserError: damaged, without the arrays, or arrays of another type or shape.
    """
    for stem in (f"{info.name}-{split}", f"{info.name}_{split}", split, info.name):
        path = folder / f"{stem}.npz"
        if path.is_file():
            # A file that does not say by its name which split it holds must say so by its keys.
            pairs = [(f"x_{split}", f"y_{split}")] + ([] if stem == info.name else [("images", "labels")])
            note = read_note(folder, info, split) if stem == f"{info.name}-{split}" else None
            return _read_file(path, pairs, note.digest if note else None)
    return None


def _read_file(path: Path, pairs: list[tuple[str, str]], digest: str | None) -> Arrays:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{path}: not an npz archive")
            for images, labels in pairs:
                if images in archive and labels in archive:
                    return arrays(archive[images], archive[labels], str(path), digest=digest)
    except UserError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged npz archive ({' '.join(str(error).split())})") from None
    wanted = " or ".join(f"{images}, {labels}" for images, labels in pairs)
    raise UserError(f"{path}: no arrays {wanted}; it holds: {', '.join(archive.files) or 'nothing'}")
