"""``tag``: names and a note for runs."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from robusteval.cli.arguments import RESULTS, Json, Out
from robusteval.cli.output import document, table
from robusteval.cli.runs import matching
from robusteval.errors import UserError
from robusteval.tags import changed, read_label, write_label


def tag(
    *runs: str,
    add: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    remove: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    note: str | None = None,
    out: Out = RESULTS,
    as_json: Json = False,
) -> None:
    """Give runs tags and a note, or take them away; then print those that they have.

    They are shown by `ls runs` and `show`; `report --tag NAME` and `ls runs --tag NAME` keep runs with a tag. Records,
    numbers and ids of the runs stay as they are.

    Args:
        runs: Ids of runs in `--out`; their beginnings will do.
        add: A tag; may be repeated.
        remove: A tag to take away; may be repeated.
        note: A note instead of the one that is there; "" takes it away.
    """
    if not runs:
        raise UserError("tag: names no run; allowed: ids of runs or their beginnings (`robusteval ls runs`)")
    if both := {*add} & {*remove}:
        raise UserError(f"tag: --add and --remove both name {min(both)!r}; allowed: one of them")
    found = {name: matching(out, name, where="tag").folder for name in runs}
    # All are checked before the first is written.
    labels = {
        folder: changed(read_label(folder), add=add, drop=remove, note=note, where=f"tag {folder.name}")
        for folder in found.values()
    }
    if add or remove or note is not None:
        for folder, label in labels.items():
            write_label(folder, label)
    if as_json:
        document([{"run": folder.name, "tags": label.tags, "note": label.note} for folder, label in labels.items()])
    else:
        rows = [(folder.name, ", ".join(label.tags), label.note) for folder, label in labels.items()]
        table(("run", "tags", "note"), rows)
