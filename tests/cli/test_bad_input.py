"""Every mistake: exit code 2, one line on standard error, no traceback, nothing half-written."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robusteval import store
from robusteval.models import build

TINY = ["--limit", "64", "--set", "training.epochs=1", "--set", "training.batch_size=32"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(cli, tmp_path: Path):
    """Calls the command line, expects a refusal, and gives its message."""

    def call(*arguments: object) -> str:
        before = tree(tmp_path)
        code, out, err = cli(*arguments)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert "Traceback" not in err
        assert out == ""
        assert tree(tmp_path) == before
        return err.removeprefix("error: ")

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--only", "entrop"], "--only: unknown method 'entrop'; did you mean 'entprop'?"),
        (["run", "--set", "methods.advporp.steps=1"], "unknown method 'advporp'; did you mean 'advprop'?"),
        (["train", "advporp"], "unknown method 'advporp'; did you mean 'advprop'?"),
        (["show", "advporp"], "unknown run or name 'advporp'; did you mean 'advprop'?"),
        (["run", "quikc"], "unknown suite 'quikc'; did you mean 'quick'?"),
        (
            ["train", "standard", "--architecture", "resnet81"],
            "unknown architecture 'resnet81'; did you mean 'resnet8'?",
        ),
        (["train", "standard", "--dataset", "cifar11"], "unknown dataset 'cifar11'; did you mean 'cifar10'?"),
        (["data", "verify", "cifar11"], "unknown data set 'cifar11'; did you mean 'cifar10'?"),
    ],
)
def test_unknown_names(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--set", "training.epocs=2"], "quick: training: unknown key 'epocs'; did you mean 'epochs'?"),
        (["run", "--set", "methods.entprop.kk=2"], "quick: methods.entprop: unknown key 'kk'; did you mean 'k'?"),
        (["run", "--set", "tasks.pgd.step_=2"], "quick: tasks.pgd: unknown key 'step_'; did you mean 'step'?"),
        (["run", "--set", "seed=2"], "unknown key 'seed'; did you mean 'seeds'?"),
        (["train", "entprop", "--set", "kk=2"], "train: methods.entprop: unknown key 'kk'; did you mean 'k'?"),
    ],
)
def test_unknown_keys(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epochs=2.5", "quick: training: epochs: input should be a valid integer"),
        ("training.flip=1", "quick: training: flip: input should be a valid boolean (given: 1)"),
        ("training.schedule=cosin", "quick: training: schedule: input should be 'cosine', 'step', 'onecycle'"),
        ("methods.entprop.k=[1]", "quick: methods.entprop: k: input should be a valid number"),
        ("seeds=1", "--set seeds=1: quick: seeds: should be a list, e.g. [1] (given: 1)"),
        ("datasets=cifar10", "datasets: should be a list, e.g. [\"cifar10\"] (given: 'cifar10')"),
    ],
)
def test_wrong_types(refused, setting, message):
    assert message in refused("run", "--set", setting)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--set", "tasks.pgd.epsilon=8"], "tasks.pgd: epsilon: 8"),
        (["run", "--set", "tasks.pgd.epsilon=-1/255"], "tasks.pgd: epsilon"),
        (
            ["run", "--set", "methods.advprop.epsilon=4"],
            "methods.advprop: epsilon: 4 is more than the whole pixel range",
        ),
        (["run", "--set", "training.lr=0"], "training: lr: input should be greater than 0 (given: 0)"),
        (["run", "--seed", "-1"], '"-1" for --seed'),
        (["run", "--limit", "0"], '"0" for --limit'),
    ],
)
def test_values_out_of_range(refused, arguments, message):
    assert message in refused(*arguments)


def test_toml_that_is_none(refused, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("name = \n")
    assert "mine.toml: not valid TOML: Invalid value (at line 1, column 8)" in refused("run", path)


@pytest.mark.parametrize("command", [["train", "standard"], ["data", "verify"], ["eval"]])
def test_missing_data(refused, tmp_path, command):
    folder = tmp_path / "data"
    folder.mkdir()
    if command == ["eval"]:
        command = ["eval", "resnet8", "--checkpoint", "none.safetensors", "--dataset", "cifar10"]
    else:
        command = [*command, *(["cifar10"] if command[0] == "data" else ["--dataset", "cifar10"])]
    message = refused(*command, "--data-dir", folder)
    assert f"not found in {folder}" in message
    assert "--data-dir" in message


def test_truncated_data(refused, tmp_path, small_cifar):
    folder = tmp_path / "data"
    shutil.copytree(small_cifar, folder)
    path = folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1000])
    message = refused("train", "standard", "--dataset", "cifar10", "--data-dir", folder)
    assert "data_batch_3.bin" in message


def test_labels_out_of_range(refused, tmp_path, small_cifar):
    folder = tmp_path / "data"
    shutil.copytree(small_cifar, folder)
    path = folder / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    message = refused("data", "verify", "cifar10", "--data-dir", folder)
    assert "labels from 0 to 10; cifar10 has 0 to 9" in message


def test_unwritable_output(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refused("train", "standard", *TINY, "--out", tmp_path / "file" / "out")
    assert f"{tmp_path / 'file' / 'out'}" in message
    assert "cannot be written: Not a directory" in message


def test_unwritable_report(refused, tmp_path, finished):
    (tmp_path / "file").write_text("in the way")
    assert "file" in refused("report", finished, "--out", tmp_path / "file" / "out")


@pytest.mark.parametrize("name", ["tpu", "gpu", "mps", "cuda:x", "cpu:1"])
def test_no_such_device(refused, name):
    message = refused("run", "--device", name)
    reason = "no device is called so"
    assert message == f"--device: {name!r} cannot be used here ({reason}); allowed: auto, cpu, cuda, cuda:N\n"


def test_a_gpu_that_is_not_there_is_told_in_our_words(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "'cuda:1' cannot be used here (torch finds no CUDA GPU); allowed" in refused("run", "--device", "cuda:1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert "'cuda:2' cannot be used here (the last GPU is cuda:1)" in refused("run", "--device", "cuda:2")


def test_an_error_names_the_setting_that_brought_it_or_the_file(refused, tmp_path):
    settings = ["--set", "training.epochs=2", "--set", "training.lr=-1", "--set", "training.batch_size=8"]
    assert refused("run", *settings).startswith("--set training.lr=-1: quick: training: lr: ")
    assert refused("train", "entprop", "--set", "k=0.5", "--set", "steps=-1").startswith(
        "--set steps=-1: train: methods.entprop: steps: "
    )
    checkpoint = ["--checkpoint", "x", "--tasks", "pgd"]
    assert refused("eval", "resnet8", *checkpoint, "--set", "pgd.steps=0").startswith("--set pgd.steps=0: eval: ")
    path = tmp_path / "mine.toml"
    path.write_text('name = "other"\ntraining = { epochs = 0 }\n[[methods]]\nname = "standard"\n')
    assert refused("run", path, "--set", "seeds=[1]").startswith(f"{path}: training: epochs: ")


def test_settings_that_fit_only_together(cli):
    settings = ["training.optimizer=adamw", "training.nesterov=true", "training.optimizer=sgd"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert cli("train", "standard", *arguments, "--limit", "2").err.startswith("error: train: training.batch_size")


@pytest.mark.parametrize("kind", ["empty", "truncated", "garbage", "another network", "missing"])
def test_checkpoints_that_cannot_be_used(refused, tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    save_file(build("resnet20" if kind == "another network" else "resnet8", classes=10).state_dict(), path)
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": data[:-100], "garbage": b"\x80" + data[1:]}.get(kind, data))
    if kind == "missing":
        path.unlink()
    message = refused("eval", "resnet8", "--checkpoint", path, "--limit", "10", "--json")
    assert str(path) in message


def test_a_pytorch_checkpoint_that_would_run_code(refused, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "it needs" in refused("eval", "resnet8", "--checkpoint", path)


def damaged(folder: Path, name: str) -> Path:
    """Flips a bit in the middle of a file of the only run."""
    (path,) = folder.glob(f"runs/*standard*/{name}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("name", ["run.json", "history.json", "tasks/clean-*.json", "manifest.json"])
def test_a_damaged_run_is_skipped_unless_it_is_the_one_that_is_asked_for(cli, refused, tmp_path, finished, name):
    shutil.copytree(finished, tmp_path / "out")
    path = damaged(tmp_path / "out", name)
    assert refused("report", path.parents[name.count("/")], "--out", tmp_path / "out").startswith(f"{path}: damaged")
    assert refused("show", "cifar10-sample-resnet8-st", "--out", tmp_path / "out").startswith(f"{path}: damaged")
    assert cli("show", "cifar10-sample-resnet8-ent", "--out", tmp_path / "out")[::2] == (0, "")  # of it, all was read
    for command in (["report"], ["ls", "runs"]):
        code, out, err = cli(*command, "--out", tmp_path / "out")
        assert code == 1
        assert err.startswith(f"skipped: {path}: damaged")
        assert err.count("\n") == 1
        assert "entprop" in out
    assert [line.split()[1:3] for line in cli("ls", "runs", "--out", tmp_path / "out").out.splitlines()[1:]] == [
        ["done", "entprop"]
    ]
    with (tmp_path / "out" / "leaderboard.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"entprop"}


def test_damaged_weights_of_a_run_that_goes_on(refused, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "out")
    path = damaged(tmp_path / "out", "weights.safetensors")
    more = finished.parent / "more.toml"
    more.write_text((finished.parent / "two.toml").read_text().replace('"clean"', '"pgd"'))
    message = refused("run", more, "--out", tmp_path / "out", "--limit", "64")
    assert message.startswith(f"{path}: damaged")


@pytest.mark.parametrize("command", ["report", "show", "run"])
def test_records_of_a_newer_schema(refused, tmp_path, finished, command):
    shutil.copytree(finished, tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("runs/*standard*")
    raw = json.loads(store.read_bytes(folder, "run.json"))
    store.write_bytes(folder, "run.json", json.dumps(raw | {"schema_version": 2, "news": 1}).encode())
    arguments = {"report": [folder], "show": [folder.name], "run": [finished.parent / "two.toml", "--limit", "64"]}
    message = refused(command, *arguments[command], "--out", tmp_path / "out")
    assert "written by a newer robusteval (record schema 2)" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], 'Unknown command "runn". Did you mean "run"?'),
        (["run", "--onyl", "x"], "Did you mean --only?"),
        (["ls", "method"], 'Did you mean "methods"?'),
        (["eval", "resnet8"], "--checkpoint"),
        (["report", "nowhere"], "nowhere: no runs here"),
        (["run", "--set", "epochs"], "--set epochs: not of the form key=value"),
    ],
)
def test_wrong_command_lines(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    "words",
    [
        ["data", "corrupt", "cifar10-sample", "--out", "there", "--severity", "2.5"],
        ["data", "corrupt", "cifar10-sample", "--out", "there", "--limit", "3.9"],
        ["data", "corrupt", "cifar10-sample", "--out", "there", "--seed", "1e2"],
        ["run", "quick", "--threads", "1.5"],
        ["eval", "resnet8", "--checkpoint", "x", "--resize", "32.4"],
    ],
)
def test_fractions_are_not_rounded_to_whole_numbers(refused, words):
    assert refused(*words) == f"Invalid value for {words[-2]}: {words[-1]!r} is not a whole number\n"
