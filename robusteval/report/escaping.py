"""Hostile texts in Markdown: they show as they are, in what GitHub makes of Markdown and in the HTML inside of it."""

from __future__ import annotations

import re

from robusteval.report.text import clean

_ACTING = re.compile(
    r"[\\`*\[\]<>#|~$&@]"
    r"|(?<![^\W_])_+|_+(?![^\W_])"  # within a word an underscore is a letter like others
    r"|:(?=//)|(?<=www)\."
    r"|\A(?:[-+](?=\s|\Z)|[-=]+(?=\s*\Z)|\d(?=\d{0,8}[.)](?:\s|\Z)))",  # a list, a line, a heading
    re.IGNORECASE,
)
"""What Markdown and GitHub's extensions of it obey: in the middle of a line, and at its beginning."""


def escaped(text: object) -> str:
    """The text such that Markdown and HTML show it as it is, on one line, in the cell of a table, too.

    Entities are for what acts alone, so that most names stay readable in the source. Backslashes would be shorter, but
    in the HTML that Markdown may hold (``<summary>``) they are no more than backslashes.

    >>> escaped("pgd_at, k=0.2"), escaped("a|b"), escaped("<b> _x_"), escaped("1. -")
    ('pgd_at, k=0.2', 'a&#124;b', '&#60;b&#62; &#95;x&#95;', '&#49;. -')
    """
    return _ACTING.sub(lambda found: "".join(f"&#{ord(one)};" for one in found[0]), clean(text).strip())


def code(text: object) -> str:
    """The text as a name: within code GitHub takes nothing for a mention, an issue, a commit or an emoji.

    >>> code("@someone")
    '<code>&#64;someone</code>'
    """
    return f"<code>{escaped(text)}</code>"
