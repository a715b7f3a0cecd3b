"""The leaderboard as JSON: the wide table, and what its columns mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from robusteval.report.board.columns import Column
from robusteval.report.board.leaderboard import Leaderboard, Part
from robusteval.report.files.frame import SCORE_PARTS, all_keys, column_names, wide_lines

SCHEMA = 1
"""Raised when the meaning of an entry changes."""

RANKING = (
    "rank is 1 + the number of rows that are significantly better in the column ranked by; rank_worst is the number of "
    "rows (ranked_of) less that of those that are significantly worse. Rows are compared image by image, if they were "
    "judged on the same images: by McNemar's exact test where an image is right or wrong, by paired t tests of means "
    "and H-scores, with the variance of seeds where there are several; Holm's correction makes all of a column's "
    "comparisons hold together with a probability of 95 %. Rows without outcomes, or with a doubtful number, have no "
    "rank."
)
"""How the ranks come about."""

_PARTS = {
    "low": "Lower end of the 95 % interval: for other test images, and for a mean other seeds.",
    "high": "Upper end of the 95 % interval.",
    "sd": "Standard deviation over seeds, of a mean over several.",
    "n": "Test images.",
    "trust": "ok: the checks of the attack found no doubt; flagged: they did; unchecked: they did not run; plain: no "
    "attack made the number.",
    "note": "What to know of the number, or why it is missing.",
}


def listing(found: Leaderboard) -> str:
    """The leaderboard as JSON text. Fractions in full precision; what is missing is null, never 0 or NaN."""
    lines = wide_lines(found)
    names = column_names(all_keys(lines))
    content = {
        "schema_version": SCHEMA,
        "ranking": RANKING,
        "score_parts": _PARTS,
        "scores": [_definition(column, names) for column in found.board.columns],
        "datasets": [_part(part, names) for part in found.parts],
        "rows": [{name: line.get(key) for key, name in names.items()} for line in lines],
    }
    return json.dumps(content, allow_nan=False, indent=1) + "\n"


def _definition(column: Column, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "column": names[column.key],
        "parts": {part: names[f"{column.key}_{part}"] for part in SCORE_PARTS},
        "label": column.label,
        "kind": column.kind,
        "better": "higher" if column.better > 0 else "lower",
        "definition": column.definition,
    }


def _part(part: Part, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "dataset": part.dataset,
        "ranked_by": None if part.ranking.column is None else names[part.ranking.column],
        "notes": [{"topic": note.topic, "text": note.text} for note in part.notes],
        "failures": [
            {"run": stored.run.id, "label": stored.run.label, "seed": stored.run.seed, "status": stored.run.status}
            | {"reason": reason}
            for stored, reason in part.failures
        ],
    }
