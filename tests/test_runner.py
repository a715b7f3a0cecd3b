"""Plan and runner: nothing is done twice, nothing is lost, a failure is recorded and stays its own.

Real methods, networks and images, as small as they go.
"""

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from robusteval import restoring, runner, store
from robusteval.cells import task_key
from robusteval.checkpoints import CHECKPOINT
from robusteval.config import Suite, parse_suite
from robusteval.cost import forward_flops
from robusteval.errors import UserError
from robusteval.models.weights import load_state, read_state
from robusteval.options import options
from robusteval.planning import Job, plan
from robusteval.progress import Silent
from robusteval.records import Run
from robusteval.runner import run_job
from robusteval.runtime import Runtime
from robusteval.tasks import TASKS
from robusteval.tasks.task import accuracy
from robusteval.train import Diverged

RUNTIME = Runtime(torch.device("cpu"), torch.get_num_threads(), "system")
PGD = {"name": "pgd", "steps": 2, "limit": 8}


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours handles it."""


@options
class Probe:
    """A quick task that remembers what it was given."""

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    seen: ClassVar[list] = []
    fail: bool = False

    def resolved(self, data, data_dir):
        return self

    def measure(self, models, data, context):
        if self.fail:
            raise MemoryError("no room\nfor more")
        self.seen.append((models, data, context))
        for branch, model in models.items():
            with torch.no_grad():
                right = model(data.images[:16].float() / 255).argmax(1) == data.labels[:16]
            yield accuracy("probe", "accuracy", right.numpy(), {"branch": branch})


@pytest.fixture(autouse=True)
def probe(monkeypatch):
    monkeypatch.setattr("robusteval.cells.TASKS", {**TASKS, "probe": Probe})
    monkeypatch.setattr(Probe, "seen", [])


def suite(*tasks: dict, methods: tuple[str | dict, ...] = ("standard",), **changes) -> Suite:
    table = {
        "name": "tiny",
        "training": {"epochs": 2, "batch_size": 32, "precision": "float32"},
        "methods": [{"name": name} if isinstance(name, str) else name for name in methods],
        "tasks": list(tasks) or [{"name": "clean"}, PGD],
    }
    return parse_suite(table | changes, "tiny")


# Long enough that the branches predict differently.
LEARNT = suite(methods=("entprop",), training={"epochs": 8, "batch_size": 16, "precision": "float32", "lr": 0.05})


def planned(chosen: Suite, out: Path) -> list[Job]:
    return plan(chosen, out, limit=64)


def carried_out(chosen: Suite, out: Path) -> list[store.StoredRun]:
    for job in planned(chosen, out):
        if job.state != "done":
            run_job(job, RUNTIME, Silent())
    return store.find_runs(out)


def contents(stored: store.StoredRun) -> dict[str, object]:
    """What must not depend on interruptions: weights, logs, every per-sample outcome."""
    outcomes = {
        (task.key, one.outcomes): stored.outcomes(task.key, one.outcomes).tolist()
        for task in stored.tasks
        for one in task.measurements
        if one.outcomes is not None
    }
    numbers = {task.key: [(one.metric, one.value, one.where) for one in task.measurements] for task in stored.tasks}
    return {"weights": stored.run.weights_sha256, "history": stored.history, "outcomes": outcomes, "numbers": numbers}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An output folder with one finished run of a method with two branches."""
    out = tmp_path_factory.mktemp("finished")
    carried_out(LEARNT, out)
    return out


def test_a_run_leaves_a_complete_folder(finished):
    (stored,) = store.find_runs(finished)
    run = stored.run
    assert stored.folder == finished / "runs" / run.id
    assert (run.status, run.error, run.branches, run.deployed) == ("done", None, ("main", "aux"), "main")
    assert run.train_data.n == 64
    # ResNet-8: 3x3 stem of 16, three blocks of 2 convolutions, 7 BatchNorms, linear head (He et al., 2016, option A).
    convolutions = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert run.parameters == convolutions + 2 * (3 * 16 + 2 * 32 + 2 * 64) + 64 * 10 + 10
    assert run.cost is not None
    assert run.cost.images == 512
    assert run.cost.wall_s["eval"] == pytest.approx(sum(task.wall_s for task in stored.tasks))
    assert [epoch.epoch for epoch in stored.history] == [*range(1, 9)]
    assert store.names(stored.folder) == tuple(
        sorted(
            ["run.json", "history.json", "weights.safetensors", "deployed.safetensors"]
            + [f"tasks/{task.key}.{ending}" for task in stored.tasks for ending in ("json", "npz")]
        )
    )


