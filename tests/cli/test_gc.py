"""``gc``: what nothing needs goes, what a run is made of stays, at whatever instant it is stopped."""

import json
import os
import shutil
import time
from contextlib import suppress

import numpy as np
import pytest

from robusteval import clearing, drafts, garbage, manifest, store
from robusteval.checkpoints import CHECKPOINT
from robusteval.cli.gc import seconds
from robusteval.errors import UserError
from robusteval.garbage import Chosen
from robusteval.runner import ERROR
from robusteval.store import find_runs, load_run, write_arrays, write_bytes, write_record
from robusteval.tags import FILE
from robusteval.train import snapshot_name

OLD = "ab" * 32
"""A digest of weights that no run has."""


@pytest.fixture
def out(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def run(out):
    (found,) = out.glob("runs/*-standard-*")
    return found


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def needless(run):
    """Puts one of each kind of waste into a finished run's folder; name -> why."""
    task = load_run(run).tasks[0]
    stale = task.model_copy(update={"weights_sha256": OLD, "key": "clean-0123456789ab"})
    write_record(run, f"tasks/{stale.key}.json", stale)
    for name in (f"tasks/{stale.key}.npz", "tasks/pgd-unfinished.npz", f"drafts/{task.key}.npz", "drafts/pgd-gone.npz"):
        write_arrays(run, name, {"x": np.zeros(1000)})
    write_bytes(run, CHECKPOINT, b"weights")
    write_bytes(run, snapshot_name(7), b"weights")
    (run / "weights.safetensors.tmp").write_bytes(b"half")
    (run / "manifest.json.tmp").write_bytes(b"half")
    (run / "tasks" / "clean-never.json").write_bytes(b"renamed, but a kill came before the manifest")
    return {
        f"tasks/{stale.key}.json": "numbers of weights that are no longer the run's",
        f"tasks/{stale.key}.npz": "outcomes of weights that are no longer the run's",
        "tasks/pgd-unfinished.npz": "outcomes without a record",
        f"drafts/{task.key}.npz": "draft of a task that is done",
        "drafts/pgd-gone.npz": "draft of a task that the run was finished without",
        CHECKPOINT: "checkpoint of a training that is complete",
        snapshot_name(7): "snapshot that the run does not name",
        "weights.safetensors.tmp": "half-written file",
        "manifest.json.tmp": "half-written file",
        "tasks/clean-never.json": "half-written file",
    }


def test_every_name_that_a_run_folder_gets_is_known(finished):
    for folder in finished.glob("runs/*"):
        assert all(garbage._NAMES.fullmatch(name) for name in store.names(folder))
    for name in (CHECKPOINT, snapshot_name(12), ERROR, FILE, f"{drafts.FOLDER}pgd-0.npz"):
        assert garbage._NAMES.fullmatch(name)
    assert garbage._SNAPSHOT.fullmatch(snapshot_name(12))[1] == "12"


def test_nothing_of_a_clean_folder_goes(cli, out):
    before = contents(out)
    assert cli("gc", "--out", out) == (0, "nothing to remove\n", "")
    assert cli("gc", "--yes", "--failed", "--out", out) == (0, "nothing to remove\n", "")
    assert contents(out) == before


def test_each_kind_of_waste_is_listed_then_removed_and_the_rest_stays_to_the_byte(cli, out, run):
    before = contents(out)
    expected = needless(run)
    full = contents(out)
    code, shown, err = cli("gc", "--out", out, "--json")
    listed = json.loads(shown)
    assert (code, err, listed["removed"], listed["at_work"]) == (0, "", False, [])
    assert {one["path"]: one["why"] for one in listed["files"]} == {
        str(run / name): why for name, why in expected.items()
    }
    assert listed["bytes"] == sum((run / name).stat().st_size for name in expected)
    assert "to remove: 10 files, 0.0" in cli("gc", "--out", out).out
    assert contents(out) == full  # a list changes nothing
    code, shown, err = cli("gc", "--yes", "--out", out)
    assert (code, err) == (0, "")
    assert shown.splitlines()[-1].startswith("removed: 10 files, 0.0")
    assert contents(out) == before
    assert cli("gc", "--out", out).out == "nothing to remove\n"


def test_what_was_removed_is_not_missed(cli, finished, out, run):
    needless(run)
    cli("gc", "--yes", "--out", out)
    assert (
        cli("run", finished.parent / "two.toml", "--out", out, "--limit", "64").err == "2 of 2 cells are done already\n"
    )


def test_what_an_unfinished_run_goes_on_from_stays(cli, out, run):
    stored = load_run(run)
    unfinished = stored.run.model_copy(update={"status": "running", "weights_sha256": None})
    write_bytes(run, CHECKPOINT, b"weights")
    write_bytes(run, snapshot_name(7), b"weights")  # its name comes into the record at the end of training
    write_record(run, "run.json", unfinished)
    listed = [one.name for one in garbage.of_run(run, Chosen())]
    assert all(name.startswith("tasks/") for name in listed)  # numbers of weights that it had
    judged = stored.run.model_copy(update={"status": "running"})
    write_record(run, "run.json", judged)
    write_arrays(run, "drafts/pgd-going-on.npz", {"x": np.zeros(3)})
    assert [one.name for one in garbage.of_run(run, Chosen())] == [CHECKPOINT, snapshot_name(7)]


def test_foreign_files_stay_even_in_a_folder_that_goes(cli, out, run):
    needless(run)
    mine = [
        run / "my notes.txt",
        run / "tasks" / "plot.png",
        out / "plots" / "mine.png",
        out / "draft.tmp",
        out / "x.json",
    ]
    target = out.parent / "elsewhere.npz"
    target.write_bytes(b"mine")
    (run / "drafts").mkdir(exist_ok=True)
    (run / "drafts" / "link.npz").symlink_to(target)
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))
    failed = load_run(run).run.model_copy(update={"status": "failed", "weights_sha256": None, "error": "x"})
    write_record(run, "run.json", failed)
    assert cli("gc", "--yes", "--failed", "--out", out).code == 0
    assert all(path.read_bytes() == b"mine" for path in [*mine, target, run / "drafts" / "link.npz"])
    assert sorted(path.name for path in run.rglob("*") if path.is_file()) == [
        ".lock",
        "link.npz",
        "my notes.txt",
        "plot.png",
    ]


