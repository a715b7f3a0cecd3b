"""``robusteval check`` from the command line: exit codes, files, GitHub, updates, mistakes."""

import json
import re
import shutil
import xml.etree.ElementTree as ET

import pytest

from robusteval import store
from robusteval.check import read
from robusteval.check.sources import code_digest
from robusteval.cli import main


@pytest.fixture
def call(toy, capsys):
    def check(*arguments):
        capsys.readouterr()
        code = main(["check", *map(str, arguments)])
        return code, *capsys.readouterr()

    return check


def first_seed(toy):
    return [path for path in (toy.done / "runs").iterdir() if "-s0-" in path.name]


def test_finished_runs_are_looked_at_without_training(toy, call, tmp_path, monkeypatch):
    monkeypatch.setattr("robusteval.runner.run_job", None)
    junit, summary = tmp_path / "j.xml", tmp_path / "s.md"
    common = ["--runs", *first_seed(toy), "--baseline", toy.baseline]
    code, out, _ = call(*common, "--junit", junit, "--summary", summary)
    assert code == 0
    assert out.splitlines()[-1].startswith("green: nothing fell beyond what is tolerated. 6 numbers were compared;")
    assert ET.parse(junit).getroot().get("tests") == "14"
    assert summary.read_text().startswith("## robusteval check: toy: green")
    code, out, _ = call(*common, "--json")
    found = json.loads(out)
    assert (code, found["red"], found["compared"]) == (0, False, 6)
    code, out, _ = call(*common, "--quiet")
    assert "main" not in out  # on a busy machine a warning about time may stand there


def test_a_baseline_of_another_suite_is_told(toy, call, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(toy.suite.read_text().replace('name = "toy"', 'name = "other"'))
    code, _, err = call("--suite", other, "--baseline", toy.baseline, "--out", toy.done, "--threads", 1)
    assert code == 0
    assert f"{toy.baseline}: the baseline is of the suite toy, not of other" in err


def test_github_gets_annotations_and_a_summary(toy, call, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    runs = [path for path in first_seed(toy) if "standard" in path.name]
    code, out, err = call("--runs", *runs, "--baseline", toy.baseline)
    assert code == 1
    commands = [
        line for line in out.splitlines() if line.startswith("::error")
    ]  # a busy machine adds a warning about time
    assert len(commands) == 4
    start = "::error title=missing%3A cifar10-sample/resnet8/advprop main clean_accuracy::the baseline has this cell"
    assert commands[0].startswith(start)
    assert "4 missing" in summary.read_text()
    code, out, err = call("--runs", *runs, "--baseline", toy.baseline, "--json")
    assert json.loads(out)["red"] is True
    assert err.count("::error title=missing") == 4


def test_a_missing_record_is_red_and_damage_a_mistake(toy, call, tmp_path):
    for run in first_seed(toy):
        shutil.copytree(run, tmp_path / "runs" / run.name)
    folder = next((tmp_path / "runs").glob("*standard*"))
    (task,) = [name for name in store.names(folder) if name.startswith("tasks/pgd") and name.endswith(".json")]
    store.remove(folder, task)
    code, out, _ = call("--runs", tmp_path, "--baseline", toy.baseline)
    assert code == 1
    assert "standard main PGD-2 Linf 12/255: it was not measured" in out.splitlines()[-2]
    (folder / store.RUN).write_bytes(b"{}")
    code, _, err = call("--runs", tmp_path, "--baseline", toy.baseline)
    assert code == 2
    assert "damaged" in err


def test_an_update_keeps_the_rules_and_shows_what_changed(toy, call, tmp_path):
    path = tmp_path / "b.json"
    code, out, err = call("--runs", *first_seed(toy), "--baseline", path, "--update", "--tolerance", "attack=0.07")
    assert (code, read(path).tolerance["attack"]) == (0, 0.07)
    assert out == f"baseline: {path}: 6 numbers of 2 cells, 1 seed\n"
    assert "one seed: how much trainings differ is not known" in err
    runs = [run for run in first_seed(toy) if "standard" in run.name]
    code, out, _ = call("--runs", *runs, "--baseline", path, "--update")
    assert code == 0
    assert out.count("missing") >= 4
    again = read(path)
    assert again.tolerance["attack"] == 0.07
    assert list(again.cells) == ["cifar10-sample/resnet8/standard"]
    assert again.cells["cifar10-sample/resnet8/standard"].wall[0] > 0


def test_the_committed_form_says_what_it_must(toy):
    found = read(toy.baseline)
    cell = found.cells["cifar10-sample/resnet8/advprop"]
    assert cell.seeds == (0, 1, 2, 3, 4)
    assert len(set(cell.weights)) == 5
    assert list(cell.numbers) == ["main", "aux"]
    assert [found.quantities[key].n for key in cell.numbers["aux"]] == [500, 250]
    assert cell.cost[0].forward == {"aux": 25_600, "main": 6400}
    assert all(wall > 0 for wall in cell.wall)
    assert not re.search(r"/tmp|/root|/home", toy.baseline.read_text())
    runs = {(stored.run.label, stored.run.seed): stored for stored in store.find_runs(toy.done)}
    for seed in range(5):
        stored = runs["advprop", seed]
        values = {m.where["branch"]: m.value for task in stored.tasks for m in task.measurements if m.task == "pgd"}
        for branch, value in values.items():
            assert cell.numbers[branch]["PGD-2 Linf 12/255"].values[seed] == value


def test_runs_without_a_calibrated_time_are_told(toy, call, tmp_path):
    for run in first_seed(toy):
        shutil.copytree(run, tmp_path / "runs" / run.name)
        store.remove(tmp_path / "runs" / run.name, "timing.json")
    told = "training time will not be compared"
    code, _, err = call("--runs", tmp_path, "--baseline", tmp_path / "b.json", "--update")
    assert (code, told in err) == (0, True)
    _, _, err = call("--runs", *first_seed(toy), "--baseline", tmp_path / "b.json", "--update")
    assert told not in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--runs", "nowhere"], "--runs nowhere: no runs here"),
        (["--baseline", "none.json"], "--baseline none.json: cannot be read"),
        (["--tolerance", "1"], "--tolerance 1: no fraction; allowed: 0 to 1"),
        (["--tolerance", "claen=0.1"], "unknown number 'claen'; did you mean 'clean'"),
        (["--runs", ".", "--seeds", "2"], "not allowed with it: --seeds, --set, --out"),
        (["--update", "--junit", "j.xml"], "--update: nothing is judged; not allowed with it: --junit"),
        (["--suite", "smok"], "unknown suite 'smok'; did you mean 'smoke'"),
        (["--suite", "diagnostics.toml"], "diagnostics.toml: tasks: none that the gate compares"),
        (["--false-alarms", "0.7"], "--false-alarms"),
    ],
)
def test_mistakes(toy, call, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    text = 'name = "diagnostics"\nmethods = [{ name = "standard" }]\ntasks = [{ name = "neurons" }]'
    (tmp_path / "diagnostics.toml").write_text(text)
    common = [] if "--suite" in arguments else ["--suite", toy.suite]
    common += [] if "--baseline" in arguments else ["--baseline", toy.baseline]
    out = [] if "--runs" in arguments else ["--out", toy.done]
    code, _, err = call(*common, *out, *arguments)
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1


def test_other_code_has_another_digest(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    one = code_digest(tmp_path)
    (tmp_path / "b.py").write_text("")
    two = code_digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2")
    assert len({one, two, code_digest(tmp_path)}) == 3
    assert len(code_digest()) == 64
