"""Finding a data set's split in a folder, in whichever of the usual file layouts it is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from robusteval.data.layouts import binary, npz, parquet, pickles
from robusteval.data.layouts.arrays import Arrays
from robusteval.data.registry import DatasetInfo, Split
from robusteval.errors import UserError


class Layout(Protocol):
    """What each layout's module has."""

    def subfolders(self, info: DatasetInfo) -> tuple[str, ...]:
        """Where the files usually are below a data folder."""

    def expected(self, info: DatasetInfo, split: Split) -> str:
        """What a missing-data message says was looked for."""

    def read(self, folder: Path, info: DatasetInfo, split: Split) -> Arrays | None:
        """The arrays of a split, None if none of its files are in exactly this folder."""


LAYOUTS: tuple[Layout, ...] = (binary, pickles, parquet, npz)
"""In the order in which they are tried."""


def read(root: Path, info: DatasetInfo, split: Split, *, download: bool = False) -> Arrays:
    """The arrays of a split, from the first layout whose files are in the folder or in a usual subfolder of it.

    Files that are there but incomplete or damaged are an error, never a reason to try the next layout.

    Raises:
        UserError: nothing found, something found that cannot be used, or a failed download.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file; allowed: the folder that holds the data")
    try:
        for layout in LAYOUTS:
            for folder in _folders(root, info, layout):
                found = layout.read(folder, info, split)
                if found is not None:
                    return found
        if download:
            return pickles.download(root, info, split)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read or written ({error.strerror or error})") from None
    looked = "; ".join(layout.expected(info, split) for layout in LAYOUTS)
    raise UserError(
        f"{info.name} {split}: not found in {root}; looked for {looked}; "
        f"name another folder with --data-dir or ROBUSTEVAL_DATA, or run `robusteval data get {info.name}`"
    )


def _folders(root: Path, info: DatasetInfo, layout: Layout) -> Iterator[Path]:
    """The existing folders a layout's files may be in: the folder itself, one named after the set, and below these."""
    dashed = info.family.replace("cifar", "cifar-")
    for base in (root, *(root / name for name in (info.name, dashed, dashed.upper(), info.family.upper()))):
        for folder in (base, *(base / name for name in layout.subfolders(info))):
            if folder.is_dir():
                yield folder
