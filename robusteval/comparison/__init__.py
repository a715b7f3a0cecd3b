"""Two results held against each other, image by image; torch is never imported here.

>>> from pathlib import Path
>>> from robusteval.comparison import compare
>>> from robusteval.store import find_runs
>>> before, after = (find_runs(Path(folder)) for folder in ("results-before", "results-after"))
>>> comparison = compare(before, after)
>>> [line.label for pair in comparison.pairs for line in pair.scores if line.verdict == "worse"]
[]

`compare` returns plain frozen data; `as_terminal`, `as_markdown` and `as_json` show it.
"""

from __future__ import annotations

from robusteval.comparison.branches import Facing
from robusteval.comparison.cautions import Caution
from robusteval.comparison.changes import Change, Section
from robusteval.comparison.compared import Comparison, Pair, compare
from robusteval.comparison.document import as_json
from robusteval.comparison.expenses import Expense
from robusteval.comparison.lines import ScoreLine, Verdict
from robusteval.comparison.markdown import as_markdown
from robusteval.comparison.sides import By, Matching, Side, match
from robusteval.comparison.terminal import as_terminal

__all__ = [
    "By",
    "Caution",
    "Change",
    "Comparison",
    "Expense",
    "Facing",
    "Matching",
    "Pair",
    "ScoreLine",
    "Section",
    "Side",
    "Verdict",
    "as_json",
    "as_markdown",
    "as_terminal",
    "compare",
    "match",
]
