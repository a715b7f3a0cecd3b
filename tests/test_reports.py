"""The committed leaderboards are what the committed records give."""

import re
from pathlib import Path

import pytest

from robusteval.cli.cards import plain_cards
from robusteval.config import load_suite
from robusteval.methods import METHODS
from robusteval.report import write_report
from robusteval.store import find_runs

REPORTS = Path(__file__).parents[1] / "reports"
ROWS = {"quick": 5, "methods": 22}


def test_there_are_committed_reports():
    assert {path.parent.name for path in REPORTS.glob("*/leaderboard.csv")} == ROWS.keys()


@pytest.mark.parametrize(("name", "rows"), ROWS.items())
def test_a_report_is_regenerated_byte_for_byte(name, rows, tmp_path):
    """Tables and page; matplotlib's figures in the page are left out, whose last digits depend on its version."""
    runs = find_runs(REPORTS / name)
    assert len(runs) == rows
    write_report(tmp_path, runs, cards=plain_cards())
    for file in ("leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.json"):
        assert (tmp_path / file).read_bytes() == (REPORTS / name / file).read_bytes(), file
    pages = [(folder / "leaderboard.html").read_text(encoding="utf-8") for folder in (tmp_path, REPORTS / name)]
    made, kept = (re.sub(r"<svg xmlns:xlink.*?</svg>", "<figure>", page, flags=re.DOTALL) for page in pages)
    assert made.count("<figure>") == kept.count("<figure>") > 3
    assert made == kept


def values(name):
    """Measured values by (method, metric, branch), of the tasks that score images."""
    return {
        (run.run.method, m.metric, m.where["branch"]): m.value
        for run in find_runs(REPORTS / name)
        for task in run.tasks
        if task.task in ("clean", "corruption", "pgd")
        for m in task.measurements
        if m.metric in ("robust_accuracy", "mean_accuracy") or task.task == "clean"
    }


@pytest.mark.parametrize("name", ROWS)
def test_what_a_suite_is_there_to_show(name):
    """Learning is real, adversarial training is robust, and auxiliary branches are judged beside the deployed ones."""
    found = values(name)
    assert all(value > 0.2 for (_, metric, _), value in found.items() if metric != "robust_accuracy")
    robust = {method: value for (method, metric, _), value in found.items() if metric == "robust_accuracy"}
    assert robust["pgd_at"] >= robust["standard"] + 0.10
    for method in ("advprop", "entprop"):
        assert {branch for one, _, branch in found if one == method} == {"main", "aux"}


def test_the_methods_report_has_every_method_and_every_task():
    runs = find_runs(REPORTS / "methods")
    assert {run.run.method for run in runs} == set(METHODS)
    assert {task.task for run in runs for task in run.tasks if task.measurements} == {
        task.name for task in load_suite("methods").tasks
    }
    assert any(run.on_the_way for run in runs)
    assert all(run.run.status == "done" for run in runs)
