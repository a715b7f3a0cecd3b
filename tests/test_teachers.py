"""Methods that learn from another run: cells, order, identity, weights, failure; and snapshots that are judged."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from robusteval import runner, store
from robusteval.cells import expand
from robusteval.config import parse_suite
from robusteval.method import Passes, attach, attached
from robusteval.methods import METHODS
from robusteval.methods.standard import Standard
from robusteval.models.weights import load_state, read_state
from robusteval.options import options
from robusteval.planning import plan
from robusteval.progress import Silent
from robusteval.restoring import network, setting, sibling
from robusteval.runner import run_job
from robusteval.runtime import Runtime
from robusteval.train import snapshot_name

RUNTIME = Runtime(torch.device("cpu"), torch.get_num_threads(), "system")


@options
class Learning(Standard):
    """Standard training that agrees with a teacher which smooths its labels."""

    name: ClassVar[str] = "learning"
    weight: float = 1.0

    def teacher(self):
        return Standard(label_smoothing=0.5)

    def wrap(self, model, setting):
        attach(super().wrap(model, setting), teacher=setting.teacher.eval().requires_grad_(False))
        return model

    def step(self, model, batch, backward):
        with torch.no_grad():
            wanted = attached(model, "teacher")(batch.x)
        backward(self.weight * (model(batch.x) - wanted).square().mean())
        return super().step(model, batch, backward)

    def passes(self):
        return Passes(train={"main": 2}, forward={"teacher": 1})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr("robusteval.cells.METHODS", {**METHODS, "learning": Learning})


def suite(*methods, **changes):
    table = {
        "name": "tiny",
        "training": {"epochs": 2, "batch_size": 32, "precision": "float32"},
        "methods": [{"name": method} if isinstance(method, str) else method for method in methods],
        "tasks": [{"name": "clean"}],
    }
    return parse_suite(table | changes, "tiny")


SMOOTH = {"name": "standard", "label_smoothing": 0.5}


def carried_out(chosen, out):
    for job in plan(chosen, out, limit=64):
        if job.state != "done":
            run_job(job, RUNTIME, Silent())
    return {stored.run.label: stored for stored in store.find_runs(out)}


def test_a_teacher_is_a_cell_of_its_own_before_its_first_student():
    cells = expand(suite("standard", {"name": "learning", "weight": 2.0}, "learning", seeds=[1, 2]))
    assert [(cell.label, cell.seed) for cell in cells] == [
        ("standard", 1),
        ("standard", 2),
        ("standard (teacher)", 1),
        ("learning weight=2.0", 1),
        ("standard (teacher)", 2),
        ("learning weight=2.0", 2),
        ("learning", 1),
        ("learning", 2),
    ]
    assert [cell.teacher for cell in cells[3:6:2]] == [cells[2], cells[4]]
    assert cells[6].teacher == cells[2]


def test_a_listed_teacher_is_the_one_and_comes_first():
    cells = expand(suite("learning", SMOOTH, "mixup"))
    assert [cell.label for cell in cells] == ["standard", "learning", "mixup"]
    assert cells[1].teacher == cells[0]


def test_a_teacher_is_trained_as_the_suite_says_and_not_as_its_student():
    cells = expand(suite({"name": "learning", "training": {"lr": 0.5}}))
    assert [cell.training.lr for cell in cells] == [0.1, 0.5]


def test_a_cell_that_is_listed_twice_is_still_listed_twice():
    cells = expand(suite("learning", SMOOTH, SMOOTH))
    assert [cell.method for cell in cells].count(Standard(label_smoothing=0.5)) == 2


def test_the_identity_of_a_student_depends_on_its_teacher(tmp_path):
    (teacher, student) = plan(suite("learning"), tmp_path, limit=64)
    other = replace(student.cell, teacher=replace(teacher.cell, training=replace(teacher.cell.training, lr=0.2)))
    assert other.identity(student.train.ref()) != student.folder.name
    assert student.teacher == teacher.folder


def test_the_student_learns_from_the_trained_teacher(tmp_path):
    runs = carried_out(suite("learning"), tmp_path)
    teacher, student = runs["standard (teacher)"], runs["learning"]
    assert (student.run.teacher, teacher.run.teacher) == (teacher.run.id, None)
    assert (teacher.run.status, student.run.status) == ("done", "done")
    kept, _ = store.read_tensors(student.folder, store.WEIGHTS)
    taught, _ = store.read_tensors(teacher.folder, store.DEPLOYED)
    for key, value in taught.items():
        assert torch.equal(kept[f"training_only.teacher.{key}"], value), key
    deployed = read_state(student.folder / store.DEPLOYED)
    assert deployed.keys() == taught.keys()
    assert student.run.cost is not None
    assert teacher.run.cost is not None
    assert student.run.cost.backward == {"main": 2 * teacher.run.cost.backward["main"]}


def test_a_teacher_is_trained_once_for_all_its_students(tmp_path, monkeypatch):
    carried_out(suite("learning"), tmp_path)
    trained = []
    real = runner.train
    monkeypatch.setattr(runner, "train", lambda *args, **rest: trained.append(args[1].name) or real(*args, **rest))
    carried_out(suite({"name": "learning", "weight": 2.0}), tmp_path)
    assert trained == ["learning"]
    assert len(store.find_runs(tmp_path)) == 3


def test_a_student_without_a_teacher_says_what_is_missing(tmp_path):
    _, student = plan(suite("learning"), tmp_path, limit=64)
    run = run_job(student, RUNTIME, Silent())
    assert run.status == "failed"
    assert run.error == f"training: learning: its teacher has no weights yet: {student.teacher.name}; train it first"
    assert carried_out(suite("learning"), tmp_path)["learning"].run.status == "done"


def test_a_student_waits_for_a_teacher_that_another_process_trains(tmp_path):
    teacher, student = plan(suite("learning"), tmp_path, limit=64)
    with store.locked(teacher.folder):
        runner._begin(teacher, RUNTIME)
        with pytest.raises(store.Busy, match=teacher.folder.name):
            run_job(student, RUNTIME, Silent())
    assert store.names(student.folder) == ()
    assert carried_out(suite("learning"), tmp_path)["learning"].run.status == "done"


def test_snapshots_are_judged_as_the_final_weights_are(tmp_path):
    training = {"epochs": 4, "batch_size": 32, "precision": "float32", "snapshots": 2}
    tasks = [{"name": "clean"}, {"name": "pgd", "steps": 2, "limit": 8}]
    stored = carried_out(suite("entprop", training=training, tasks=tasks), tmp_path)["entprop"]
    assert [one.epoch for one in stored.run.snapshots] == [1, 2]
    assert [(task.epoch, task.task) for task in stored.on_the_way] == [
        (1, "clean"),
        (1, "pgd"),
        (2, "clean"),
        (2, "pgd"),
    ]
    assert {task.task for task in stored.tasks} == {"clean", "pgd"}
    (job,) = plan(suite("entprop", training=training, tasks=tasks), tmp_path, limit=64)
    assert (job.state, job.missing) == ("done", ())
    for snapshot in stored.run.snapshots:
        model = job.cell.method.wrap(network(job.cell, job.train), setting(job.cell, job.train))
        load_state(model, read_state(stored.folder / snapshot_name(snapshot.epoch)), where="snapshot")
        plain = job.cell.method.deploy(model, "aux").eval()
        with torch.no_grad():
            right = plain(job.test.images.float() / 255).argmax(1) == job.test.labels
        (task,) = (t for t in stored.on_the_way if (t.epoch, t.task) == (snapshot.epoch, "clean"))
        (one,) = (m for m in task.measurements if m.where["branch"] == "aux")
        assert task.weights_sha256 == snapshot.weights_sha256
        assert one.value == right.float().mean().item()


def test_a_new_task_is_measured_on_old_snapshots_too(tmp_path):
    training = {"epochs": 2, "batch_size": 32, "precision": "float32", "snapshots": 1}
    carried_out(suite("standard", training=training), tmp_path)
    both = suite("standard", training=training, tasks=[{"name": "clean"}, {"name": "pgd", "steps": 1, "limit": 4}])
    stored = carried_out(both, tmp_path)["standard"]
    assert [task.task for task in stored.on_the_way] == ["clean", "pgd"]


def test_a_sibling_is_trained_alike_and_of_several_the_default_one(tmp_path):
    training = {"epochs": 1, "batch_size": 32, "precision": "float32"}
    longer = {"name": "standard", "training": {"epochs": 2}}
    watched = {"name": "standard", "label_smoothing": 0.1, "training": {"shadow_momenta": [0.5]}}
    out = suite("learning", longer, SMOOTH, training=training)
    carried_out(out, tmp_path)
    (job,) = (one for one in plan(out, tmp_path, limit=64) if one.cell.label == "learning")

    def weight():
        network = sibling(job, RUNTIME, "standard")
        return None if network is None else network.state_dict()["conv1.weight"]

    def of(label):
        (stored,) = (one for one in store.find_runs(tmp_path) if one.run.label == label)
        return read_state(stored.folder / store.DEPLOYED)["conv1.weight"]

    assert torch.equal(weight(), of("standard label_smoothing=0.5"))  # its own teacher, and not the longer run
    carried_out(suite("standard", watched, training=training), tmp_path)
    assert torch.equal(weight(), of("standard"))
    assert sibling(job, RUNTIME, "mixup") is None


def counted_writes(patch, survive):
    """Lets some writes pass, then kills; the names that were written."""
    real, written = store.write_bytes, []

    def write_bytes(folder, name, data):
        if len(written) == survive:
            raise Killed
        written.append(name)
        return real(folder, name, data)

    patch.setattr(store, "write_bytes", write_bytes)
    return written


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours handles it."""


