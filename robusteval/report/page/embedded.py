"""The data in a page that its script reads: what to search and filter by, and the comparisons of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from robusteval.report.board.published import Cards
from robusteval.report.page.sections import Section
from robusteval.report.text import clean
from robusteval.tags import Label


def embedded(parts: Sequence[Section], cards: Cards, labels: Mapping[int, Label]) -> str:
    """What the script reads, as JSON that ends no element.

    Args:
        parts: the data sets in the order of their tables.
        cards: what is known about the methods; their papers are searched.
        labels: identity of a run -> its tags.
    """
    methods = dict.fromkeys(group.head.stored.run.method for part in parts for group in part.groups)
    papers = {
        clean(name, 100): " ".join(
            clean(cards[name].get(key, ""), 200) for key in ("title", "authors", "venue", "year")
        )
        for name in methods
        if name in cards
    }
    boards = [{"name": clean(part.dataset, 60), "rows": listed(part, labels), **part.pairs} for part in parts]
    written = json.dumps({"papers": papers, "boards": boards}, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def listed(section: Section, labels: Mapping[int, Label]) -> list[list[object]]:
    """What the script searches and filters by, for each group: name, method, architecture, branches, verdict, tags.

    Args:
        section: one data set.
        labels: identity of a run -> its tags.
    """
    found: list[list[object]] = []
    for group in section.groups:
        run = group.head.stored.run
        texts = (section.looks[id(group.head.stored)].name, run.method, run.architecture)
        verdict = run.status if run.status != "done" else group.head.trust
        runs = [row.stored for row in group.rows if row.kind == "run" and row.deployed]
        tags = dict.fromkeys(clean(tag, 100) for stored in runs for tag in labels[id(stored)].tags)
        found.append([*(clean(part, 100) for part in texts), len(run.branches), verdict, list(tags)])
    return found
