"""``compare`` on the committed runs of the quick and the methods suite."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPORTS = Path(__file__).parents[2] / "reports"
QUICK, METHODS = REPORTS / "quick", REPORTS / "methods"


def run_id(label, results=QUICK):
    """The id of the committed run with that label."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("runs/*/run.json"))]
    return next(one["id"] for one in found if one["label"] == label)


def clean(label, results=QUICK):
    """Which clean images the deployed branch of a committed run gets right, straight from its files."""
    folder = results / "runs" / run_id(label, results)
    (path,) = folder.glob("tasks/clean-*.json")
    deployed = json.loads((folder / "run.json").read_text())["deployed"]
    (one,) = (m for m in json.loads(path.read_text())["measurements"] if m["where"]["branch"] == deployed)
    with np.load(io.BytesIO(path.with_suffix(".npz").read_bytes())) as arrays:
        return arrays[one["outcomes"]]


@pytest.fixture
def results(tmp_path):
    """A copy of the quick suite's runs that a test may damage."""
    return Path(shutil.copytree(QUICK, tmp_path / "results", ignore=shutil.ignore_patterns("plots", "*.html", "*.csv")))


def document(answer):
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_two_labels_are_compared_with_all_seeds(cli):
    found = document(cli("compare", "standard", "advprop", "--out", QUICK, "--json"))
    (pair,) = found["pairs"]
    assert (pair["a"]["label"], pair["b"]["label"]) == ("standard", "advprop")
    line = next(line for line in pair["scores"] if line["kind"] == "clean")
    a, b = clean("standard"), clean("advprop")
    assert line["difference"] == pytest.approx(b.mean() - a.mean(), abs=1e-12)
    assert (line["a_only"], line["b_only"]) == (int((a & ~b).sum()), int((b & ~a).sum()))
    assert [line["kind"] for line in pair["scores"]] == ["clean", "corruption", "h_score", "attack"]


def test_corruptions_are_shown_when_asked_for(cli):
    found = document(cli("compare", "standard", "mixup", "--out", QUICK, "--json", "--corruptions"))
    assert len(found["pairs"][0]["scores"]) == 4 + 15
    assert found["tests"] == 19


@pytest.mark.parametrize("form", ["id", "beginning", "folder", "label@folder", "label@other", "folder of one"])
def test_a_side_is_named_in_many_ways(cli, form, tmp_path):
    wanted = run_id("mixup")
    if form == "folder of one":
        shutil.copytree(QUICK / "runs" / wanted, tmp_path / "one" / "runs" / wanted)
    name = {
        "id": wanted,
        "beginning": wanted[:-3],
        "folder": QUICK / "runs" / wanted,
        "label@folder": f"mixup@{QUICK}",
        "label@other": f"mixup@{METHODS}",
        "folder of one": tmp_path / "one",
    }[form]
    found = document(cli("compare", "standard", name, "--out", QUICK, "--json"))
    (pair,) = found["pairs"]
    assert pair["b"]["label"] == "mixup"
    assert Path(pair["b"]["runs"][0]["folder"]).name == run_id("mixup", METHODS if form == "label@other" else QUICK)


def test_a_name_in_the_results_comes_before_a_folder_of_that_name(cli, tmp_path):
    (tmp_path / "standard").mkdir()
    assert cli("compare", "standard", "mixup", "--out", QUICK).code == 0


def test_results_are_matched_cell_by_cell(cli):
    found = document(cli("compare", QUICK, METHODS, "--json"))
    labels = [pair["a"]["label"] for pair in found["pairs"]]
    assert {"standard", "mixup", "pgd_at", "advprop"} <= set(labels)
    assert all(pair["a"]["label"] == pair["b"]["label"] for pair in found["pairs"])
    assert {one["label"] for one in found["only_in_a"]} == {"entprop"}
    assert "trades" in {one["label"] for one in found["only_in_b"]}


def test_a_run_against_itself_is_the_same(cli):
    answer = cli("compare", "standard", "standard", "--out", QUICK)
    assert answer.code == 0
    assert "standard: the same weights, the same numbers" in answer.out
    (pair,) = document(cli("compare", "standard", "standard", "--out", QUICK, "--json"))["pairs"]
    assert pair["same_weights"]
    assert {(line["difference"], line["p"]) for line in pair["scores"]} == {(0.0, 1.0)}
    assert (pair["changes"], pair["warnings"]) == ([], [])


def test_other_branches_are_shown_beside_the_deployed_ones(cli):
    (pair,) = document(cli("compare", "advprop", "fast_advprop", "--out", METHODS, "--json"))["pairs"]
    assert pair["branches"] == {"a": "main", "b": "main"}
    (aux,) = pair["other_branches"]
    assert (aux["a"], aux["b"]) == ("aux", "aux")
    assert [line["kind"] for line in aux["scores"]] == ["clean", "corruption", "h_score", "attack"]
    named = document(cli("compare", "advprop", "fast_advprop", "--branch", "aux", "--out", METHODS, "--json"))
    (of_aux,) = named["pairs"]
    kept = ("key", "a", "b", "difference", "low", "high", "p")
    for line, other in zip(of_aux["scores"], aux["scores"], strict=True):
        assert {key: line[key] for key in kept} == {key: other[key] for key in kept}
    assert (of_aux["branches"], of_aux["other_branches"]) == ({"a": "aux", "b": "aux"}, [])
    text = cli("compare", "standard", "advprop", "--out", METHODS).out
    assert "Branch aux, only B: Clean accuracy " in text


def test_two_branches_of_one_run_are_compared(cli):
    options = ("--branch", "main", "--branch", "adv", "--out", METHODS)
    found = document(cli("compare", "arat", *options, "--json"))
    (pair,) = found["pairs"]
    assert pair["branches"] == {"a": "main", "b": "adv"}
    assert pair["scores"][0]["b"] == pytest.approx(clean("arat", METHODS).mean())
    assert found["tests"] == 4
    assert document(cli("compare", "arat", "arat", *options, "--json")) == found
    assert "arat: main (A), adv (B): two branches of the same network" in cli("compare", "arat", *options).out
    whole = document(cli("compare", METHODS, "--branch", "main", "--branch", "aux", "--json"))
    assert len(whole["pairs"]) == 5
    assert all(pair["branches"] == {"a": "main", "b": "aux"} for pair in whole["pairs"])


@pytest.mark.parametrize("width", [80, 100])
def test_lines_in_a_pipe_are_as_wide_as_columns_says(cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = cli("compare", "standard", "entprop", "--out", QUICK).out
    assert width - 15 < max(len(line.rstrip()) for line in text.splitlines()) <= width
    monkeypatch.delenv("COLUMNS")
    assert any(len(line) > 150 for line in cli("compare", "standard", "entprop", "--out", QUICK).out.splitlines())


def test_markdown_is_what_goes_to_a_pull_request(cli):
    answer = cli("compare", "standard", "pgd_at", "--out", QUICK, "--markdown")
    assert answer.code == 0
    assert answer.out.startswith("### Comparison\n")
    assert "| Score | A | B |" in answer.out
    assert "\x1b" not in answer.out


def test_a_run_that_cannot_be_read_is_named_and_the_code_is_1(cli, results):
    broken = results / "runs" / run_id("pgd_at")
    (broken / "run.json").write_text("{}")
    other = cli("compare", "standard", "mixup", "--out", results, "--json")
    assert other.code == 1
    assert len(json.loads(other.out)["pairs"]) == 1
    assert other.err.count("skipped:") == 1
    assert run_id("pgd_at") in other.err
    for name in (run_id("pgd_at"), broken):
        itself = cli("compare", "standard", name, "--out", results, "--json")
        assert (itself.code, itself.out) == (1, "")
        assert "damaged" in itself.err


def test_outcomes_that_cannot_be_read_are_named_and_the_code_is_1(cli, results):
    (path,) = (results / "runs" / run_id("mixup")).glob("tasks/clean-*.npz")
    path.write_bytes(b"x")
    answer = cli("compare", "standard", "mixup", "--out", results, "--json")
    assert answer.code == 1
    lines = {line["kind"]: line for line in json.loads(answer.out)["pairs"][0]["scores"]}
    assert {kind: line["verdict"] for kind, line in lines.items() if line["p"] is None} == {
        "clean": "not tested",
        "h_score": "not tested",
    }
    assert path.name in answer.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["standrd", "mixup", "--out", QUICK],
            "unknown folder, run, label or method 'standrd'; did you mean 'standard'?",
        ),
        (
            ["entprop", "standard", "--out", METHODS],
            "several labels are of this method: entprop k=0.2 n=1, entprop k=0.6",
        ),
        (["cifar10-", "standard", "--out", METHODS], "'cifar10-': several runs begin so: cifar10-sample-"),
        (["standard", "mixup", "--out", "nowhere"], "'standard': no such folder, and no runs in nowhere"),
        (["./nowhere", "standard", "--out", QUICK], "unknown folder, run, label or method './nowhere'"),
        ([REPORTS.parent / "docs", "standard", "--out", QUICK], "docs: no runs here"),
        ([QUICK / "runs", "trades", "--out", METHODS], "nothing in"),
        (["arat", "--out", METHODS], "what is A to be compared with?; allowed: B, or two branches of A by --branch"),
        (["arat", "--branch", "adv", "--out", METHODS], "what is A to be compared with?"),
        (
            ["arat", "mart", *["--branch", "adv"] * 3, "--out", METHODS],
            "--branch: given 3 times; allowed: once, or twice",
        ),
        (
            ["arat", "--branch", "main", "--branch", "aux", "--out", METHODS],
            "B (arat): unknown branch 'aux'; allowed: adv, main",
        ),
        (
            ["arat", "standard", "--branch", "ad", "--out", METHODS],
            "A (arat): unknown branch 'ad'; did you mean 'adv'?",
        ),
        (
            ["standard", "mixup", "--out", QUICK, "--json", "--markdown"],
            "--json and --markdown ask for different things",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(cli, arguments, told):
    answer = cli("compare", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err
    assert answer.err.count("\n") == 1


def test_torch_is_not_imported():
    code = (
        "import sys; from robusteval.cli import main; "
        f"assert main(['compare', 'standard', 'mixup', '--out', {str(QUICK)!r}]) == 0; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
