"""Observers and trackers: they are told everything once, change nothing, and may fail."""

import importlib.util
import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

import robusteval
from robusteval import store
from robusteval.config import parse_suite
from robusteval.errors import UserError
from robusteval.observing import Observers
from robusteval.planning import plan
from robusteval.progress import Silent
from robusteval.records import Measurement
from robusteval.runner import run_job
from robusteval.runtime import Runtime
from robusteval.trackers import key, tracker

RUNTIME = Runtime(torch.device("cpu"), torch.get_num_threads(), "system")
SUITE = parse_suite(
    {
        "name": "tiny",
        "training": {"epochs": 2, "batch_size": 32, "precision": "float32", "snapshots": 1},
        "methods": [{"name": "standard", "label": "a [b]"}],
        "tasks": [{"name": "clean"}, {"name": "epsilon_curve", "limit": 4, "epsilons": ["1/255"]}],
    },
    "tiny",
)


class Recorder:
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, run):
        self.told.append(("begin", run))

    def epoch(self, epoch):
        self.told.append(("epoch", epoch))

    def measured(self, measurement, epoch):
        self.told.append(("measured", measurement, epoch))

    def end(self, run):
        self.told.append(("end", run))


class Failing(Recorder):
    """Fails whenever it is told something of that kind."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def __getattribute__(self, name):
        if name in ("begin", "epoch", "measured", "end") and name == self.kind:
            raise OSError("no\nroom")
        return super().__getattribute__(name)


def carried_out(out: Path, *observers, warn=warnings.warn) -> store.StoredRun:
    (job,) = plan(SUITE, out, limit=64)
    run_job(job, RUNTIME, Silent(), Observers(observers, warn))
    (stored,) = store.find_runs(out)
    return stored


def results(stored):
    tasks = (*stored.tasks, *stored.on_the_way)
    numbers = [(task.key, [one.model_dump() for one in task.measurements]) for task in tasks]
    return stored.run.status, stored.run.weights_sha256, stored.history, numbers


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return carried_out(tmp_path_factory.mktemp("plain"))


def test_an_observer_is_told_every_epoch_and_number_once_in_order(plain, tmp_path):
    recorder = Recorder()
    stored = carried_out(tmp_path, recorder)
    kinds = [one[0] for one in recorder.told]
    numbers = [(m, task.epoch) for task in (*stored.tasks, *stored.on_the_way) for m in task.measurements]
    assert kinds == ["begin", *["epoch"] * 2, *["measured"] * len(numbers), "end"]
    assert [one[1] for one in recorder.told if one[0] == "epoch"] == list(stored.history)
    found = [one[1:] for one in recorder.told if one[0] == "measured"]
    assert sorted(map(str, found)) == sorted(map(str, numbers))
    assert {epoch for _, epoch in found} == {None, 1}
    assert (recorder.told[0][1].status, recorder.told[-1][1].status) == ("running", "done")
    assert results(stored) == results(plain)


def test_those_that_fail_are_named_once_and_stop_nothing(plain, tmp_path):
    said, other = [], Recorder()
    failing = [Failing(kind) for kind in ("begin", "epoch", "measured", "end")]
    stored = carried_out(tmp_path, *failing, other, warn=said.append)
    assert said == ["warning: Failing: no more is told: OSError: no room; the runs go on"] * 4
    assert [[one[0] for one in observer.told][:3] for observer in failing] == [
        [],
        ["begin"],
        ["begin", "epoch", "epoch"],
        ["begin", "epoch", "epoch"],
    ]
    assert results(stored) == results(plain)
    assert other.told[-1] == ("end", stored.run)


def test_an_interrupted_run_ends_for_its_observers_too(tmp_path):
    class Impatient(Recorder):
        def epoch(self, epoch):
            raise KeyboardInterrupt

    recorder = Recorder()
    (job,) = plan(SUITE, tmp_path, limit=64)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, RUNTIME, Silent(), Observers([recorder, Impatient()]))
    assert [one[0] for one in recorder.told] == ["begin", "epoch", "end"]
    assert recorder.told[-1][1].status == "running"


class FakeRun:
    def __init__(self, calls):
        self.calls, self.summary = calls, {}

    def log(self, data, step):
        self.calls.append(("log", step, data))

    def finish(self, exit_code):
        self.calls.append(("finish", exit_code, dict(self.summary)))


@pytest.fixture
def fake_wandb(monkeypatch):
    """A module with W&B's three calls, which writes them down."""
    calls = []
    module = types.ModuleType("wandb")

    def init(*, project, dir, id, name, config, resume, settings):  # noqa: A002 - wandb's own names
        json.dumps(config, allow_nan=False)
        calls.append(("init", project, dir, id, name, config, resume, settings))
        return FakeRun(calls)

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_wandb_gets_configuration_logs_by_epoch_and_a_summary(plain, fake_wandb, tmp_path):
    stored = carried_out(tmp_path, tracker("wandb", tmp_path))
    assert results(stored) == results(plain)
    (_, project, folder, run_id, name, config, resume, settings), *logs, (_, code, summary) = fake_wandb
    assert (project, folder, run_id, name, resume) == ("robusteval", str(tmp_path), stored.run.id, "a [b]", "allow")
    assert settings["console"] == "off"  # else it takes over what we print
    assert (config["options"], config["training"], config["seed"]) == (stored.run.options, stored.run.training, 0)
    assert logs == [
        ("log", one.epoch, {f"train/{name}": value for name, value in one.logs.items()} | {"train/lr": one.lr})
        for one in stored.history
    ]
    assert code == 0
    late = {key(m): m.value for task in stored.tasks for m in task.measurements if m.value is not None}
    early = {f"epoch=1/{key(m)}": m.value for t in stored.on_the_way for m in t.measurements if m.value is not None}
    assert summary == late | early
    assert summary["clean/accuracy/branch=main"] == stored.tasks[0].measurements[0].value


