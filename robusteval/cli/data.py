"""``data``: get, verify and export data sets."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App

from robusteval.cli.arguments import DataDir, Limit
from robusteval.cli.output import line, table

if TYPE_CHECKING:
    from robusteval.data import Verification

data = App(help="Get, verify and export data sets.")


@data.command
def get(name: str, /, *, data_dir: DataDir = None) -> None:
    """Download a data set where it is missing, and verify it.

    Args:
        name: Name of a data set (`robusteval ls datasets`).
    """
    _verified(name, data_dir, download=True)


@data.command
def verify(name: str = "cifar10-sample", /, *, data_dir: DataDir = None) -> int:
    """Read a data set whole and compare its content with the known digest; the exit code is 1 if it differs.

    Args:
        name: Name of a data set (`robusteval ls datasets`).
    """
    return 0 if _verified(name, data_dir, download=False) else 1


@data.command
def export(
    name: str,
    folder: Path,
    /,
    *,
    layout: Literal["npz", "binary", "png"] = "npz",
    data_dir: DataDir = None,
    limit: Limit = None,
) -> None:
    """Write a data set as files that other tools read.

    Args:
        name: Name of a data set (`robusteval ls datasets`).
        folder: Where to; nothing that exists is overwritten.
        layout: npz (arrays), binary (the official CIFAR files) or png (a folder per class).
    """
    from robusteval.data import export as write
    from robusteval.data import load
    from robusteval.data.registry import SPLITS

    sets = [load(name, split, data_dir=data_dir).first(limit) for split in SPLITS]
    for images in sets:
        paths = write(images, folder, layout)
        line(f"{images.split}: {len(images.labels)} images in {len(paths)} files in {folder}")


def _verified(name: str, data_dir: Path | None, *, download: bool) -> bool:
    """Whether all splits are the known ones; prints what was found."""
    from robusteval.data import verify as look
    from robusteval.data.registry import SPLITS

    found = [look(name, split, data_dir=data_dir, download=download) for split in SPLITS]
    table(("data set", "split", "images", "verdict", "digest", "source"), [_row(one) for one in found])
    return all(one.verified for one in found)


def _row(found: Verification) -> tuple[str, ...]:
    """What was found, in words."""
    verdict = "verified" if found.verified else "unverified"
    return found.name, found.split, str(found.n), verdict, found.digest[:16], found.source
