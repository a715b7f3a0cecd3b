"""Run folders as the runner writes them, with outcomes of single images."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robusteval.records import Cost, DataRef, Measurement, Provenance, Reason, Run, TaskRecord
from robusteval.store import StoredRun, load_run, write_arrays, write_record

N = 200
CELLS = [(name, severity) for name in ("fog", "snow") for severity in (1, 2)]
ATTACK = {"norm": "Linf", "epsilon": "8/255", "step": "2/255", "steps": 20, "restarts": 1, "loss": "ce"}
SOURCE = {"source": "generated", "generator": "1", "table": "cifar", "seed": 0}
GRID = {"corruptions": 2, "severities": "1+2", "names": "fog snow"}
TRAIN = DataRef(name="tiny", split="train", n=400, digest="1f" * 32, verified=True)
TEST = DataRef(name="tiny", split="test", n=N, digest="2e" * 32, verified=True)
PROVENANCE = Provenance(
    robusteval="0.1.0",
    commit="01" * 20,
    python="3.11.9",
    packages={"torch": "2.15.0"},
    platform="Linux",
    cpu="EPYC",
    device="cpu",
    threads=2,
    precision="bfloat16",
    created="2026-11-20T04:00:00+00:00",
    command=("robusteval", "run"),
)
COST = Cost(
    wall_s={"train": 40.0, "attack": 0.0},
    images=1000,
    forward={"main": 1000},
    backward={"main": 1000},
    flops=10**12,
    peak_memory_bytes=2**29,
    device="cpu",
    threads=2,
    precision="bfloat16",
)


def draw(shares: Mapping[str, float], seed: int, n: int = N) -> dict[str, Any]:
    """Outcomes (n,) by name, with about these shares of right answers; images have a difficulty of their own."""
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(99).random(n)
    return {name: 0.6 * hard + 0.4 * rng.random(n) < share for name, share in shares.items()}


SHARES = {"clean": 0.6, "pgd": 0.2} | {f"{name}{severity}": 0.5 - 0.05 * severity for name, severity in CELLS}


@dataclass
class Recipe:
    """A run folder to write; see the fields' use in `Maker`."""

    label: str = "standard"
    seed: int = 0
    outcomes: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ("clean", "corruption", "pgd")
    keep: bool = True
    version: int = 1
    n: int = N
    digest: str = TEST.digest
    attack: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    cell: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    weights: str | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    judged: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The outcomes of other branches by name."""


class Maker:
    """Writes run folders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, results: str = "a", **recipe: Any) -> StoredRun:
        """A run in a folder of results, read back."""
        what = Recipe(**recipe)
        mark = sum(map(ord, what.label)) + 1000 * what.seed
        weights = what.weights or f"{mark:064x}"
        run_id = what.run.get("id", f"{what.label}-s{what.seed}-c0ffee")
        folder = self.root / results / "runs" / f"{zlib.crc32(run_id.encode()):08x}"
        fields: dict[str, Any] = {
            "id": run_id,
            "label": what.label,
            "method": what.label,
            "options": {},
            "training": {"epochs": 2, "lr": 0.1},
            "dataset": "tiny",
            "architecture": "resnet8",
            "seed": what.seed,
            "status": "done",
            "branches": ("main", *what.others),
            "deployed": "main",
            "parameters": 1000,
            "train_data": TRAIN,
            "cost": COST.model_copy(update=what.cost),
            "weights_sha256": weights,
            "provenance": PROVENANCE.model_copy(update=what.provenance),
        }
        run = Run(**(fields | what.run))
        write_record(folder, "run.json", run)
        rights = {run.deployed: draw(SHARES, mark, what.n) | what.outcomes}
        for place, (name, outcomes) in enumerate(what.others.items(), 1):
            rights[name] = draw(SHARES, mark + 10**6 * place, what.n) | outcomes
        for task in what.tasks:
            self._task(folder, task, what, run, rights)
        return load_run(folder)

    def _task(self, folder: Path, task: str, what: Recipe, run: Run, rights: Mapping[str, Mapping[str, Any]]) -> None:
        measurements: list[Measurement] = []
        arrays: dict[str, Any] = {}
        for branch, right in rights.items():
            measurements += self._branch(task, what, branch, right, arrays)
        record = TaskRecord(
            task=task,
            version=what.version if task == "pgd" else 1,
            key=f"{task}-0a1b",
            options=what.options if task == "pgd" else {},
            test_data=TEST.model_copy(update={"digest": what.digest}),
            weights_sha256=run.weights_sha256 or "",
            measurements=tuple(measurements),
            wall_s=1.0,
            provenance=PROVENANCE.model_copy(update=what.judged),
        )
        write_record(folder, f"tasks/{task}-0a1b.json", record)
        if what.keep:
            write_arrays(folder, f"tasks/{task}-0a1b.npz", arrays)

    def _branch(
        self, task: str, what: Recipe, name: str, right: Mapping[str, Any], arrays: dict[str, Any]
    ) -> list[Measurement]:
        """The measurements of a branch, whose outcomes are added to the arrays."""
        branch = {"branch": name}
        wheres = {
            "clean": [("clean", branch)],
            "pgd": [("pgd", branch | {"attack_branch": name} | ATTACK | what.attack)],
            "corruption": [
                (
                    f"{cell}{severity}",
                    branch | {"corruption": cell, "severity": severity} | SOURCE | what.source | what.cell,
                )
                for cell, severity in CELLS
            ],
        }[task]
        found = []
        for cell, where in wheres:
            key = str(len(arrays))
            arrays[key] = right[cell]
            found.append(
                Measurement(
                    task=task,
                    metric="robust_accuracy" if task == "pgd" else "accuracy",
                    value=float(right[cell].mean()),
                    n=len(right[cell]),
                    where=where,
                    outcomes=key if what.keep else None,
                    trust="flagged" if what.reasons and task == "pgd" else "unchecked",
                    reasons=what.reasons if task == "pgd" else (),
                )
            )
        if task == "corruption":
            mean = float(np.mean([m.value for m in found]))
            where = branch | GRID | SOURCE | what.source
            found.append(Measurement(task=task, metric="mean_accuracy", value=mean, n=what.n, where=where))
        return found


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., StoredRun]:
    """Writes a run folder under results ``a`` or another name."""
    return Maker(tmp_path)
