"""Texts and numbers as HTML, for what a page has thousands of: a template would take a call or two for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from markupsafe import Markup, escape

from robusteval.report.text import MISSING, clean, percent, span

SHORT = 200
"""Texts up to so many characters are remembered; most come again in every row."""


def text(value: object, limit: int | None = None) -> str:
    """A hostile text such that it shows and nothing else, cut to ``limit`` characters.

    >>> text("<b>" + chr(0)), text("abcdef", 4), text(3)
    ('&lt;b&gt;�', 'abc…', '3')
    """
    words = str(value)
    return _remembered(words, limit) if len(words) <= SHORT else _escaped(words, limit)


def _escaped(words: str, limit: int | None) -> str:
    return str(escape(clean(words, limit)))


_remembered = lru_cache(maxsize=20_000)(_escaped)


def breaks(name: object) -> str:
    """A name that may be broken after an underscore."""
    return text(name).replace("_", "_<wbr>")


def facts(table: Mapping[str, object] | Iterable[tuple[str, object]]) -> Markup:
    """The entries of a list of facts: names with their texts.

    >>> print(facts({"epochs": 3}))
    <dt>epochs</dt><dd>3</dd>
    """
    pairs = table.items() if isinstance(table, Mapping) else table
    return Markup("".join(f"<dt>{text(name, 40)}</dt><dd>{text(value)}</dd>" for name, value in pairs))


def shade(value: float | None, low: float, high: float) -> int:
    """The step of a heat map cell's colour, from 0 to 20."""
    return 0 if value is None or high <= low else round(20 * (value - low) / (high - low))


def heat_cells(values: Iterable[float | None], low: float, high: float) -> Markup:
    """The cells of a line of a heat map."""
    return Markup(
        "".join(
            f'<td class="absent">{MISSING}</td>'
            if value is None
            else f'<td class="h{shade(value, low, high)}">{percent(value)}</td>'
            for value in values
        )
    )


def interval(low: float | None, high: float | None) -> str:
    """An interval as small print, nothing without one."""
    ends = span(low, high)
    return f"<small>{ends}</small>" if ends else ""