def test_measurements_are_views_of_the_stored_outcomes(finished):
    (stored,) = store.find_runs(finished)
    assert {task.task: task.test_data.n for task in stored.tasks} == {"clean": 64, "pgd": 64}
    seen = 0
    for task in stored.tasks:
        for one in task.measurements:
            outcomes = stored.outcomes(task.key, one.outcomes)
            assert outcomes.dtype == np.bool_
            assert (len(outcomes), outcomes.mean()) == (one.n, one.value)
            seen += 1
    assert seen == 4  # two tasks, two branches


def test_the_deployed_file_is_a_plain_network_with_the_deployed_scores(finished):
    (stored,) = store.find_runs(finished)
    (job,) = planned(LEARNT, finished)
    network = restoring.network(job.cell, job.train).eval()
    load_state(network, read_state(stored.folder / store.DEPLOYED), where="deployed")
    with torch.no_grad():
        right = network(job.test.images.float() / 255).argmax(1) == job.test.labels
    (clean,) = (task for task in stored.tasks if task.task == "clean")
    recorded = {one.where["branch"]: stored.outcomes(clean.key, one.outcomes) for one in clean.measurements}
    assert right.tolist() == recorded["main"].tolist()
    assert recorded["aux"].tolist() != recorded["main"].tolist()


def test_what_is_done_is_not_done_again(finished, monkeypatch):
    monkeypatch.setattr(runner, "train", None)
    (job,) = planned(LEARNT, finished)
    assert (job.state, job.trained, job.missing) == ("done", True, ())


def test_a_new_task_is_measured_on_the_old_weights(tmp_path, monkeypatch):
    before = carried_out(suite({"name": "clean"}), tmp_path)[0]
    monkeypatch.setattr(runner, "train", None)
    (job,) = planned(suite({"name": "clean"}, PGD), tmp_path)
    assert (job.state, job.trained, [task.name for task in job.missing]) == ("half-done", True, ["pgd"])
    (after,) = carried_out(suite({"name": "clean"}, PGD), tmp_path)
    assert after.run.weights_sha256 == before.run.weights_sha256
    assert after.tasks[0] == before.tasks[0]
    assert after.run.status == "done"


def test_a_new_label_is_recorded_without_work(tmp_path, monkeypatch):
    carried_out(suite({"name": "probe"}), tmp_path)
    monkeypatch.setattr(runner, "train", None)
    Probe.seen.clear()
    (stored,) = carried_out(suite({"name": "probe"}, methods=[{"name": "standard", "label": "plain"}]), tmp_path)
    assert (stored.run.label, stored.run.status, Probe.seen) == ("plain", "done", [])


def test_the_same_suite_twice_gives_the_same_bits(finished, tmp_path):
    first, second = store.find_runs(finished), carried_out(LEARNT, tmp_path)
    assert [contents(stored) for stored in first] == [contents(stored) for stored in second]


def test_runs_of_other_seeds_differ_and_are_judged_alike(tmp_path):
    runs = carried_out(suite({"name": "probe"}, seeds=[1, 2]), tmp_path)
    assert runs[0].run.weights_sha256 != runs[1].run.weights_sha256
    contexts = [context for _, _, context in Probe.seen]
    assert contexts[0].seed == contexts[1].seed == runner.EVALUATION_SEED


def test_methods_start_from_the_same_weights_at_a_seed(tmp_path):
    jobs = planned(suite(methods=("standard", "entprop"), seeds=[1, 2]), tmp_path)
    weights = [restoring.network(job.cell, job.train).state_dict() for job in jobs]
    key = next(key for key, value in weights[0].items() if value.ndim == 4)
    assert torch.equal(weights[0][key], weights[2][key])
    assert torch.equal(weights[1][key], weights[3][key])
    assert not torch.equal(weights[0][key], weights[1][key])