def test_other_folders_with_a_manifest_are_no_runs(cli, out):
    """Generated corruptions that are kept beside the runs."""
    other = out / "cache"
    write_bytes(other, "fog-3.npy", b"images")
    before = contents(out)
    assert cli("gc", "--yes", "--failed", "--out", out) == (0, "nothing to remove\n", "")
    assert contents(out) == before


def test_failed_runs_go_only_when_asked_for_and_only_without_weights(cli, out, run):
    (other,) = out.glob("runs/*-entprop-*")
    for folder, weights in ((run, None), (other, load_run(other).run.weights_sha256)):
        failed = load_run(folder).run.model_copy(update={"status": "failed", "weights_sha256": weights, "error": "x"})
        write_record(folder, "run.json", failed)
    cli("gc", "--yes", "--out", out)
    assert {one.folder for one in find_runs(out)} == {run, other}
    listed = cli("gc", "--failed", "--out", out).out
    assert "run whose training failed" in listed
    assert other.name not in listed
    cli("gc", "--failed", "--yes", "--out", out)
    assert [path.name for path in out.glob("runs/*")] == [other.name]


def test_a_run_at_work_is_left_alone(cli, out, run):
    needless(run)
    before = contents(run)
    with store.locked(run):
        for arguments in ((), ("--yes",), ("--yes", "--failed")):
            code, shown, err = cli("gc", *arguments, "--out", out)
            assert (code, err) == (0, f"left alone: {run}: a process works on it\n")
            assert run.name not in shown
        assert json.loads(cli("gc", "--out", out, "--json").out)["at_work"] == [str(run)]
    assert contents(run) == before


