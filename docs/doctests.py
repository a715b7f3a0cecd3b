"""Shows doctests as code: where a docstring has them without a heading, Markdown would take ``>>>`` for a quotation."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Doctests(Extension):
    """Puts each doctest into a block of code."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Changes the docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
