"""The store, against simulated crashes at every step, flipped bits and newer schemas."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from robusteval import manifest, store
from robusteval.clearing import tidy
from robusteval.errors import UserError
from robusteval.records import Cost, DataRef, Epoch, Measurement, Provenance, Run, TaskRecord
from robusteval.store import Damaged

PROVENANCE = Provenance(
    robusteval="0.1.0",
    commit=None,
    python="3.11.0",
    packages={"torch": "2.10"},
    platform="Linux",
    cpu="a cpu",
    device="cpu",
    threads=2,
    precision="float32",
    created="2026-01-01T00:00:00+00:00",
    command=("robusteval", "run"),
)
DATA = DataRef(name="cifar10-sample", split="train", n=64, digest="0" * 64, verified=True)


def a_run(**changes: object) -> Run:
    fields = {
        "id": "cifar10-sample-resnet8-standard-s0-00000000",
        "label": "standard",
        "method": "standard",
        "options": {},
        "training": {"epochs": 1, "lr": 0.1, "milestones": [0.5, 0.75]},
        "dataset": "cifar10-sample",
        "architecture": "resnet8",
        "seed": 0,
        "status": "done",
        "branches": ("main",),
        "deployed": "main",
        "parameters": 78_042,
        "train_data": DATA,
        "provenance": PROVENANCE,
    }
    return Run.model_validate(fields | changes)


def a_task(key: str, measurements: tuple[Measurement, ...] = ()) -> TaskRecord:
    return TaskRecord(
        task="clean",
        version=1,
        key=key,
        options={},
        test_data=DATA,
        weights_sha256="1" * 64,
        measurements=measurements,
        wall_s=0.5,
        provenance=PROVENANCE,
    )


class Crash(BaseException):
    """Stands for a SIGKILL: nothing of ours handles it."""


class HalfWritten:
    """A file whose write is a step: a crash in it leaves the first half."""

    def __init__(self, file, step):
        self.file, self.step = file, step

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.step()
        self.file.write(data[len(data) // 2 :])


def crash_after(patch: pytest.MonkeyPatch, survive: int) -> None:
    """Lets ``survive`` file operations (open, write, fsync, rename) pass, then crashes."""
    left = [survive]

    def step():
        if left[0] == 0:
            raise Crash
        left[0] -= 1

    def counted(operation):
        def wrapped(*args, **kwargs):
            step()
            return operation(*args, **kwargs)

        return wrapped

    real_open = Path.open

    def opened(path, mode="r", *args, **kwargs):
        if mode != "wb":
            return real_open(path, mode, *args, **kwargs)
        step()
        return HalfWritten(real_open(path, mode, *args, **kwargs), step)

    patch.setattr(os, "fsync", counted(os.fsync))
    patch.setattr(Path, "replace", counted(Path.replace))
    patch.setattr(Path, "open", opened)


def states_after_every_crash(tmp_path: Path, before: bytes | None, after: bytes) -> list[bytes | None]:
    """What a fresh process reads after a crash at the 1st, 2nd, ... file operation of one write."""
    states: list[bytes | None] = []
    for survive in range(100):
        folder = tmp_path / str(survive)
        if before is not None:
            store.write_bytes(folder, "error.txt", before)
        finished = True
        with pytest.MonkeyPatch.context() as patch:
            crash_after(patch, survive)
            try:
                store.write_bytes(folder, "error.txt", after)
            except Crash:
                finished = False
        states.append(store.read_bytes(folder, "error.txt") if "error.txt" in store.names(folder) else None)
        tidy(folder)
        left = {path.name for path in folder.glob("*")} - {"manifest.json"}
        assert left == (set() if states[-1] is None else {"error.txt"})
        store.write_bytes(folder, "error.txt", b"again")  # a crash leaves nothing that stops the next attempt
        assert store.read_bytes(folder, "error.txt") == b"again"
        if finished:
            return states
    raise AssertionError("never finished")


def test_a_crash_leaves_a_new_file_whole_or_unwritten(tmp_path):
    states = states_after_every_crash(tmp_path, None, b"new")
    assert set(states) == {None, b"new"}
    assert states == sorted(states, key=lambda state: state is not None)
    assert len(states) > 8  # two files: open, write, fsync, rename and fsync of the folder each


def test_a_crash_leaves_an_overwritten_file_old_or_new(tmp_path):
    states = states_after_every_crash(tmp_path, b"old", b"new")
    assert set(states) == {b"old", b"new"}
    assert states == sorted(states, key=lambda state: state == b"new")


def test_a_process_killed_while_it_writes_leaves_old_or_new(tmp_path):
    """The same with a real SIGKILL at a random moment; the file is big enough to be hit in the middle."""
    code = (
        "import sys; from pathlib import Path; from robusteval import store\n"
        "i = 0\n"
        "while True:\n"
        "    store.write_bytes(Path(sys.argv[1]), 'a.bin', bytes([i % 256]) * 500_000); i += 1"
    )
    store.write_bytes(tmp_path, "a.bin", b"first")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while store.read_bytes(tmp_path, "a.bin") == b"first":
        time.sleep(0.01)
    process.kill()
    process.wait()
    data = store.read_bytes(tmp_path, "a.bin")
    assert data == data[:1] * 500_000


def test_a_reader_beside_a_writer_sees_whole_files(tmp_path, monkeypatch):
    """The writer gets in between the reader's look at the manifest and at the file."""
    store.write_bytes(tmp_path, "a.bin", b"old")
    real = Path.read_bytes
    pending = [b"new", b"newer"]

    def interrupted(path):
        if path.name == "a.bin" and pending:
            store.write_bytes(tmp_path, "a.bin", pending.pop(0))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", interrupted)
    assert store.read_bytes(tmp_path, "a.bin") == b"newer"


