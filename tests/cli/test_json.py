"""``--json``: one document on standard output, fractions in [0, 1], null where a number is missing."""

import json
import re

import pytest

from robusteval.config import shipped
from robusteval.corruptions import NAMES, TABLES, strength
from robusteval.data import DATASETS
from robusteval.methods import METHODS
from robusteval.models import MODELS
from robusteval.options import build
from robusteval.store import load_run
from robusteval.tasks import TASKS
from robusteval.training import Training


def document(answer):
    assert (answer.code, answer.err) == (0, "")
    return json.loads(answer.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(
    ("what", "name", "names"),
    [
        ("methods", "method", METHODS),
        ("tasks", "task", TASKS),
        ("datasets", "dataset", DATASETS),
        ("models", "model", MODELS),
        ("suites", "suite", shipped()),
    ],
)
def test_ls_has_an_entry_for_each_row_of_the_table(cli, what, name, names):
    entries = document(cli("ls", what, "--json"))
    assert [entry[name] for entry in entries] == list(names)
    shown = cli("ls", what).out.splitlines()[1 : len(entries) + 1]
    assert [line.split()[0] for line in shown] == list(names)


def test_ls_methods_has_costs_as_numbers(cli):
    entries = {entry["method"]: entry for entry in document(cli("ls", "methods", "--json"))}
    assert entries["advprop"]["flops"] == pytest.approx(METHODS["advprop"]().passes().flops)
    assert entries["advprop"]["teacher_flops"] is None
    taught = {name for name, method in METHODS.items() if method().teacher()}
    assert {name for name, entry in entries.items() if entry["teacher_flops"] is not None} == taught


def test_show_a_run_is_its_records(cli, finished):
    (folder,) = finished.glob("runs/*entprop*")
    stored = load_run(folder)
    shown = document(cli("show", folder.name, "--out", finished, "--json"))
    assert shown["run"] == json.loads((folder / "run.json").read_text())
    assert [task["key"] for task in shown["tasks"]] == [task.key for task in stored.tasks]
    values = [one["value"] for task in shown["tasks"] for one in task["measurements"]]
    assert values == [one.value for task in stored.tasks for one in task.measurements]
    assert all(0 <= value <= 1 for value in values)
    assert [epoch["epoch"] for epoch in shown["history"]] == [1]


@pytest.mark.parametrize("name", ["training", *METHODS, *TASKS])
def test_options_that_are_shown_are_defaults_that_can_be_given(cli, name):
    kind = "options" if name == "training" else "method" if name in METHODS else "task"
    cls = Training if name == "training" else (METHODS | TASKS)[name]
    shown = document(cli("show", name, "--json"))[kind]
    given = {option["name"]: option["default"] for option in shown["options"] if option["default"] is not None}
    assert build(cls, given, name) == cls()
    assert all(option["allowed"] and option["meaning"] for option in shown["options"])


def test_a_name_that_two_things_share_shows_both(cli):
    shown = document(cli("show", "cifar100", "--json"))
    assert shown.keys() == {"dataset", "suite"}
    assert shown["dataset"]["sizes"] == {"train": 50_000, "test": 10_000}
    assert shown["suite"]["tables"]["datasets"] == ["cifar100"]


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_has_its_strengths(cli, name):
    shown = document(cli("show", name, "--json"))["corruption"]
    assert shown["strengths"] == {
        kind: [list(strength(kind, name, severity)) for severity in range(1, 6)]
        for kind in TABLES
        if name in TABLES[kind]
    }


def test_report_names_its_page_and_runs(cli, finished):
    shown = document(cli("report", "--out", finished, "--json"))
    assert shown["report"] == str(finished / "leaderboard.html")
    assert sorted(shown["runs"]) == sorted(path.name for path in finished.glob("runs/*"))
    assert shown["skipped"] == []


def test_run_prints_numbers_then_the_end_of_each_cell_then_the_report(cli, finished, tmp_path):
    suite, out = finished.parent / "two.toml", tmp_path / "out"
    code, shown, err = cli("run", suite, "--out", out, "--limit", "64", "--json")
    assert code == 0
    *lines, last = map(json.loads, shown.splitlines())
    assert last["report"] == str(out / "leaderboard.html")
    ends = [line for line in lines if "status" in line]
    assert [(line["label"], line["status"], line["error"]) for line in ends] == [
        ("standard", "done", None),
        ("entprop [red]", "done", None),
    ]
    for end in ends:
        stored = load_run(out / "runs" / end["run"])
        numbers = [line for line in lines if line["run"] == end["run"] and "status" not in line]
        assert [(one["task"], one["value"], one["where"], one["epoch"]) for one in numbers] == [
            (one.task, one.value, one.where, None) for task in stored.tasks for one in task.measurements
        ]
        assert lines.index(end) == lines.index(numbers[-1]) + 1
    assert len(re.findall(r": done after", err)) == 2
    *again, last = map(json.loads, cli("run", suite, "--out", out, "--limit", "64", "--json").out.splitlines())
    assert [(line["status"], line["seconds"]) for line in again] == [("done", 0), ("done", 0)]


def test_a_dry_run_is_one_document(cli, finished, tmp_path):
    suite = finished.parent / "two.toml"
    first, second = document(cli("run", suite, "--dry-run", "--json", "--out", tmp_path / "out", "--limit", "64"))
    assert (first["label"], first["state"], second["label"]) == ("standard", "new", "entprop [red]")
    assert 0 < first["flops"] < second["flops"]
    assert first["seconds"] > 0
