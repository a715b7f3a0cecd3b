"""``show``: one thing in full."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from robusteval.cli.arguments import RESULTS, Json, Out
from robusteval.cli.output import document, line
from robusteval.cli.pages import known, pages
from robusteval.cli.run_page import run_data, write_run
from robusteval.cli.runs import matching
from robusteval.tags import read_label


def show(name: str, /, *, out: Out = RESULTS, as_json: Json = False) -> None:
    """Show a run with its numbers, or what `ls` lists: a method or task with its options, a model, a data set, ...

    Args:
        name: Id of a run in `--out` (its beginning will do), name of a method, task, model, data set, corruption or
            suite, or `training` for the options of training.
    """
    found = pages(name)
    if found:
        if as_json:
            document({page.kind: page.data() for page in found})
            return
        for position, page in enumerate(found):
            if position:
                line("")
            page.write()
        return
    stored = matching(out, name, where="show", besides=known())
    label = read_label(stored.folder)
    if as_json:
        document(run_data(stored, label))
    else:
        write_run(stored, label)