def test_the_initial_weights_do_not_depend_on_what_ran_before(tmp_path):
    (job,) = planned(suite(), tmp_path)
    first = restoring.network(job.cell, job.train).state_dict()
    torch.rand(5)
    second = restoring.network(job.cell, job.train).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_every_branch_is_judged_as_a_plain_network(tmp_path):
    carried_out(suite({"name": "probe"}, methods=("entprop",)), tmp_path)
    ((models, data, context),) = Probe.seen
    assert list(models) == ["main", "aux"]
    assert (context.deployed, context.device.type, len(data.labels)) == ("main", "cpu", 64)
    for model in models.values():
        assert not any(module.training for module in model.modules())
        assert not any("aux_bn" in key for key in model.state_dict())
    norms = [[v for k, v in model.state_dict().items() if k.endswith("running_mean")] for model in models.values()]
    assert not any(torch.equal(main, aux) for main, aux in zip(*norms, strict=True))


def test_a_failing_task_is_recorded_and_the_others_are_kept(tmp_path):
    (stored,) = carried_out(suite({"name": "probe", "fail": True}, {"name": "clean"}), tmp_path)
    assert stored.run.status == "failed"
    assert stored.run.error == "probe: MemoryError: no room for more"
    assert "measure" in store.read_bytes(stored.folder, runner.ERROR).decode()
    assert [task.task for task in stored.tasks] == ["clean"]
    (job,) = planned(suite({"name": "probe"}, {"name": "clean"}), tmp_path)
    assert (job.state, job.trained, [task.name for task in job.missing]) == ("failed", True, ["probe"])
    (stored,) = carried_out(suite({"name": "probe"}, {"name": "clean"}), tmp_path)
    assert (stored.run.status, stored.run.error) == ("done", None)
    assert runner.ERROR not in store.names(stored.folder)


def test_a_training_that_diverges_is_recorded_and_not_judged(tmp_path):
    chosen = suite({"name": "probe"}, training={"epochs": 2, "batch_size": 32, "precision": "float32", "lr": 1e18})
    (stored,) = carried_out(chosen, tmp_path)
    assert stored.run.status == "failed"
    assert stored.run.error is not None
    assert stored.run.error.startswith(f"training: {Diverged.__name__}: ")
    assert (stored.run.weights_sha256, stored.tasks, Probe.seen) == (None, (), [])
    assert store.WEIGHTS not in store.names(stored.folder)


def counted_writes(patch: pytest.MonkeyPatch, survive: int) -> list[str]:
    """Lets some writes pass, then kills; the names that were written."""
    real, written = store.write_bytes, []

    def write_bytes(folder, name, data):
        if len(written) == survive:
            raise Killed
        written.append(name)
        return real(folder, name, data)

    patch.setattr(store, "write_bytes", write_bytes)
    return written


def test_a_kill_between_any_two_writes_changes_nothing(tmp_path):
    training = suite().training | {"epochs": 1, "checkpoint_seconds": 1e-9}
    chosen = suite({"name": "probe"}, methods=("entprop",), training=training)
    with pytest.MonkeyPatch.context() as patch:
        names = counted_writes(patch, 10**6)
        (whole,) = carried_out(chosen, tmp_path / "whole")
    assert names[0] == names[-1] == store.RUN
    assert names.count(CHECKPOINT) == 3  # one per step and one at the end
    for survive in range(len(names)):
        out = tmp_path / str(survive)
        with pytest.MonkeyPatch.context() as patch:
            counted_writes(patch, survive)
            with pytest.raises(Killed):
                carried_out(chosen, out)
        (stored,) = carried_out(chosen, out)
        assert contents(stored) == contents(whole), names[survive]
        assert stored.run.status == "done"
        assert CHECKPOINT not in store.names(stored.folder)


