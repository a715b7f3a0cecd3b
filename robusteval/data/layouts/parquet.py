"""Hugging Face parquet files: one encoded image and one class number a row."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from robusteval.data.digest import official_order
from robusteval.data.layouts.arrays import Arrays, arrays
from robusteval.data.registry import DatasetInfo, Split
from robusteval.errors import UserError

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = {"cifar10": ("label",), "cifar100": ("fine_label", "label")}
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")


def subfolders(info: DatasetInfo) -> tuple[str, ...]:
    """Where the files usually are below a data folder."""
    return ("plain_text", info.name, "data")


def expected(info: DatasetInfo, split: Split) -> str:
    """What a missing-data message says was looked for."""
    return f"{split}-00000-of-00001.parquet or {info.name}-{split}.parquet (Hugging Face)"


def read(folder: Path, info: DatasetInfo, split: Split) -> Arrays | None:
    """The arrays of a split, None if none of its files are here.

    Raises:
        UserError: a shard is missing, a file is damaged or has other columns, or pyarrow is not installed.
    """
    paths = _files(folder, info, split)
    if not paths:
        return None
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"{paths[0]}: reading it needs pyarrow; pip install 'robusteval[parquet]'") from None
    images, labels = [], []
    for path in paths:
        try:
            table = pq.read_table(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged parquet file ({' '.join(str(error).split())})") from None
        cells = _column(table, _IMAGE_COLUMNS, path).to_pylist()
        images.append(_decoded(cells, path))
        numbers = _column(table, _LABEL_COLUMNS[info.family], path)
        if numbers.null_count or not pyarrow.types.is_integer(numbers.type):
            raise UserError(f"{path}: labels are {numbers.type} with {numbers.null_count} empty; allowed: integers")
        labels.append(numbers.to_numpy())
    found = arrays(np.concatenate(images), np.concatenate(labels), str(paths[0]))
    # The hub's CIFAR-10 has the training files in the order of the archive, which starts with the fourth.
    return Arrays(*official_order(info, found.images, found.labels), found.source)


def _files(folder: Path, info: DatasetInfo, split: Split) -> list[Path]:
    whole = [path for name in (f"{info.name}-{split}", split) if (path := folder / f"{name}.parquet").is_file()]
    if whole:
        return whole[:1]
    shards = sorted(path for path in folder.glob(f"{split}-*.parquet") if _SHARD.search(path.name))
    if shards:
        numbered = [(int(m[1]), int(m[2])) for path in shards if (m := _SHARD.search(path.name))]
        count = numbered[0][1]
        if numbered != [(i, count) for i in range(count)]:
            raise UserError(f"{folder}: {len(shards)} of {count} files {split}-*-of-{count:05}.parquet; get the others")
    return shards


def _column(table: Any, names: tuple[str, ...], path: Path) -> Any:
    for name in names:
        if name in table.column_names:
            return table.column(name)
    raise UserError(f"{path}: no column {' or '.join(names)}; it has: {', '.join(table.column_names)}")


def _decoded(cells: list[Any], path: Path) -> npt.NDArray[np.uint8]:
    """Images (N, 32, 32, 3) from cells that hold encoded bytes, bare or under the key ``bytes``."""
    out = np.empty((len(cells), 32, 32, 3), np.uint8)
    for row, cell in enumerate(cells):
        encoded = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(encoded, bytes):
            raise UserError(f"{path}: row {row} holds no encoded image")
        try:
            image = Image.open(io.BytesIO(encoded))
            pixels = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: row {row} is not a readable image ({error})") from None
        if pixels.shape != (32, 32, 3) or pixels.dtype != np.uint8:
            raise UserError(f"{path}: row {row} is {image.mode} {image.size}; allowed: RGB (32, 32)")
        out[row] = pixels
    return out