def test_wandb_without_an_account_does_not_ask_and_wait(fake_wandb, monkeypatch, tmp_path):
    asked = []
    sys.modules["wandb"].login = lambda **how: asked.append(how)
    with pytest.raises(UserError, match=r"^--track wandb: not logged in; allowed: `wandb login`, "):
        tracker("wandb", tmp_path)
    assert asked == [{"prompt": False, "verify": False}]  # neither the user nor the network
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    carried_out(tmp_path, tracker("wandb", tmp_path))
    assert fake_wandb[0][1] == "mine"


def test_a_tracker_that_cannot_begin_is_left_out(plain, fake_wandb, tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("no network")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    said = []
    stored = carried_out(tmp_path, tracker("wandb", tmp_path), warn=said.append)
    assert said == ["warning: WeightsAndBiases: no more is told: RuntimeError: no network; the runs go on"]
    assert results(stored) == results(plain)


@pytest.fixture
def fake_tensorboard(monkeypatch):
    """A module with the calls of torch's writer, which writes them down."""
    calls = []

    class SummaryWriter:
        def __init__(self, folder):
            calls.append(("open", folder))

        def add_text(self, tag, text):
            calls.append(("text", tag, text))

        def add_scalar(self, tag, value, step):
            calls.append(("scalar", tag, value, step))

        def close(self):
            calls.append(("close",))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return calls


def expected_scalars(stored):
    curves = [(f"train/{k}", v, one.epoch) for one in stored.history for k, v in [*one.logs.items(), ("lr", one.lr)]]
    tasks = (*stored.tasks, *stored.on_the_way)
    numbers = [(m, task.epoch or len(stored.history)) for task in tasks for m in task.measurements]
    return sorted(curves + [(key(m), m.value, step) for m, step in numbers if m.value is not None])


def test_tensorboard_gets_a_point_for_each_log_and_number(plain, fake_tensorboard, tmp_path):
    stored = carried_out(tmp_path, tracker("tensorboard", tmp_path))
    assert results(stored) == results(plain)
    first, text, *scalars, last = fake_tensorboard
    assert first == ("open", str(tmp_path / "tensorboard" / stored.run.id))
    assert text[1] == "run"
    assert json.loads(text[2])["training"] == stored.run.training
    assert last == ("close",)
    assert sorted(one[1:] for one in scalars) == expected_scalars(stored)


def test_a_missing_number_is_no_point(fake_tensorboard, fake_wandb, plain, tmp_path):
    missing = Measurement(task="clean", metric="accuracy", value=None, n=3, note="not measured")
    for name in ("tensorboard", "wandb"):
        one = tracker(name, tmp_path)
        one.begin(plain.run)
        one.measured(missing, None)
        one.end(plain.run)
    assert not [call for call in fake_tensorboard if call[0] == "scalar"]
    assert fake_wandb[-1] == ("finish", 0, {})


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_package_that_is_not_there_is_told_before_any_work(monkeypatch, tmp_path, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^--track {name}: needs the package .*pip install 'robusteval\[{name}\]'"):
        tracker(name, tmp_path)


def test_an_unknown_tracker(tmp_path):
    with pytest.raises(UserError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        tracker("tensorbord", tmp_path)


def test_names_of_numbers_are_one_line_and_tell_them_apart():
    one = Measurement(task="pgd", metric="m", value=1.0, n=1, where={"branch": "a\x1b\nb", "severity": 3})
    assert key(one) == "pgd/m/branch=a\ufffd b,severity=3"


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.skipif(not installed("tensorboard"), reason="the package tensorboard is not installed")
def test_tensorboard_itself_reads_what_was_written(tmp_path):
    """In a process of its own: the package's imports warn of what we cannot mend."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "from robusteval.records import Epoch, Measurement, Run\n"
        "from robusteval.trackers import tracker\n"
        "out, run = Path(sys.argv[1]), Run.model_validate_json(Path(sys.argv[2]).read_text())\n"
        "one = tracker('tensorboard', out)\n"
        "one.begin(run)\n"
        "one.epoch(Epoch(epoch=1, logs={'loss': 0.5}, lr=0.1))\n"
        "one.epoch(Epoch(epoch=2, logs={'loss': 0.25}, lr=0.1))\n"
        "one.measured(Measurement(task='clean', metric='accuracy', value=0.75, n=4, where={'branch': 'main'}), None)\n"
        "one.end(run)\n"
        "read = EventAccumulator(str(out / 'tensorboard' / run.id)).Reload()\n"
        "for tag in read.Tags()['scalars']:\n"
        "    print(tag, [(event.step, round(event.value, 6)) for event in read.Scalars(tag)])\n"
    )
    assert in_process(code, tmp_path) == [
        "train/loss [(1, 0.5), (2, 0.25)]",
        "train/lr [(1, 0.1), (2, 0.1)]",
        "clean/accuracy/branch=main [(2, 0.75)]",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not installed("wandb"), reason="the package wandb is not installed")
def test_wandb_itself_takes_it_offline(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from robusteval.records import Epoch, Measurement, Run\n"
        "from robusteval.trackers import tracker\n"
        "out, run = Path(sys.argv[1]), Run.model_validate_json(Path(sys.argv[2]).read_text())\n"
        "one = tracker('wandb', out)\n"
        "one.begin(run)\n"
        "one.epoch(Epoch(epoch=1, logs={'loss': 0.5}, lr=0.1))\n"
        "one.measured(Measurement(task='clean', metric='accuracy', value=0.75, n=4, where={'branch': 'main'}), None)\n"
        "print(one.run.summary['clean/accuracy/branch=main'], one.run.config['training']['epochs'], one.run.name)\n"
        "one.end(run)\n"
    )
    assert in_process(code, tmp_path) == ["0.75 2 a [b]"]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def in_process(code: str, folder: Path) -> list[str]:
    """What the code prints; it is given the folder and the record of a run."""
    (job,) = plan(SUITE, folder / "made", limit=64)
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        run_job(job, RUNTIME, Silent(), Observers([recorder, Stopping()]))
    (folder / "run.json").write_text(recorder.told[0][1].model_copy(update={"status": "done"}).model_dump_json())
    search = os.pathsep.join([str(Path(robusteval.__file__).parents[1]), *sys.path])
    environ = os.environ | {"PYTHONPATH": search, "WANDB_MODE": "offline"}
    command = [sys.executable, "-c", code, str(folder), str(folder / "run.json")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class Stopping(Recorder):
    """Interrupts as soon as a run has begun."""

    def begin(self, run):
        raise KeyboardInterrupt
