"""``compare``: two runs, configurations or results, image by image."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from robusteval.cli.arguments import RESULTS, Flag, Json, Out
from robusteval.cli.output import line, results
from robusteval.cli.summary import skipped
from robusteval.errors import UserError, unknown
from robusteval.records import Run
from robusteval.store import StoredRun, find_runs


def compare(
    a: str,
    b: str | None = None,
    /,
    *,
    branch: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    out: Out = RESULTS,
    corruptions: Flag = False,
    as_json: Json = False,
    markdown: Flag = False,
) -> int:
    """Compare two runs, methods or results image by image: what B gains or loses, and whether that is chance.

    Each of A and B is a run's id (its beginning will do), a label or a method's name, all in `--out` or as NAME@FOLDER
    in another folder, or a folder: a run's, or one with runs. Two methods face each other with all their seeds; in
    folders with several, the same data set, architecture, label and seed face each other. Numbers that are not of the
    same thing (other images, attack, corruptions or task version, doubtful ones) are shown but never subtracted.

    The BatchNorm branches that are deployed face each other, and apart from them the others of one name. `--branch`
    compares others: given once, the branch of that name of A and B; given twice, that of A and that of B, which may
    then be left out, to compare two branches of A.

    Runs that cannot be read are named and left out; the exit code is then 1. It does not depend on what is better or
    worse: that is for `robusteval check`.

    Args:
        a: What to compare.
        b: What to compare it with.
        branch: BatchNorm branch, by default the one that the run deploys; a second one is B's.
        corruptions: Show each corruption, over its severities, beside the mean.
        markdown: Print Markdown, for a comment on a pull request.
    """
    if as_json and markdown:
        raise UserError("compare: --json and --markdown ask for different things; allowed: one of them")
    if len(branch) > 2:
        raise UserError(f"--branch: given {len(branch)} times; allowed: once, or twice, for A and for B")
    if b is None and len({*branch}) < 2:
        raise UserError("compare: what is A to be compared with?; allowed: B, or two branches of A by --branch, twice")
    shelf = _Shelf()
    first = shelf.pick(a, out)
    second = first if b is None else shelf.pick(b, out)
    if not first.runs or not second.runs:
        return skipped(shelf.refused.values())
    from robusteval import comparison

    labels = [{stored.run.label for stored in side.runs} for side in (first, second)]
    # Results hold what belongs together by name; what was named, or has one name, is meant as a whole.
    alone = all(len(found) == 1 for found in labels)
    results_of_one = labels[0] == labels[1] and (first.results or second.results)
    by: comparison.By = "side" if alone and not results_of_one else "cell"
    found = comparison.compare(
        first.runs,
        second.runs,
        by=by,
        branches=(branch[0], branch[-1]) if branch else (None, None),
        beside=shelf.seen,
        each_corruption=corruptions,
    )
    if not found.pairs:
        like = "data set and architecture" if by == "side" else "data set, architecture, label and seed"
        hint = "" if by == "side" else "; allowed: also ids or labels, which need not be alike"
        raise UserError(f"compare: nothing in {a} has the {like} of anything in {b or a}{hint}")
    if as_json:
        line(comparison.as_json(found))
    elif markdown:
        line(comparison.as_markdown(found).rstrip())
    else:
        results().print(comparison.as_terminal(found))
    return skipped([*shelf.refused.values(), *map(UserError, found.unreadable)])


class _Picked(NamedTuple):
    """What a name stands for.

    Attributes:
        runs: none if those it stands for cannot be read.
        results: whether it is a folder with several runs.
    """

    runs: list[StoredRun]
    results: bool = False


class _Shelf:
    """The runs in folders, each folder read once.

    Attributes:
        refused: the folders of runs that could not be read, and why.
    """

    def __init__(self) -> None:
        self.refused: dict[Path, UserError] = {}
        self._folders: dict[Path, list[StoredRun]] = {}

    @property
    def seen(self) -> list[StoredRun]:
        """All runs that were read."""
        return [stored for runs in self._folders.values() for stored in runs]

    def pick(self, name: str, out: Path) -> _Picked:
        """What a name stands for: a folder if it is a path, else a run of ``out`` or of another folder.

        Raises:
            UserError: it stands for nothing.
        """
        path = Path(name)
        if path.is_dir() and (path.is_absolute() or len(path.parts) != 1):
            return self._of_folder(path)
        found = self._matching(name, out)
        if found:
            return _Picked(found)
        if path.is_dir():
            return self._of_folder(path)
        head, _, folder = name.rpartition("@")
        if head and Path(folder).is_dir():
            return self._named(head, Path(folder))
        return self._named(name, out)

    def _of_folder(self, path: Path) -> _Picked:
        found = self._read(path)
        if not found and not any(folder.is_relative_to(path.resolve()) for folder in self.refused):
            raise UserError(f"{path}: no runs here; allowed: a run's folder, one with runs, or a name in --out")
        return _Picked(found, results=len(found) > 1)

    def _named(self, name: str, folder: Path) -> _Picked:
        found = self._matching(name, folder)
        if found or any(refused.name.startswith(name) for refused in self.refused):
            return _Picked(found)
        runs = self._read(folder)
        skipped(self.refused.values())
        if not runs:
            raise UserError(
                f"compare: {name!r}: no such folder, and no runs in {folder}; allowed: a folder with runs, "
                "NAME@FOLDER, or a run, label or method in --out"
            )
        known = {part for stored in runs for part in (stored.run.id, stored.run.label, stored.run.method)}
        raise unknown(f"compare (runs in {folder})", "folder, run, label or method", name, known)

    def _matching(self, name: str, folder: Path) -> list[StoredRun]:
        """The runs with that id or label, of that method, or whose id begins so, whichever comes first.

        Raises:
            UserError: several labels are of that method, or several runs begin so.
        """
        runs = self._read(folder)
        ways: tuple[tuple[str, Callable[[Run], bool], Callable[[Run], str]], ...] = (
            ("", lambda run: run.id == name, lambda run: ""),
            ("", lambda run: run.label == name, lambda run: ""),
            ("labels are of this method", lambda run: run.method == name, lambda run: run.label),
            ("runs begin so", lambda run: run.id.startswith(name), lambda run: run.id),
        )
        for several, way, told in ways:
            found = [stored for stored in runs if way(stored.run)]
            choices = sorted({told(stored.run) for stored in found})
            if len(choices) > 1:
                raise UserError(f"compare (runs in {folder}): {name!r}: several {several}: {', '.join(choices)}")
            if found:
                return found
        return []

    def _read(self, folder: Path) -> list[StoredRun]:
        key = folder.resolve()
        if key not in self._folders:
            skip = self.refused
            self._folders[key] = find_runs(folder, skip=lambda path, error: skip.update({path.resolve(): error}))
        return self._folders[key]
