"""The official binary files: rows of label byte(s) and 3,072 pixel bytes (planes R, G, B)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robusteval.data.layouts.arrays import Arrays, arrays
from robusteval.data.layouts.note import read_note
from robusteval.data.registry import DatasetInfo, Split
from robusteval.errors import UserError

FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
FILES: dict[str, dict[Split, tuple[str, ...]]] = {
    "cifar10": {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    "cifar100": {"train": ("train.bin",), "test": ("test.bin",)},
}
PIXELS = 3 * 32 * 32


def subfolders(info: DatasetInfo) -> tuple[str, ...]:
    """Where the files usually are below a data folder."""
    return (FOLDERS[info.family],)


def expected(info: DatasetInfo, split: Split) -> str:
    """What a missing-data message says was looked for."""
    names = FILES[info.family][split]
    listed = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return f"{FOLDERS[info.family]}/{listed} (official binary)"


def shares(total: int, files: int) -> list[int]:
    """How many images each file holds; for the complete sets, what the official files hold.

    >>> shares(50_000, 5)[0], shares(7, 5)
    (10000, [2, 2, 1, 1, 1])
    """
    return [total // files + (i < total % files) for i in range(files)]


def read(folder: Path, info: DatasetInfo, split: Split) -> Arrays | None:
    """The arrays of a split, None if none of its files are here.

    Raises:
        UserError: a file is missing or has the wrong size, or superclasses do not belong to the classes.
    """
    paths = [folder / name for name in FILES[info.family][split]]
    missing = [path.name for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        return None
    if missing:
        raise UserError(f"{folder}: incomplete; missing: {', '.join(missing)}")
    note = read_note(folder, info, split)
    width = PIXELS + (2 if info.coarse else 1)
    rows = []
    for path, count in zip(paths, shares(note.n if note else info.sizes[split], len(paths)), strict=True):
        size = path.stat().st_size
        if size != count * width:
            raise UserError(
                f"{path}: {size} bytes; {info.name} has {count * width} here ({count} rows of {width}): "
                "truncated, or not this data set"
            )
        rows.append(np.fromfile(path, dtype=np.uint8).reshape(count, width))
    table = np.concatenate(rows)
    labels = table[:, width - PIXELS - 1]
    if info.coarse:
        inside = labels < len(info.coarse)
        if (np.asarray(info.coarse, np.uint8)[labels[inside]] != table[inside, 0]).any():
            raise UserError(f"{folder}: superclasses do not belong to the classes: damaged, or not {info.name}")
    images = table[:, width - PIXELS :].reshape(-1, 3, 32, 32)
    return arrays(images, labels, str(folder), digest=note.digest if note else None)
