"""What `ls` lists, as rows for people and as entries for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robusteval.config import load_suite, shipped

FLOPS = "flops: of training with default options, as a multiple of standard; after a +: of the teacher, trained first"


class Listing(NamedTuple):
    """A list.

    Attributes:
        head: names of the columns.
        rows: a row for each entry.
        entries: what JSON gets of each; fractions in [0, 1], None where missing.
        note: what is said under the table.
    """

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    entries: Sequence[Mapping[str, Any]]
    note: str = ""


def methods() -> Listing:
    """The methods with what their training costs."""
    from robusteval.methods import METHODS

    rows, entries = [], []
    for name, method in METHODS.items():
        card, default = method.card, method()
        teacher, own = default.teacher(), default.passes().flops
        taught = teacher.passes().flops if teacher else None
        flops = f"{own:.2f}" + ("" if taught is None else f"+{taught:.2f}")
        first, *others = card.authors.split(",")
        source = f"{card.title} ({first}{' et al.' if others else ''}, {card.venue} {card.year})"
        rows.append((name, flops, " ".join(default.branches), default.deployed, source))
        entries.append(
            {
                "method": name,
                "flops": own,
                "teacher_flops": taught,
                "branches": default.branches,
                "deployed": default.deployed,
                "title": card.title,
                "authors": card.authors,
                "venue": card.venue,
                "year": card.year,
                "url": card.url,
            }
        )
    note = (
        "flops: of training with default options, as a multiple of standard; after a +: of the teacher, trained first"
    )
    return Listing(("method", "flops", "branches", "deployed", "paper"), rows, entries, note)


def tasks() -> Listing:
    """The tasks with the first line on what each measures."""
    from robusteval.tasks import TASKS

    rows = [(name, (task.__doc__ or "").splitlines()[0]) for name, task in TASKS.items()]
    return _plain(("task", "measures"), rows)


def datasets() -> Listing:
    """The data sets with their sizes."""
    from robusteval.data import DATASETS

    rows, entries = [], []
    for name, info in DATASETS.items():
        train, test, classes = info.sizes["train"], info.sizes["test"], len(info.classes)
        rows.append((name, str(train), str(test), str(classes), info.description))
        sizes = {"train": train, "test": test, "classes": classes}
        entries.append({"dataset": name, **sizes, "description": info.description})
    return Listing(("data set", "train", "test", "classes", "description"), rows, entries)


def models() -> Listing:
    """The networks."""
    from robusteval.models import MODELS

    rows = [(name, info.description, info.paper) for name, info in MODELS.items()]
    return _plain(("model", "description", "paper"), rows)


def corruptions() -> Listing:
    """The corruptions with their roles in the benchmark."""
    from robusteval.corruptions import CBAR, CORRUPTIONS, HELD_OUT, adapter

    roles = ((CORRUPTIONS, "one of the 15"), (HELD_OUT, "held out"), (CBAR, "CIFAR-10-C-bar"), (adapter.NAMES, "other"))
    rows = [(name, role) for names, role in roles for name in names]
    return _plain(("corruption", "role"), rows)._replace(note=f"note: {adapter.NOTE}")


def suites() -> Listing:
    """The shipped suites with how many cells they have."""
    rows, entries = [], []
    for name in shipped():
        suite = load_suite(name)
        cells = len(suite.datasets) * len(suite.architectures) * len(suite.methods) * len(suite.seeds)
        rows.append((name, str(cells), suite.description))
        entries.append({"suite": name, "cells": cells, "description": suite.description})
    return Listing(("suite", "cells", "description"), rows, entries)


def _plain(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Listing:
    """A list whose entries are its rows."""
    return Listing(head, rows, [dict(zip(head, row, strict=True)) for row in rows])