def a_complete_run(folder: Path) -> None:
    store.write_tensors(folder, store.WEIGHTS, {"w": torch.arange(4.0)}, {"method": "standard"})
    history = store.History(epochs=(Epoch(epoch=1, logs={"loss": 2.25}, lr=0.1),))
    store.write_record(folder, store.HISTORY, history)
    measurement = Measurement(task="clean", metric="accuracy", value=2 / 3, n=3, where={"branch": "main"}, outcomes="0")
    store.write_arrays(folder, "tasks/clean-1.npz", {"0": np.array([True, False, True])})
    store.write_record(folder, "tasks/clean-1.json", a_task("clean-1", (measurement,)))
    store.write_record(folder, store.RUN, a_run())


def read_everything(folder: Path) -> None:
    stored = store.load_run(folder)
    stored.outcomes("clean-1", "0")
    store.read_tensors(folder, store.WEIGHTS)


def test_a_flipped_bit_anywhere_is_one_clear_error(tmp_path):
    a_complete_run(tmp_path)
    read_everything(tmp_path)
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert len(files) == 6
    for path in files:
        whole = path.read_bytes()
        for position in range(0, len(whole), 1 if path.name == "manifest.json" else 7):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << (position % 8)
            path.write_bytes(bytes(flipped))
            with pytest.raises(Damaged, match="damaged") as caught:
                read_everything(tmp_path)
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    read_everything(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "weights.safetensors", "tasks/clean-1.npz"])
@pytest.mark.parametrize("how", ["truncated", "emptied", "removed"])
def test_other_damage_is_the_same_error(tmp_path, name, how):
    a_complete_run(tmp_path)
    path = tmp_path / name
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2 if how == "truncated" else 0])
    with pytest.raises(Damaged, match=str(path)):
        read_everything(tmp_path)


def test_what_is_written_is_read(tmp_path):
    a_complete_run(tmp_path / "runs" / "b")
    (stored,) = store.find_runs(tmp_path)
    assert stored.run == a_run()
    assert stored.history == (Epoch(epoch=1, logs={"loss": 2.25}, lr=0.1),)
    assert [task.key for task in stored.tasks] == ["clean-1"]
    assert stored.outcomes("clean-1", "0").tolist() == [True, False, True]
    assert store.find_runs(tmp_path / "runs") == store.find_runs(tmp_path / "runs" / "b") == [stored]
    assert store.find_runs(tmp_path / "nothing") == []


def test_tensors_keep_every_bit_and_equal_tensors_give_equal_files(tmp_path):
    tied = torch.randn(3)
    tensors = {
        "half": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16),
        "tied": tied,
        "again": tied,
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "counter": torch.tensor(7),
    }
    meta = dict.fromkeys("abcdefgh", "ä\n")
    first = store.write_tensors(tmp_path, "a.safetensors", tensors, meta)
    assert store.write_tensors(tmp_path, "b.safetensors", tensors, dict(reversed(meta.items()))) == first
    read, read_meta = store.read_tensors(tmp_path, "a.safetensors")
    assert read_meta == meta
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)


