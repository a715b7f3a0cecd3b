"""``ls``: what there is."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from robusteval.cli.arguments import RESULTS, Flag, Out
from robusteval.cli.cards import markdown_table, write_card
from robusteval.cli.output import line, table
from robusteval.cli.summary import skipped
from robusteval.config import load_suite, shipped
from robusteval.errors import UserError, unknown
from robusteval.store import find_runs


def ls(
    what: Literal["methods", "tasks", "datasets", "models", "corruptions", "suites", "runs"],
    /,
    *,
    card: str | None = None,
    markdown: Flag = False,
    out: Out = RESULTS,
) -> int:
    """List methods, tasks, datasets, models, corruptions, suites or runs; `robusteval show NAME` tells more of one.

    Runs that cannot be read are named and left out; the exit code is then 1.

    Args:
        what: What to list; runs are those in `--out`.
        card: With `methods`: show the card of this one: paper, branches, expected passes and FLOPs, deviations and
            published numbers.
        markdown: With `methods`: print them as the table of the README.
    """
    for given, option in ((card is not None, "--card"), (markdown, "--markdown")):
        if given and what != "methods":
            raise UserError(f"ls {what}: {option} is of methods; allowed: robusteval ls methods {option}")
    if card is not None and markdown:
        raise UserError("ls methods: --card and --markdown ask for different things; allowed: one of them")
    if card is not None:
        _card(card)
        return 0
    if markdown:
        line(markdown_table())
        return 0
    if what == "runs":
        return _runs(out)
    listings: Mapping[str, Callable[[], None]] = {
        "methods": _methods,
        "tasks": _tasks,
        "datasets": _datasets,
        "models": _models,
        "corruptions": _corruptions,
        "suites": _suites,
    }
    listings[what]()
    return 0


def _methods() -> None:
    from robusteval.methods import METHODS

    rows = []
    for name, method in METHODS.items():
        card = method.card
        default = method()
        teacher = default.teacher()
        flops = f"{default.passes().flops:.2f}" + (f"+{teacher.passes().flops:.2f}" if teacher else "")
        first, *others = card.authors.split(",")
        source = f"{card.title} ({first}{' et al.' if others else ''}, {card.venue} {card.year})"
        rows.append((name, flops, " ".join(default.branches), default.deployed, source))
    table(("method", "flops", "branches", "deployed", "paper"), rows)
    line("flops: of training with default options, as a multiple of standard; after a +: of the teacher, trained first")


def _card(name: str) -> None:
    from robusteval.methods import METHODS

    if name not in METHODS:
        raise unknown("--card", "method", name, METHODS)
    write_card(name)


def _tasks() -> None:
    from robusteval.tasks import TASKS

    rows = [(name, (task.__doc__ or "").splitlines()[0]) for name, task in TASKS.items()]
    table(("task", "measures"), rows)


def _datasets() -> None:
    from robusteval.data import DATASETS

    rows = [
        (name, str(info.sizes["train"]), str(info.sizes["test"]), str(len(info.classes)), info.description)
        for name, info in DATASETS.items()
    ]
    table(("data set", "train", "test", "classes", "description"), rows)


def _models() -> None:
    from robusteval.models import MODELS

    table(("model", "description", "paper"), [(name, info.description, info.paper) for name, info in MODELS.items()])


def _corruptions() -> None:
    from robusteval.corruptions import CBAR, CORRUPTIONS, HELD_OUT, adapter

    roles = ((CORRUPTIONS, "one of the 15"), (HELD_OUT, "held out"), (CBAR, "CIFAR-10-C-bar"), (adapter.NAMES, "other"))
    table(("corruption", "role"), [(name, role) for names, role in roles for name in names])
    line(f"note: {adapter.NOTE}")


def _suites() -> None:
    rows = []
    for name in shipped():
        suite = load_suite(name)
        cells = len(suite.datasets) * len(suite.architectures) * len(suite.methods) * len(suite.seeds)
        rows.append((name, str(cells), suite.description))
    table(("suite", "cells", "description"), rows)


def _runs(out: Path) -> int:
    damaged: list[UserError] = []
    rows = [
        (stored.run.id, stored.run.status, stored.run.label, " ".join(sorted({task.task for task in stored.tasks})))
        for stored in find_runs(out, skip=lambda _, error: damaged.append(error))
    ]
    table(("run", "status", "label", "judged by"), rows)
    return skipped(damaged)
