"""A comparison as one JSON document: fractions in full precision, null where there is no number."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from robusteval.comparison.compared import Comparison, Pair
from robusteval.comparison.sides import Side
from robusteval.store import StoredRun

SCHEMA = 1
"""Raised when a field's meaning changes."""


def as_json(comparison: Comparison) -> str:
    """The document; ``schema_version`` 1. Differences are B less A, ratios B over A."""
    document = {
        "schema_version": SCHEMA,
        "level": comparison.level,
        "tests": comparison.tests,
        "tests_of_other_branches": comparison.tests_of_others,
        "pairs": [_pair(pair) for pair in comparison.pairs],
        "only_in_a": [_run(stored) for stored in comparison.only_first],
        "only_in_b": [_run(stored) for stored in comparison.only_second],
        "unreadable": list(comparison.unreadable),
    }
    return json.dumps(document, allow_nan=False, indent=1)


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "a": _side(pair.first),
        "b": _side(pair.second),
        "same_weights": pair.same_weights,
        "branches": {"a": pair.first.branch, "b": pair.second.branch},
        "scores": [_sides(asdict(line)) for line in pair.scores],
        "other_branches": [
            {"a": one.first, "b": one.second, "scores": [_sides(asdict(line)) for line in one.scores]}
            for one in pair.others
        ],
        "costs": [_sides(asdict(cost)) for cost in pair.costs],
        "changes": [
            {"title": section.title, "changes": [_sides(asdict(change)) for change in section.changes]}
            for section in pair.changes
        ],
        "warnings": [caution._asdict() for caution in pair.cautions],
    }


def _sides(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the sides called as in the rest of the document."""
    names = {"first": "a", "second": "b", "first_only": "a_only", "second_only": "b_only"}
    return {names.get(name, name): value for name, value in fields.items()}


def _side(side: Side) -> dict[str, Any]:
    dataset, architecture = side.place
    return {
        "label": side.label,
        "dataset": dataset,
        "architecture": architecture,
        "runs": [_run(stored) for stored in side.runs],
    }


def _run(stored: StoredRun) -> dict[str, Any]:
    kept = {"id", "label", "method", "dataset", "architecture", "seed", "status", "weights_sha256"}
    return stored.run.model_dump(include=kept) | {"folder": str(stored.folder)}
