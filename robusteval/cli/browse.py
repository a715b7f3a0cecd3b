"""``ls``: what there is."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from robusteval.cli import listings
from robusteval.cli.arguments import RESULTS, Flag, Json, Out
from robusteval.cli.cards import markdown_table, write_card
from robusteval.cli.listings import Listing
from robusteval.cli.output import document, line, table
from robusteval.cli.runs import runs
from robusteval.cli.summary import skipped
from robusteval.errors import UserError, unknown

KINDS: Mapping[str, Callable[[], Listing]] = {
    "methods": listings.methods,
    "tasks": listings.tasks,
    "datasets": listings.datasets,
    "models": listings.models,
    "corruptions": listings.corruptions,
    "suites": listings.suites,
}


def ls(
    what: Literal["methods", "tasks", "datasets", "models", "corruptions", "suites", "runs"],
    /,
    *,
    card: str | None = None,
    markdown: Flag = False,
    tag: str | None = None,
    out: Out = RESULTS,
    as_json: Json = False,
) -> int:
    """List methods, tasks, datasets, models, corruptions, suites or runs; `robusteval show NAME` tells more of one.

    Runs that cannot be read are named and left out; the exit code is then 1.

    Args:
        what: What to list; runs are those in `--out`.
        card: With `methods`: show the card of this one: paper, branches, expected passes and FLOPs, deviations and
            published numbers.
        markdown: With `methods`: print them as the table of the README.
        tag: With `runs`: only those with this tag.
    """
    given = (
        ("--card", "methods", card is not None),
        ("--markdown", "methods", markdown),
        ("--tag", "runs", tag is not None),
        ("--json", what, as_json),
    )
    for option, of, there in given:
        if there and what != of:
            raise UserError(f"ls {what}: {option} is of {of}; allowed: robusteval ls {of} {option}")
    forms = [option for option, _, there in given if there and option != "--tag"]
    if len(forms) > 1:
        raise UserError(f"ls {what}: {' and '.join(forms)} ask for different things; allowed: one of them")
    if card is not None:
        _card(card)
        return 0
    if markdown:
        line(markdown_table())
        return 0
    damaged: list[UserError] = []
    listing = runs(out, tag=tag, skip=lambda _, error: damaged.append(error)) if what == "runs" else KINDS[what]()
    if as_json:
        document(listing.entries)
    else:
        table(listing.head, listing.rows)
        if listing.note:
            line(listing.note)
    return skipped(damaged)


def _card(name: str) -> None:
    from robusteval.methods import METHODS

    if name not in METHODS:
        raise unknown("--card", "method", name, METHODS)
    write_card(name)
