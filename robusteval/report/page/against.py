"""What the page's script needs to compare any two rows of a leaderboard: tests made here, facts that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robusteval.report.board.columns import Column
from robusteval.report.board.costs import trained
from robusteval.report.board.pairs import Compared, Samples, compared, singles
from robusteval.report.board.rows import Group, Row, judged_on
from robusteval.report.page.details import flat
from robusteval.report.text import clean

MOST = 150
"""So many rows of a data set, the first ones, can be compared on the page: pairs grow with the square of rows."""

FACT = 80
"""So many characters of a fact are shown."""

CLOCK = "Machine"
"""The topic whose facts must agree before seconds may be compared."""


def comparable(groups: Sequence[Group], columns: Sequence[Column], samples: Samples) -> dict[str, Any]:
    """The data behind the comparison of two rows of one data set, as plain lists to be written as JSON.

    ``images``: for each column, which images a row was judged on, as a number (null: unknown). ``pairs``: for each
    column the sets of rows on equal images: their places ``rows``, the number of images ``n``, and for each pair of
    them in the order (0, 1), (0, 2), ..., (1, 2), ... four whole numbers: difference (first less second) and the ends
    of its 95 % interval in units of 0.0001 (null: unknown), and `coded` p; for an error only ``minus``, the place of
    the column that it is 1 less. ``facts``: see `facts`. ``cost``: of each row FLOPs and seconds, null where unknown.
    ``seeds``: their numbers. ``rest``: how many rows are left out.

    Args:
        groups: of one data set in their order; the first `MOST` are compared.
        columns: the scores that are shown.
        samples: where outcomes are read.

    Raises:
        Damaged: a file of outcomes is not what was written.
    """
    few = groups[:MOST]
    places = {id(group.head): place for place, group in enumerate(few)}
    keys = [column.key for column in columns]
    pairs: list[Any] = []
    images: list[list[int | None]] = []
    for column in columns:
        codes: dict[Any, int] = {}
        found = [samples.of(singles(group), column) for group in few]
        images.append([None if one is None else codes.setdefault(one.images, len(codes)) for one in found])
        if column.kind == "error" and column.source in keys:
            pairs.append({"minus": keys.index(column.source)})
        else:
            pairs.append([_written(one, places) for one in compared(few, column, samples)])
    return {
        "images": images,
        "pairs": pairs,
        "facts": facts(few),
        "cost": [_cost(group.head) for group in few],
        "seeds": [len(singles(group)) for group in few],
        "rest": max(len(groups) - MOST, 0),
    }


def _written(one: Compared, places: Mapping[int, int]) -> dict[str, Any]:
    upper = np.triu_indices(len(one.groups), 1)
    difference, low, high, p = (matrix[upper].tolist() for matrix in one.pairs)
    quads = zip(map(_units, difference), map(_units, low), map(_units, high), map(coded, p), strict=True)
    rows = [places[id(group.head)] for group in one.groups]
    return {"rows": rows, "n": one.images[1], "tests": [part for quad in quads for part in quad]}


def _units(value: float) -> int | None:
    return round(1e4 * value) if math.isfinite(value) else None


def coded(p: float) -> int:
    """A p-value with two significant digits as a whole number: 100 k + m for m / 10^(k + 1), m from 10 to 99; 0 for 0.

    >>> coded(1.0), coded(0.034), coded(0.0996), coded(0.0)
    (10, 234, 110, 0)
    """
    if p <= 0:
        return 0
    digits, power = f"{p:.1e}".split("e")
    return 100 * -int(power) + int(digits.replace(".", ""))


def facts(groups: Sequence[Group]) -> dict[str, Any]:
    """What tells the rows apart beside their scores; what is the same for all of them is left out.

    ``names``: (topic, name) of each fact; ``texts``: the different texts of each; ``rows``: for each row the place of
    its text for each fact, or null where it has none.
    """
    tables = [_facts(group) for group in groups]
    names = [name for name in dict.fromkeys(name for table in tables for name in table) if _differs(name, tables)]
    texts = [list(dict.fromkeys(table[name] for table in tables if name in table)) for name in names]
    places = [{text: place for place, text in enumerate(of_name)} for of_name in texts]
    rows = [[places[i].get(table.get(name, "")) if name in table else None for i, name in enumerate(names)]
            for table in tables]  # fmt: skip
    return {"names": [[clean(part, 40) for part in name] for name in names], "texts": texts, "rows": rows}


def _differs(name: tuple[str, str], tables: Sequence[Mapping[tuple[str, str], str]]) -> bool:
    return len({table.get(name) for table in tables}) > 1


def _facts(group: Group) -> dict[tuple[str, str], str]:
    run, origin = group.head.stored.run, group.head.stored.run.provenance
    tests = [f"{test.n} of {test.name}, {test.digest[:10]}" for test in judged_on(group.head.stored)]
    found: dict[tuple[str, str], Any] = {
        ("Run", "method"): run.method,
        ("Run", "architecture"): run.architecture,
        ("Run", "deployed branch"): run.deployed,
        ("Run", "seeds"): ", ".join(map(str, group.head.seeds)),
        ("Run", "teacher"): run.teacher or "none",
    }
    found |= {("Options", name): text for name, text in flat(run.options)}
    found |= {("Training", name): text for name, text in flat(run.training)}
    found |= {
        ("Data", "trained on"): f"{run.train_data.n} of {run.train_data.name}, {run.train_data.digest[:10]}",
        ("Data", "judged on"): "; ".join(tests) or "nothing",
    }
    found |= {(CLOCK, name): getattr(origin, name) for name in ("device", "cpu", "threads", "precision")}
    found |= {
        ("Software", "robusteval"): f"{origin.robusteval} {(origin.commit or '')[:10]}".strip(),
        ("Software", "python"): origin.python,
        ("Software", "platform"): origin.platform,
    }
    found |= {("Software", name): version for name, version in origin.packages.items()}
    return {name: clean(text, FACT) for name, text in found.items()}


def _cost(row: Row) -> list[float | None]:
    """FLOPs and seconds of a whole training."""
    if row.cost is None or not trained(row.stored.run):
        return [None, None]
    seconds = row.cost.wall_s.get("train")
    return [float(f"{row.cost.flops:.4g}"), None if seconds is None else round(seconds, 2)]
