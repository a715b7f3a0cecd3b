"""What a task missed because another run was not there yet is measured when it is; nothing else is measured twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robusteval import store
from robusteval.config import Suite, parse_suite
from robusteval.planning import Job, plan
from robusteval.progress import Silent
from robusteval.records import TaskRecord
from robusteval.runner import run_job
from robusteval.runtime import Runtime

RUNTIME = Runtime(torch.device("cpu"), torch.get_num_threads(), "system")
CLEAN = {"name": "clean", "limit": 8}
TRANSFER = {"name": "transfer", "sources": ["mixup", "standard"], "steps": 2, "limit": 8, "checked": 4}
TEACHER = {"name": "teacher", "names": ["gaussian_noise"], "source": "generated", "limit": 8}
LATE = {"transfer": ("mixup", TRANSFER), "teacher": ("counterbalancing_teacher", TEACHER)}
"""By task that looks at another run, ``standard``: a method that it measures, and the task."""


def suite(*methods: str, task: dict[str, Any]) -> Suite:
    training = {"epochs": 1, "batch_size": 32, "precision": "float32"}
    table = {"name": "two", "training": training, "methods": [{"name": name} for name in methods]}
    return parse_suite(table | {"tasks": [CLEAN, task]}, "two")


def jobs(out: Path, *methods: str, task: dict[str, Any]) -> dict[str, Job]:
    return {job.cell.method.name: job for job in plan(suite(*methods, task=task), out, limit=64)}


def work(out: Path, *methods: str, task: dict[str, Any]) -> list[str]:
    """What was still to be done: method and task, after doing it."""
    done = []
    for method, job in jobs(out, *methods, task=task).items():
        done += [f"{method} {missing.name}" for missing in job.missing]
        assert run_job(job, RUNTIME, Silent()).status == "done"
    return done


def record(out: Path, method: str, name: str) -> TaskRecord:
    (found,) = [
        task
        for stored in store.find_runs(out)
        for task in stored.tasks
        if (stored.run.method, task.task) == (method, name)
    ]
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix}


@pytest.mark.parametrize("name", LATE)
def test_what_came_too_late_is_measured_by_the_next_run(name: str, tmp_path: Path) -> None:
    method, task = LATE[name]
    early, late = tmp_path / "early", tmp_path / "late"
    work(early, "standard", method, task=task)
    work(late, method, task=task)

    waiting = record(late, method, name)
    assert waiting.awaits == ("standard",)
    assert any(m.value is None for m in waiting.measurements)
    assert work(late, method, task=task) == []  # nothing has come

    assert f"{method} {name}" not in work(late, "standard", task=task)
    job = jobs(late, method, task=task)[method]
    assert (job.state, job.trained, [task.name for task in job.missing]) == ("half-done", True, [name])
    before = contents(job.folder)
    assert work(late, "standard", method, task=task) == [f"{method} {name}"]
    after = contents(job.folder)
    touched = {file for file in before | after if before.get(file) != after.get(file)}
    key = waiting.key
    allowed = {f"tasks/{key}.json", f"tasks/{key}.npz", "run.json", "manifest.json", f"drafts/{key}.npz"}
    assert f"tasks/{key}.json" in touched <= allowed
    assert not [file for file in after if file.startswith("drafts")]

    found, expected = record(late, method, name), record(early, method, name)
    assert found.awaits == expected.awaits == ()
    assert found.measurements == expected.measurements
    assert all(m.value is not None for m in found.measurements)
    assert work(late, "standard", method, task=task) == []


def test_sources_that_were_there_are_not_attacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robusteval.tasks import surrogate

    attacks: list[str] = []
    attack: Callable[..., Any] = surrogate._judged

    def counted(*given: Any, **named: Any) -> Any:
        attacks.append("")
        return attack(*given, **named)

    monkeypatch.setattr(surrogate, "_judged", counted)
    work(tmp_path, "mixup", task=TRANSFER)
    assert len(attacks) == 1  # on mixup itself
    work(tmp_path, "standard", task=CLEAN | {"limit": 9})
    work(tmp_path, "mixup", task=TRANSFER)
    assert len(attacks) == 2


def test_a_record_of_an_older_version_awaits_what_its_notes_say(tmp_path: Path) -> None:
    work(tmp_path, "mixup", task=TRANSFER)
    (folder,) = (tmp_path / "runs").iterdir()
    name = f"tasks/{record(tmp_path, 'mixup', 'transfer').key}.json"
    older = json.loads(store.read_bytes(folder, name))
    assert older.pop("awaits") == ["standard"]
    store.write_bytes(folder, name, json.dumps(older, indent=1).encode())
    assert record(tmp_path, "mixup", "transfer").awaits == ("standard",)
    assert work(tmp_path, "mixup", task=TRANSFER) == []
    work(tmp_path, "standard", task=CLEAN | {"limit": 9})
    assert work(tmp_path, "mixup", task=TRANSFER) == ["mixup transfer"]
    assert record(tmp_path, "mixup", "transfer").awaits == ()


def test_a_run_that_differs_in_more_than_its_method_is_not_awaited(tmp_path: Path) -> None:
    work(tmp_path, "mixup", task=TRANSFER)
    other = parse_suite(
        {
            "name": "other",
            "training": {"epochs": 2, "batch_size": 32, "precision": "float32"},
            "methods": [{"name": "standard"}],
            "tasks": [],
        },
        "other",
    )
    for job in plan(other, tmp_path, limit=64):
        run_job(job, RUNTIME, Silent())
    assert work(tmp_path, "mixup", task=TRANSFER) == []
