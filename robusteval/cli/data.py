"""``data``: get, verify, export, corrupt and show data sets."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from robusteval.cli.arguments import DataDir, Flag, Limit, Seed, whole
from robusteval.cli.output import errors, line, table
from robusteval.display import display_for
from robusteval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robusteval.corruptions.files import Verdict
    from robusteval.corruptions.writer import Written
    from robusteval.data import Verification

data = App(help="Get, verify, export, corrupt and show data sets.")

Names = Annotated[tuple[str, ...], Parameter(metavar="NAME", show_default=False)]

ALL = "all"
"""The name that stands for the fifteen corruptions and the four held out."""

BAR = "c-bar"
"""The name that stands for the ten of CIFAR-10-C-bar."""


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

    Published corrupted images in the data folder are compared with the published digests too.

    Args:
        name: Name of a data set (`robusteval ls datasets`), or a folder that `robusteval data corrupt` wrote.
    """
    from robusteval.corruptions import files
    from robusteval.corruptions.contents import read_contents
    from robusteval.data.sets import data_folder

    contents = read_contents(Path(name))
    if contents is not None:
        line(f"{contents.name}: generator {contents.generator}, table {contents.table}, seed {contents.seed}")
        return 0 if _right(files.verified_generated(Path(name), contents)) else 1
    right = _verified(name, data_dir, download=False)
    root = data_folder(data_dir)
    if files.available(root, name):
        right &= _right(files.verified(root, name))
    return 0 if right else 1


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


@data.command
def corrupt(
    name: str,
    /,
    *,
    out: Path,
    corruption: Names = (),
    severity: Annotated[tuple[int, ...], Parameter(converter=whole, metavar="N", show_default=False)] = (),
    exact: Flag = False,
    seed: Seed = 0,
    data_dir: DataDir = None,
    limit: Limit = None,
) -> None:
    """Write corrupted test images as files in the layout of CIFAR-10-C: NAME.npy, labels.npy, manifest.json.

    They are called cifar10-c-gen and the like, whatever the folder: only published files are CIFAR-10-C. Files that
    are there already are kept, so that an interrupted command can be given again. In a folder of that name in the data
    folder, evaluations with the same seed read them instead of making them.

    Args:
        name: Name of a data set (`robusteval ls datasets`).
        out: Folder to write to; nothing that does not come from here is overwritten.
        corruption: A corruption (`robusteval ls corruptions`), all for the 15 and the 4 held out, or c-bar for the ten
            of CIFAR-10-C-bar, in a folder of their own; may be repeated. By default the 15.
        severity: 1 (weak) to 5; may be repeated. By default all five, which is the published layout; with fewer, a file
            has only their rows, in ascending order, and the manifest says which.
        exact: Fail unless each file without random draws is the published one to the byte. No pixel depends on it:
            there is only one way of generating, and it is the exact one.
        seed: Of all random draws.
    """
    from robusteval.corruptions import CORRUPTIONS
    from robusteval.corruptions.published import SEVERITIES
    from robusteval.corruptions.request import Request
    from robusteval.corruptions.writer import write
    from robusteval.data import load

    names = _names(corruption) or CORRUPTIONS
    request = Request(names, tuple(sorted(severity)) or SEVERITIES, seed, exact)
    images = load(name, "test", data_dir=data_dir).first(limit)
    with display_for(errors()) as display:
        display.cell(f"{name} to {out}")
        rows = [_written(one) for one in write(images, out, request, progress=display)]
    table(("file", "", "sha256", "equals the published file"), rows)


@data.command
def show(
    name: str = "cifar10-sample",
    /,
    *,
    out: Path = Path("corruptions.png"),
    corruption: Names = (),
    image: Annotated[int, Parameter(converter=whole)] = 0,
    seed: Seed = 0,
    data_dir: DataDir = None,
) -> None:
    """Draw a contact sheet: one photograph under each corruption at each severity.

    Args:
        name: Name of a data set (`robusteval ls datasets`); its test images are used.
        out: File to write, .png or .svg.
        corruption: A corruption (`robusteval ls corruptions`), all for the 15 and the 4 held out, or c-bar for the ten
            of CIFAR-10-C-bar; may be repeated. By default all.
        image: Which photograph, from 0.
        seed: Of all random draws.
    """
    from robusteval.manifest import replace

    if out.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"--out: {out} is no picture; allowed: a name that ends in .png or .svg")
    from robusteval.corruptions.sheet import sheet
    from robusteval.data import load
    from robusteval.report.figures.style import png, svg

    images = load(name, "test", data_dir=data_dir)
    figure = sheet(images, _names(corruption or (ALL,)), image=image, seed=seed)
    replace(out, png(figure) if out.suffix.lower() == ".png" else svg(figure).encode())
    line(f"{out}")


def _names(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The corruptions that are meant, each once."""
    from robusteval.corruptions import CBAR, CORRUPTIONS, HELD_OUT

    groups = {ALL: (*CORRUPTIONS, *HELD_OUT), BAR: CBAR}
    return tuple(dict.fromkeys(one for name in asked for one in groups.get(name, (name,))))


def _written(found: Written) -> tuple[str, ...]:
    """A file, in words."""
    equal = {True: "yes", False: "no", None: "not comparable"}[found.equal]
    return found.path.name, "kept" if found.kept else "written", found.sha256[:16], equal


def _right(found: Iterable[Verdict]) -> bool:
    """Whether all files are what they should be; prints what was found."""
    verdicts = list(found)
    table(("file", "verdict", "digest"), [(str(one.path), one.verdict, one.digest) for one in verdicts])
    return all(one.right for one in verdicts)


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
