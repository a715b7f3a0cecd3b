"""Words for people and programs: texts that are safe to show, measurements as a row or as a line of JSON."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from robusteval.records import Measurement

_ACTING = ("Cc", "Cn", "Cs", "Zl", "Zp")
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: object, limit: int | None = None) -> str:
    r"""The text on one line, without characters that act instead of show, cut to ``limit`` characters.

    Control characters (a terminal obeys them, XML forbids them), lone surrogates and other code points that
    are no characters (no encoding takes them) and direction marks (they reorder the text around them) become U+FFFD.

    >>> clean("a\x1b[31m" + chr(10) + "b"), clean("abcdef", 4)
    ('a�[31m b', 'abc…')
    """
    plain = str(text)
    shown = plain if plain.isprintable() else "".join(map(_shown, plain))
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def _shown(character: str) -> str:
    if character in "\t\n\r":
        return " "
    return "\ufffd" if character in _BIDI or unicodedata.category(character) in _ACTING else character


def as_object(measurement: Measurement) -> dict[str, Any]:
    """A measurement as what JSON holds; fractions stay fractions, a missing value is None."""
    kept = {"task", "metric", "value", "n", "unit", "low", "high", "where", "trust", "reasons", "note"}
    return measurement.model_dump(include=kept)


def as_json(measurement: Measurement) -> str:
    """A measurement as one line of JSON; a missing value is null."""
    return json.dumps(as_object(measurement), allow_nan=False)


def as_row(measurement: Measurement) -> tuple[str, ...]:
    """Task, metric, value, low, high, n, where: fractions as percent, other numbers with four significant digits."""
    percent = measurement.unit == "fraction"
    numbers = (measurement.value, measurement.low, measurement.high)
    shown = ["missing" if x is None else f"{100 * x:.2f} %" if percent else f"{x:.4g}" for x in numbers]
    if measurement.value is not None and measurement.low is None and measurement.high is None:
        shown[1:] = ["", ""]  # not missing: it has no interval
    where = " ".join(f"{key}={value}" for key, value in measurement.where.items())
    return (measurement.task, measurement.metric, *shown, str(measurement.n), where)


def verdict(measurement: Measurement) -> str:
    """The trust in a number as tables show it: nothing where there is nothing to check."""
    return "" if measurement.trust == "plain" else measurement.trust


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows in columns as wide as their widest cell, a row a line; the last column is as long as it likes.

    >>> print(aligned([("a", "b"), ("long", "c")]))
    a     b
    long  c
    """
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
