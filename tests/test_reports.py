"""The committed leaderboards are what the committed records give."""

from pathlib import Path

import pytest

from robusteval.report import write_report
from robusteval.store import find_runs

REPORTS = sorted(path.parent for path in Path(__file__).parents[1].glob("reports/*/leaderboard.csv"))


def test_there_is_a_committed_report():
    assert [report.name for report in REPORTS] == ["quick"]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_tables_are_regenerated_byte_for_byte(report, tmp_path):
    runs = find_runs(report)
    assert len(runs) == 5
    write_report(tmp_path, runs)
    for name in ("leaderboard.csv", "leaderboard-long.csv"):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes(), name


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_what_the_suite_is_there_to_show(report):
    """Learning is real, adversarial training is robust, and auxiliary branches are judged beside the deployed ones."""
    values = {
        (run.run.method, m.metric, m.where["branch"]): m.value
        for run in find_runs(report)
        for task in run.tasks
        for m in task.measurements
        if m.metric in ("robust_accuracy", "mean_accuracy") or task.task == "clean"
    }
    assert all(value > 0.25 for (_, metric, _), value in values.items() if metric != "robust_accuracy")
    robust = {method: value for (method, metric, branch), value in values.items() if metric == "robust_accuracy"}
    assert robust["pgd_at"] >= robust["standard"] + 0.10
    assert {branch for method, _, branch in values if method in ("advprop", "entprop")} == {"main", "aux"}
