"""``run``, ``train`` and ``report`` from the command line."""

import csv
import re
import shutil

import pytest

from robusteval import store
from robusteval.errors import UserError
from robusteval.methods.entprop import EntProp
from robusteval.tasks.clean import Clean

TINY = ["--limit", "64", "--set", "training.epochs=1", "--set", "training.batch_size=32"]


def test_a_run_ends_by_naming_the_report(cli, finished):
    code, out, err = cli("run", finished.parent / "two.toml", "--out", finished, "--limit", "64")
    assert code == 0
    assert "2 of 2 cells are done already" in err
    assert out.splitlines()[-1] == f"report: {finished / 'leaderboard.html'}"
    assert (finished / "leaderboard.html").exists()
    with (finished / "leaderboard.csv").open() as file:
        rows = list(csv.reader(file))
    assert any("standard" in cell for row in rows for cell in row)
    assert "entprop [red]" in out


def test_a_failing_cell_is_told_and_does_not_stop_the_others(cli, finished, tmp_path, monkeypatch):
    real = EntProp.step

    def step(self, model, batch, backward):
        logs = real(self, model, batch, backward)
        return logs | {"loss": logs["loss"] * float("nan")}

    suite = finished.parent / "two.toml"
    with monkeypatch.context() as patch:
        patch.setattr(EntProp, "step", step)
        code, out, err = cli("run", suite, "--out", tmp_path / "out", "--limit", "64")
    assert code == 1
    assert re.search(r"^standard seed 0 .*: done after ", err, re.MULTILINE)
    assert re.search(r"^entprop \[red\] seed 0 .*: failed: training: Diverged: loss is not finite", err, re.MULTILINE)
    assert "Traceback" not in err
    assert out.splitlines()[-1].startswith("report: ")
    code, _, err = cli("run", suite, "--out", tmp_path / "out", "--limit", "64")
    assert code == 0
    assert "1 of 2 cells are done already" in err
    assert {stored.run.status for stored in store.find_runs(tmp_path / "out")} == {"done"}


