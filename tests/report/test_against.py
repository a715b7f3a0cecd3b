"""The numbers behind the comparison of two rows, decoded and computed anew from the outcomes."""

from __future__ import annotations

import math
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from robusteval.report.board.leaderboard import leaderboard
from robusteval.report.board.pairs import Samples, singles
from robusteval.report.page.against import MOST, coded, comparable
from robusteval.store import StoredRun


def decoded(code: int) -> float:
    return code % 100 / 10 ** (code // 100 + 1)


@pytest.mark.parametrize("p", [1.0, 0.5, 0.0999, 0.05, 0.0123, 3.14e-7, 9.96e-100, 1e-300, 0.0])
def test_p_values_keep_two_digits(p: float) -> None:
    assert decoded(coded(p)) == pytest.approx(p, rel=0.051, abs=0)


def test_pairs_are_those_of_the_outcomes(ranked: list[StoredRun]) -> None:
    (part,) = leaderboard(ranked).parts
    samples = Samples()
    found = comparable(part.groups, part.columns, samples)
    seen = 0
    for column, sets in zip(part.columns, found["pairs"], strict=True):
        if column.kind == "error":
            assert part.columns[sets["minus"]].key == column.source
            continue
        for one in sets:
            for place, (i, j) in enumerate(combinations(one["rows"], 2)):
                pair = [samples.of(singles(part.groups[row]), column) for row in (i, j)]
                a, b = (sample.scores for sample in pair if sample is not None)
                difference, low, high, code = one["tests"][4 * place : 4 * place + 4]
                assert one["n"] == a.shape[1]
                assert difference == pytest.approx(1e4 * (a.mean() - b.mean()), abs=0.51)
                assert low <= difference <= high
                if len(a) == len(b) == 1:
                    p = _p(a[0], b[0])
                    assert decoded(code) == pytest.approx(p, rel=0.051)
                    assert (low > 0 or high < 0) == (p < 0.05) or 0.02 < p < 0.1
                    seen += 1
        ticked = {row for one in sets for row in one["rows"]}
        assert ticked <= {
            row for row, code in enumerate(found["images"][part.columns.index(column)]) if code is not None
        }
    assert seen >= 15


def _p(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    if a.dtype == np.bool_:
        only = int((a & ~b).sum()), int((b & ~a).sum())
        return float(binomtest(only[0], sum(only)).pvalue)
    return float(ttest_rel(a, b).pvalue)


def test_only_facts_that_differ_are_told(ranked: list[StoredRun]) -> None:
    (part,) = leaderboard(ranked).parts
    facts = comparable(part.groups, part.columns, Samples())["facts"]
    names = [tuple(name) for name in facts["names"]]
    assert ("Options", "epsilon") in names
    assert not {topic for topic, _ in names} & {"Training", "Machine", "Software"}
    for row, group in zip(facts["rows"], part.groups, strict=True):
        told = {
            name: texts[place]
            for name, texts, place in zip(names, facts["texts"], row, strict=True)
            if place is not None
        }
        assert told["Run", "method"] == group.head.stored.run.method
        assert told.get(("Options", "epsilon")) == ("8/255" if group.head.stored.run.method == "pgd_at" else None)


def test_rows_on_other_images_make_no_pair(make: SimpleNamespace, tmp_path: Any) -> None:
    test = make.TEST.model_copy(update={"digest": "3f" * 32})
    runs = [make.run(name, {"main": (0.5, 1.0, 0.1)}, tasks=("clean",)) for name in "abc"]
    moved = StoredRun(
        runs[2].folder, runs[2].run, runs[2].history, make.tasks({"main": (0.5, 1.0, 0.1)}, ("clean",), test)
    )
    kept = [make.kept(tmp_path / run.run.label, run) for run in (*runs[:2], moved)]
    (part,) = leaderboard(kept).parts
    found = comparable(part.groups, part.columns, Samples())
    assert found["images"] == [[0, 0, 1]]
    assert [one["rows"] for one in found["pairs"][0]] == [[0, 1]]
    assert ["Data", "judged on"] in found["facts"]["names"]


def test_unknown_numbers_stay_unknown(make: SimpleNamespace) -> None:
    runs = [make.run(name, {"main": (0.5, 1.0, 0.1)}, tasks=("clean",), cost=None) for name in "ab"]
    (part,) = leaderboard(runs).parts
    found = comparable(part.groups, part.columns, Samples())
    assert found["cost"] == [[None, None]] * 2
    assert (found["images"], found["pairs"]) == ([[None, None]], [[]])


def test_no_more_rows_than_a_page_bears(make: SimpleNamespace) -> None:
    runs = [make.run("a", {"main": (0.5, 1.0, 0.1)}, tasks=("clean",), label=f"a{i}") for i in range(MOST + 3)]
    (part,) = leaderboard(runs).parts
    found = comparable(part.groups, part.columns, Samples())
    assert (len(found["cost"]), len(found["facts"]["rows"]), found["rest"]) == (MOST, MOST, 3)
    assert math.isfinite(found["cost"][0][0])