def results(out):
    """What must not depend on interruptions, by label."""
    found = {}
    for stored in store.find_runs(out):
        run = stored.run
        costs = [(one.epoch, one.weights_sha256, one.cost.images, one.cost.flops) for one in run.snapshots]
        tasks = [(task.key, task.epoch, task.measurements) for task in (*stored.tasks, *stored.on_the_way)]
        found[run.label] = (run.status, run.weights_sha256, stored.history, costs, tasks, store.names(stored.folder))
    return found


def test_a_kill_around_a_snapshot_or_between_teacher_and_student_changes_nothing(tmp_path):
    training = {"epochs": 2, "batch_size": 64, "precision": "float32", "snapshots": 1, "checkpoint_seconds": 1e-9}
    chosen = suite("learning", training=training)
    with pytest.MonkeyPatch.context() as patch:
        names = counted_writes(patch, 10**6)
        carried_out(chosen, tmp_path / "whole")
    half = len(names) // 2
    assert names[0] == names[half] == store.RUN  # of the teacher, of its student
    kept = half + names[half:].index(snapshot_name(1))
    for survive in (half, kept, kept + 1):
        out = tmp_path / str(survive)
        with pytest.MonkeyPatch.context() as patch:
            counted_writes(patch, survive)
            with pytest.raises(Killed):
                carried_out(chosen, out)
        carried_out(chosen, out)
        assert results(out) == results(tmp_path / "whole"), survive