def test_an_interrupted_run_says_how_to_go_on(cli, finished, tmp_path, monkeypatch):
    suite = finished.parent / "two.toml"
    with monkeypatch.context() as patch:
        patch.setattr(Clean, "measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        code, out, err = cli("run", suite, "--out", tmp_path / "out", "--limit", "64")
    assert (code, out) == (130, "")
    assert err == "interrupted: the same command resumes where it stopped\n"
    (stored,) = store.find_runs(tmp_path / "out")
    assert stored.run.status == "running"
    assert stored.run.weights_sha256 is not None
    assert cli("run", suite, "--out", tmp_path / "out", "--limit", "64").code == 0


def test_a_run_that_another_process_works_on_is_skipped(cli, finished, tmp_path):
    suite = finished.parent / "two.toml"
    (name,) = (path.name for path in finished.glob("runs/*standard*"))
    with store.locked(tmp_path / "out" / "runs" / name):
        code, _, err = cli("run", suite, "--out", tmp_path / "out", "--limit", "64")
    assert code == 1
    assert "entprop [red] seed 0 (resnet8, cifar10-sample): done" in err
    assert "skipped: " in err
    assert "another process works on this run" in err


def test_only_seed_and_set_choose_the_cells(cli, finished, tmp_path):
    arguments = ["--only", "standard", "--seed", "3", "--seed", "4", "--set", "training.epochs=2"]
    code, _, _ = cli("run", finished.parent / "two.toml", *arguments, "--limit", "64", "--out", tmp_path / "out")
    assert code == 0
    runs = [stored.run for stored in store.find_runs(tmp_path / "out")]
    assert sorted((run.label, run.seed, run.training["epochs"]) for run in runs) == [
        ("standard", 3, 2),
        ("standard", 4, 2),
    ]


def test_a_dry_run_says_what_is_there_and_what_it_costs_and_writes_nothing(cli, finished, tmp_path):
    suite = finished.parent / "two.toml"
    code, out, _ = cli("run", suite, "--dry-run", "--out", tmp_path / "out", "--limit", "64")
    assert code == 0
    assert not (tmp_path / "out").exists()
    head, first, second, total, how = out.splitlines()
    assert head.split() == ["CELL", "METHOD", "STATE", "FLOPS", "MINUTES"]
    assert re.match(r"cifar10-sample-resnet8-standard-s0-\w{8} +standard +new +\d\.\d\de\+\d\d +\d+\.\d$", first)
    assert re.match(r"cifar10-sample-resnet8-entprop-s0-\w{8} +entprop \[red\] +new +", second)
    flops = [float(line.split()[-2]) for line in (first, second, total)]
    assert flops[0] + flops[1] == pytest.approx(flops[2], rel=0.01)
    assert flops[1] > flops[0]
    assert "timed just now on cpu" in how
    _, out, _ = cli("run", suite, "--dry-run", "--out", finished, "--limit", "64")
    assert [line.split()[-3:] for line in out.splitlines()[1:3]] == [["done", "0.00e+00", "0.0"]] * 2
    assert out.splitlines()[-1] == "all cells are done: nothing is left to compute"
    _, out, _ = cli("run", suite, "--dry-run", "--limit", "64", "--threads", "1", "--only", "standard")
    assert "on cpu with 1 thread;" in out


def test_a_damaged_run_beside_those_of_the_suite_is_left_out_of_the_report(cli, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (other,) = out.glob("runs/*entprop*")
    (other / "run.json").write_bytes(b"{}")
    code, _, err = cli("run", finished.parent / "two.toml", "--only", "standard", "--out", out, "--limit", "64")
    assert code == 1
    assert f"skipped: {other / 'run.json'}: damaged" in err
    with (out / "leaderboard.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"standard"}


@pytest.mark.parametrize("command", [["run"], ["train", "standard"], ["eval", "resnet8", "--checkpoint", "none"]])
def test_downloads_happen_only_when_asked_for(cli, monkeypatch, tmp_path, command):
    asked = []

    def download(root, info, *_, **__):
        asked.append(info.name)
        raise UserError("no network here")

    monkeypatch.setattr("robusteval.data.layouts.pickles.download", download)
    where = ["--set", 'datasets=["cifar10"]'] if command == ["run"] else ["--dataset", "cifar10"]
    assert cli(*command, *where, "--data-dir", tmp_path).code == 2
    assert asked == []
    assert cli(*command, *where, "--data-dir", tmp_path, "--download").err == "error: no network here\n"
    assert asked == ["cifar10"]


def test_the_help_says_how_small_a_limit_may_be(cli):
    told = [" ".join(cli(command, "--help").out.replace("│", " ").split()) for command in ("run", "train")]
    assert all("for training N must be at least training.batch_size" in text for text in told)


def test_train_names_the_weights_and_judges_nothing(cli, tmp_path):
    settings = ["--set", "k=0.5", *TINY[2:]]
    code, out, err = cli("train", "entprop", *settings, "--limit", "64", "--seed", "5", "--out", tmp_path / "out")
    assert code == 0
    (stored,) = store.find_runs(tmp_path / "out")
    assert out == f"{stored.folder / 'deployed.safetensors'}\n"
    assert (stored.run.options["k"], stored.run.seed, stored.tasks) == (0.5, 5, ())
    assert "done after" in err


def test_report_gathers_runs_of_several_folders_once(cli, finished, tmp_path):
    (one,) = finished.glob("runs/*standard*")
    code, out, _ = cli("report", finished, one, "--out", tmp_path / "report")
    assert code == 0
    assert out.splitlines()[-1] == f"report: {tmp_path / 'report' / 'leaderboard.html'}"
    with (tmp_path / "report" / "leaderboard.csv").open() as file:
        rows = sorted((row["method"], row["branch"]) for row in csv.DictReader(file))
    assert rows == [("entprop", "aux"), ("entprop", "main"), ("standard", "main")]


def test_one_method_of_a_suite_runs_though_its_momenta_name_branches_of_others(cli, finished, tmp_path):
    arguments = ["--set", "training.bn_momentum={main=0.2,aux=0.1}", "--limit", "64", "--out", tmp_path / "out"]
    code, _, err = cli("run", finished.parent / "two.toml", "--only", "standard", *arguments)
    assert code == 0, err
    code, _, err = cli("train", "standard", "--set", "training.bn_momentum={aux=0.1}")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "training.bn_momentum: unknown branch 'aux'; allowed: main" in err


def test_a_task_that_has_nothing_to_measure_says_so(cli, finished):
    folder = next(one.folder for one in store.find_runs(finished) if one.run.method == "standard")
    chosen = ["--checkpoint", folder / store.WEIGHTS, "--tasks", "branches", "--limit", "32"]
    code, out, err = cli("eval", "resnet8", *chosen)
    assert (code, len(out.splitlines())) == (0, 1)
    assert "branches: nothing to measure" in err


def test_quiet_tells_only_what_fails_and_the_result(cli, finished, tmp_path, monkeypatch):
    real = EntProp.step

    def step(self, model, batch, backward):
        return {key: value * float("nan") for key, value in real(self, model, batch, backward).items()}

    monkeypatch.setattr(EntProp, "step", step)
    code, out, err = cli("run", finished.parent / "two.toml", "--out", tmp_path / "out", "--limit", "64", "-q")
    assert code == 1
    assert err.startswith("entprop [red] seed 0 (resnet8, cifar10-sample): failed: training: Diverged")
    assert err.count("\n") == 1
    assert out.splitlines()[-1].startswith("report: ")
    assert cli("run", finished.parent / "two.toml", "--out", finished, "--limit", "64", "--quiet").err == ""


def test_verbose_tells_each_epoch_and_each_number(cli, finished, tmp_path):
    arguments = ["--only", "standard", "--out", tmp_path / "out", "--limit", "64", "--set", "training.epochs=2"]
    code, _, err = cli("run", finished.parent / "two.toml", *arguments, "--verbose")
    assert code == 0
    (stored,) = store.find_runs(tmp_path / "out")
    logs = [f"  epoch {one.epoch}: loss {one.logs['loss']:.4f} " for one in stored.history]
    (number,) = stored.tasks[0].measurements
    told = err.splitlines()
    assert told[0] == f"  {stored.run.id}"
    assert [line.startswith(start) for line, start in zip(told[1:3], logs, strict=True)] == [True, True]
    low, high = 100 * number.low, 100 * number.high
    assert told[3] == (f"  clean accuracy {100 * number.value:.2f} % ({low:.2f} % to {high:.2f} %, n 64) branch=main")
    assert "done after" in told[4]


def test_quiet_and_verbose_exclude_each_other(cli):
    for command in (["run"], ["train", "standard"], ["eval", "resnet8", "--checkpoint", "none"]):
        code, out, err = cli(*command, "-q", "-v")
        assert (code, out) == (2, "")
        assert err == "error: --quiet, --verbose: they ask for different things; allowed: one of them\n"


def test_a_tracker_is_told_of_every_run_and_its_failure_is_one_warning(cli, finished, tmp_path, monkeypatch):
    class Tracker:
        def __init__(self):
            self.begun = []

        def begin(self, run):
            self.begun.append(run.label)

        def epoch(self, epoch):
            if len(self.begun) == 2:
                raise OSError("gone")

        def measured(self, measurement, epoch):
            pass

        def end(self, run):
            pass

    made = {}
    monkeypatch.setattr("robusteval.trackers.tracker", lambda name, out: made.setdefault(name, Tracker()))
    arguments = ["--out", tmp_path / "out", "--limit", "64", "--seed", "1", "--seed", "2", "--track", "wandb"]
    code, _, err = cli("run", finished.parent / "two.toml", *arguments)
    assert code == 0
    assert made["wandb"].begun == ["standard", "standard"]
    assert err.count("warning: Tracker: no more is told: OSError: gone; the runs go on\n") == 1
    code, _, err = cli("run", "--track", "mlflow")
    assert code == 2
    assert "tensorboard" in err
    assert err.count("\n") == 1