def test_training_is_not_repeated_after_the_weights_were_written(tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_measure", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            carried_out(suite({"name": "probe"}), tmp_path)
    monkeypatch.setattr(runner, "train", None)
    (job,) = planned(suite({"name": "probe"}), tmp_path)
    assert (job.state, job.trained) == ("half-done", True)
    assert run_job(job, RUNTIME, Silent()).status == "done"


def test_two_processes_do_not_work_on_one_run(tmp_path):
    (job,) = planned(suite(), tmp_path)
    with store.locked(job.folder), pytest.raises(store.Busy, match="another process"):
        run_job(job, RUNTIME, Silent())


def test_damage_is_found_before_any_work(finished, tmp_path):
    carried_out(suite({"name": "probe"}), tmp_path)
    (path,) = tmp_path.glob("runs/*/weights.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(store.Damaged, match=f"{path}: damaged"):
        planned(suite({"name": "clean"}), tmp_path)


def test_a_cell_that_is_there_twice_is_refused(tmp_path):
    twice = suite(methods=[{"name": "entprop", "label": "a"}, {"name": "entprop", "label": "b", "k": 0.2}])
    with pytest.raises(UserError, match="the suite holds this cell 2 times"):
        planned(twice, tmp_path)


def test_missing_data_are_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match="cifar10 train: not found"):
        plan(suite(datasets=["cifar10"]), tmp_path / "out", data_dir=tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_task_key_names_the_weights_that_were_judged(finished):
    (stored,) = store.find_runs(finished)
    jobs = planned(LEARNT, finished)
    (job,) = planned(LEARNT, finished / "elsewhere")
    keys = {task_key(task, job.test.ref(), stored.run.weights_sha256) for task in job.missing}
    assert keys == {task.key for task in stored.tasks}
    assert jobs[0].folder.name == job.folder.name


def test_counted_training_flops_are_those_of_the_law(finished):
    (stored,) = store.find_runs(finished)
    (job,) = planned(LEARNT, finished)
    image = job.train.images[:1].float() / 255
    law = 3 * forward_flops(restoring.network(job.cell, job.train), image) * job.cell.method.passes().flops * 512
    assert stored.run.cost is not None
    # k = 0.2 of 16 images is 3 of them; the first convolution needs no input gradient in plain training steps.
    assert stored.run.cost.flops == pytest.approx(law, rel=0.04)


KILLER = """
import os, random, signal, sys, time
from pathlib import Path

from robusteval.config import parse_suite
from robusteval.planning import plan
from robusteval.progress import Silent
from robusteval.runner import run_job
from robusteval.runtime import prepare

training = {"epochs": 20, "batch_size": 32, "precision": "float32", "checkpoint_seconds": 0.02}
tasks = [{"name": "clean"}, {"name": "pgd", "steps": 1, "limit": 32}]
suite = parse_suite({"name": "tiny", "training": training, "methods": [{"name": "entprop"}], "tasks": tasks}, "tiny")


def finished(out, seconds):
    "Whether a process of its own came to the end of the suite before it was killed."
    process = os.fork()
    if not process:
        runtime = prepare("cpu", 1)
        for job in plan(suite, Path(out), limit=64):
            if job.state != "done":
                run_job(job, runtime, Silent())
        os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            assert status == 0
            return True
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


began = time.monotonic()
assert finished(sys.argv[1], 600)
took = time.monotonic() - began
moments = random.Random(0)
killed = [not finished(sys.argv[2], moments.uniform(0, took / 2)) for _ in range(5)]
assert finished(sys.argv[2], 600)
sys.stdout.write(str(sum(killed)))
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(tmp_path):
    command = [sys.executable, "-c", KILLER, str(tmp_path / "whole"), str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    (whole,), (resumed,) = store.find_runs(tmp_path / "whole"), store.find_runs(tmp_path / "killed")
    assert contents(whole) == contents(resumed)
    assert (resumed.run.id, resumed.run.status) == (whole.run.id, "done")


def test_a_job_that_another_process_finished_meanwhile_is_left_alone(tmp_path, monkeypatch):
    (job,) = planned(suite(), tmp_path)
    first = run_job(job, RUNTIME, Silent())
    before = {path: path.stat().st_mtime_ns for path in job.folder.rglob("*.*")}
    monkeypatch.setattr(runner, "train", None)  # would fail if it were called
    assert run_job(job, RUNTIME, Silent()) == first  # the plan is as old as the first call's
    assert {path: path.stat().st_mtime_ns for path in job.folder.rglob("*.*")} == before


def test_a_checkpoint_that_a_kill_left_beside_finished_weights_goes(tmp_path):
    (job,) = planned(suite(), tmp_path)
    run_job(job, RUNTIME, Silent())
    store.write_bytes(job.folder, CHECKPOINT, b"left over")
    done = store.read_record(job.folder, store.RUN, Run)
    store.write_record(job.folder, store.RUN, done.model_copy(update={"status": "running"}))
    run_job(job, RUNTIME, Silent())
    assert CHECKPOINT not in store.names(job.folder)