def test_array_files_do_not_depend_on_the_time_of_day(tmp_path, monkeypatch):
    arrays = {"0": np.arange(5) > 2, "weird/key": np.zeros((2, 0), np.float32)}
    first = store.write_arrays(tmp_path, "a.npz", arrays)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert store.write_arrays(tmp_path, "a.npz", arrays) == first
    read = store.read_arrays(tmp_path, "a.npz")
    assert {key: array.tolist() for key, array in read.items()} == {
        "0": [False] * 3 + [True] * 2,
        "weird/key": [[], []],
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_never_written(tmp_path, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        store.write_record(tmp_path, "run.json", a_run(training={"lr": value}))
    assert store.names(tmp_path) == ()
    with pytest.raises(ValueError, match="finite"):
        Cost(
            wall_s={"train": value},
            images=1,
            forward={},
            backward={},
            flops=1,
            peak_memory_bytes=None,
            device="cpu",
            threads=1,
            precision="float32",
        )


@pytest.mark.parametrize("name", ["run.json", "history.json", "tasks/clean-1.json"])
def test_a_newer_schema_is_refused_and_said(tmp_path, name):
    a_complete_run(tmp_path)
    raw = json.loads(store.read_bytes(tmp_path, name)) | {"schema_version": 2, "a_new_field": 1}
    store.write_bytes(tmp_path, name, json.dumps(raw).encode())
    with pytest.raises(UserError, match=r"newer robusteval \(record schema 2\).*up to 1"):
        store.find_runs(tmp_path)


def test_a_record_of_another_kind_is_one_clear_error(tmp_path):
    store.write_record(tmp_path, "run.json", a_task("x"))
    with pytest.raises(UserError, match=r"run\.json: not a Run record: id: Field required"):
        store.find_runs(tmp_path)


def test_removed_files_are_unwritten_and_leftovers_are_tidied(tmp_path):
    store.write_bytes(tmp_path, "checkpoint-1.safetensors", b"1")
    store.write_bytes(tmp_path, "tasks/clean-1.npz", b"2")
    store.remove(tmp_path, "checkpoint-1.safetensors")
    store.remove(tmp_path, "never.there")
    (tmp_path / "tasks" / "orphan.json").write_bytes(b"3")
    (tmp_path / "run.json.tmp").write_bytes(b"4")
    mine = (tmp_path / "notes.txt", tmp_path / "tasks" / "plot.png", tmp_path / "paper.tmp")
    for path in mine:
        path.write_bytes(b"somebody's")
    tidy(tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"manifest.json", "clean-1.npz", *(path.name for path in mine)}
    with pytest.raises(UserError, match="never completely written"):
        store.read_bytes(tmp_path, "checkpoint-1.safetensors")


def test_one_process_per_folder_and_a_dead_one_does_not_count(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from robusteval import store\n"
        "with store.locked(Path(sys.argv[1])):\n"
        "    print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match="another process"), store.locked(tmp_path):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with store.locked(tmp_path):
        pass


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        store.write_bytes(tmp_path / "file" / "run", "a.bin", b"1")
    with pytest.raises(UserError, match="cannot be written"), store.locked(tmp_path / "file" / "run"):
        pass


def test_a_folder_without_a_complete_record_is_no_run(tmp_path):
    store.write_bytes(tmp_path / "runs" / "a", store.WEIGHTS, b"1")
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "run.json").write_text("{}")
    assert store.find_runs(tmp_path) == []
    assert manifest.names(tmp_path / "runs" / "b") == ()


def test_a_record_is_the_same_read_from_json_and_from_what_json_holds(tmp_path):
    """Numbers and their types: an integer stays one, and truth is no number."""
    options = {"a": 1, "b": 1.0, "c": True, "d": None, "e": [1, 2.5e-300], "f": 0.1 + 0.2, "g": 2**60, "h": "1"}
    store.write_record(tmp_path, "run.json", a_run(options=options))
    read = store.read_record(tmp_path, "run.json", Run)
    assert read == Run.model_validate(json.loads(store.read_bytes(tmp_path, "run.json")))
    assert repr(read.options) == repr(options)