def test_a_list_writes_nothing_not_even_a_lock(cli, out, run):
    for path in out.glob("runs/*/.lock"):
        path.unlink()
    before = contents(out)
    cli("gc", "--out", out)
    assert contents(out) == before


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours handles it."""


@pytest.mark.parametrize("failed", [False, True])
def test_a_kill_at_any_instant_leaves_whole_runs(cli, finished, tmp_path, monkeypatch, failed):
    """Before each write and each removal in turn; the next call finishes the work."""
    monkeypatch.setattr("os.fsync", lambda handle: None)  # no power is cut here
    for instant in range(200):
        out = tmp_path / str(instant)
        shutil.copytree(finished / "runs", out / "runs")
        (run,) = out.glob("runs/*-standard-*")
        write_bytes(run, CHECKPOINT, b"weights")
        write_arrays(run, f"drafts/{load_run(run).tasks[0].key}.npz", {"x": np.zeros(3)})
        (run / "weights.safetensors.tmp").write_bytes(b"half")
        if failed:
            gone = load_run(run).run.model_copy(update={"status": "failed", "weights_sha256": None, "error": "x"})
            write_record(run, "run.json", gone)
        left = [instant]

        def counted(real, left=left):
            def call(*arguments, **options):
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(manifest, "replace", counted(manifest.replace))
            patch.setattr("pathlib.Path.unlink", counted(type(out).unlink))
            with suppress(Killed):
                clearing.clear_run(run, Chosen(failed=failed))
        for stored in find_runs(out):  # each that is still there can be read whole
            for name in store.names(stored.folder):
                store.read_bytes(stored.folder, name)
        assert cli("gc", "--yes", "--failed", "--out", out).code == 0
        assert [one.run.status for one in find_runs(out)] == ["done"] * (1 if failed else 2)
        if failed:
            assert not run.exists() or contents(run).keys() <= {".lock"}
        else:
            assert contents(run) == {
                **contents(finished / "runs" / run.name),
                "manifest.json": contents(run)["manifest.json"],
            }
        shutil.rmtree(out)
        if left[0]:
            break
    else:
        raise AssertionError("never ran to its end")
    assert instant > 4


def test_a_damaged_run_is_named_and_left_alone(cli, out, run):
    needless(run)
    (run / "manifest.json").write_bytes(b"{}")
    before = contents(run)
    code, _, err = cli("gc", "--yes", "--failed", "--out", out)
    assert code == 1
    assert err.startswith(f"left alone: {run / 'manifest.json'}: damaged")
    assert contents(run) == before


def test_an_interrupted_report_leaves_half_written_files_only(cli, out):
    before = contents(out)
    names = ("leaderboard.csv.tmp", "leaderboard-long.csv.tmp", "plots/cost-vs-pgd-20.svg.tmp")
    for name in names:
        (out / name).write_bytes(b"half")
    assert cli("gc", "--yes", "--out", out).out == "nothing to remove\n"  # its report may be at work
    for name in names:
        os.utime(out / name, (time.time() - 61,) * 2)
    code, shown, _ = cli("gc", "--yes", "--out", out)
    assert code == 0
    assert shown.count("half-written file of a report") == 3
    assert contents(out) == before


def test_only_what_is_old_enough(cli, out, run):
    needless(run)
    day = time.time() - 86400
    os.utime(run / CHECKPOINT, (day, day))
    assert [one.name for one in garbage.of_run(run, Chosen(older_than=seconds("23h")))] == [CHECKPOINT]
    assert garbage.of_run(run, Chosen(older_than=seconds("25h"))) == []
    failed = load_run(run).run.model_copy(update={"status": "failed", "weights_sha256": None, "error": "x"})
    write_record(run, "run.json", failed)
    assert garbage.of_run(run, Chosen(failed=True, older_than=seconds("23h"))) == []  # a run goes as a whole
    for path in run.rglob("*"):
        os.utime(path, (day, day))
    assert "run.json" in [one.name for one in garbage.of_run(run, Chosen(failed=True, older_than=seconds("23h")))]


@pytest.mark.parametrize("age", ["", "7", "d", "7 years", "-1d", "1e3d", "nan d"])
def test_what_is_no_age(age):
    with pytest.raises(UserError, match=r"^--older-than: .* is no age; allowed: a number with one of s, min, h, d, w"):
        seconds(age)


def test_a_folder_that_is_not_there(cli):
    code, out, err = cli("gc", "--out", "nowhere")
    assert (code, out, err) == (2, "", "error: gc: nowhere: no such folder; allowed: the --out of earlier runs\n")


def test_a_lock_on_a_removed_folder_keeps_nobody_out(tmp_path, monkeypatch):
    """The folder goes between the opening of the lock file and the locking."""
    folder = tmp_path / "run"
    real = manifest._take

    def late(handle, where):
        shutil.rmtree(folder)
        real(handle, where)

    monkeypatch.setattr(manifest, "_take", late)
    with pytest.raises(store.Busy, match="has just removed it"), store.locked(folder):
        raise AssertionError("locked")
