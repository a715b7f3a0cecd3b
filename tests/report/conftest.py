"""Records as the runner writes them, made by formula so that golden files do not depend on a random generator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from robusteval.records import Cost, DataRef, Epoch, Measurement, Provenance, Reason, Run, Snapshot, TaskRecord
from robusteval.report import write_report
from robusteval.stats import wilson
from robusteval.store import History, StoredRun, load_run, write_arrays, write_record

HARD = {
    "gaussian_noise": 38,
    "shot_noise": 30,
    "impulse_noise": 36,
    "defocus_blur": 12,
    "glass_blur": 30,
    "motion_blur": 18,
    "zoom_blur": 16,
    "snow": 15,
    "frost": 19,
    "fog": 9,
    "brightness": 3,
    "contrast": 22,
    "elastic_transform": 9,
    "pixelate": 15,
    "jpeg_compression": 11,
}
N = 1000
TRAIN = DataRef(name="cifar10-sample", split="train", n=4000, digest="1f" * 32, verified=True)
TEST = DataRef(name="cifar10-sample", split="test", n=N, digest="2e" * 32, verified=True)
ATTACK = {"norm": "Linf", "epsilon": "8/255", "step": "2/255", "steps": 20, "restarts": 1, "loss": "ce"}
PROVENANCE = Provenance(
    robusteval="0.1.0",
    commit="0123456789abcdef0123456789abcdef01234567",
    python="3.11.9",
    packages={"torch": "2.15.0", "numpy": "2.4.6"},
    platform="Linux-6.1-x86_64",
    cpu="AMD EPYC 9654",
    device="cpu",
    threads=2,
    precision="bfloat16",
    created="2026-11-20T04:00:00+00:00",
    command=("robusteval", "run"),
)
# Images seen: 15 epochs of 4,000. FLOPs of a ResNet-20 training pass: 3 forwards of 81.1 MFLOP.
IMAGES, FORWARD_FLOPS = 60_000, 81_102_080

Scores = Mapping[str, tuple[float, float, float]]
"""Branch -> clean accuracy, accuracy lost per unit of corruption, PGD accuracy."""


def measured(task: str, metric: str, value: float, n: int = N, **where: Any) -> Measurement:
    """An accuracy with its Wilson interval."""
    right = round(value * n)
    low, high = wilson(right, n)
    return Measurement(task=task, metric=metric, value=right / n, n=n, low=low, high=high, where=where)


def corruption_cells(clean: float, slope: float, branch: str) -> list[Measurement]:
    """The 75 cells and their mean."""
    cells = [
        measured(
            "corruption",
            "accuracy",
            max(0.1, clean - slope * HARD[name] / 100 * (0.35 + 0.33 * severity)),
            branch=branch,
            corruption=name,
            severity=severity,
            source="generated",
            generator="1",
        )
        for name in HARD
        for severity in range(1, 6)
    ]
    mean = math.fsum(m.value or 0.0 for m in cells) / len(cells)
    where = {"branch": branch, "corruptions": 15, "severities": 5, "source": "generated", "generator": "1"}
    low, high = mean - 0.021, mean + 0.021
    return [
        *cells,
        Measurement(task="corruption", metric="mean_accuracy", value=mean, n=N, low=low, high=high, where=where),
    ]


def task_records(scores: Scores, tasks: Sequence[str], test: DataRef = TEST) -> tuple[TaskRecord, ...]:
    """One record per task, on every branch."""
    found: dict[str, list[Measurement]] = {task: [] for task in tasks}
    for branch, (clean, slope, robust) in scores.items():
        if "clean" in tasks:
            found["clean"].append(measured("clean", "accuracy", clean, branch=branch))
        if "corruption" in tasks:
            found["corruption"] += corruption_cells(clean, slope, branch)
        if "pgd" in tasks:
            where = ATTACK | {"branch": branch, "attack_branch": branch}
            found["pgd"].append(measured("pgd", "robust_accuracy", robust, **where))
    return tuple(
        TaskRecord(
            task=task,
            version=1,
            key=f"{task}-0a1b",
            options={},
            test_data=test,
            weights_sha256="ab" * 32,
            measurements=tuple(measurements),
            wall_s=12.5,
            provenance=PROVENANCE,
        )
        for task, measurements in found.items()
    )


def history(start: float, end: float, branches: Sequence[str], epochs: int = 15) -> tuple[Epoch, ...]:
    """Losses that fall from ``start`` to ``end``."""
    found = []
    for epoch in range(1, epochs + 1):
        loss = end + (start - end) * math.exp(-epoch / 4)
        logs = {"loss": loss, "accuracy": 0.9 * math.exp(-loss / 2.5)}
        if len(branches) > 1:
            logs |= {f"loss_{branch}": loss * (1 + 0.12 * i) for i, branch in enumerate(branches)}
        found.append(Epoch(epoch=epoch, logs=logs, lr=0.1 * (1 + math.cos(math.pi * epoch / epochs)) / 2))
    return tuple(found)


def stored_run(
    method: str,
    scores: Scores,
    *,
    label: str | None = None,
    seed: int = 0,
    passes: Mapping[str, float] | None = None,
    flops: float = 1.0,
    wall: Mapping[str, float] | None = None,
    tasks: Sequence[str] = ("clean", "corruption", "pgd"),
    losses: tuple[float, float] = (2.3, 0.9),
    **changes: Any,
) -> StoredRun:
    """A finished run; ``changes`` replace fields of its `Run`."""
    branches = tuple(scores)
    counts = {branch: round(count * IMAGES) for branch, count in (passes or {"main": 1.0}).items()}
    cost = Cost(
        wall_s=dict(wall or {"train": 48.0, "attack": 0.0, "data": 1.4, "eval": 21.0}),
        images=IMAGES,
        forward=counts,
        backward=counts,
        flops=round(flops * 3 * FORWARD_FLOPS * IMAGES),
        peak_memory_bytes=612 * 2**20,
        device="cpu",
        threads=2,
        precision="bfloat16",
    )
    fields: dict[str, Any] = {
        "id": f"{label or method}-s{seed}-c0ffee",
        "label": label or method,
        "method": method,
        "options": {"epsilon": 8 / 255} if method == "pgd_at" else {},
        "training": {"epochs": 15, "batch_size": 128, "optimizer": "sgd", "lr": 0.1},
        "dataset": "cifar10-sample",
        "architecture": "resnet20",
        "seed": seed,
        "status": "done",
        "branches": branches,
        "deployed": "main",
        "parameters": 272_474,
        "train_data": TRAIN,
        "cost": cost,
        "weights_sha256": "ab" * 32,
        "provenance": PROVENANCE,
    }
    run = Run(**(fields | changes))
    return StoredRun(Path("runs") / run.id, run, history(*losses, branches), task_records(scores, tasks))


def five_methods(seed: int = 0) -> list[StoredRun]:
    """The quick suite as it ends: five finished runs. Costs are those of the papers' settings."""
    shift = 0.004 * seed
    return [
        stored_run("standard", {"main": (0.703 + shift, 1.0, 0.0)}, seed=seed, flops=1.0),
        stored_run("mixup", {"main": (0.711 + shift, 0.93, 0.004)}, seed=seed, losses=(2.3, 1.4)),
        stored_run(
            "pgd_at",
            {"main": (0.487 + shift, 0.4, 0.252)},
            seed=seed,
            passes={"main": 8.0},
            flops=17 / 3,
            wall={"train": 276.0, "attack": 221.0, "data": 1.5, "eval": 21.0},
            losses=(2.3, 1.7),
        ),
        stored_run(
            "advprop",
            {"main": (0.688 + shift, 0.88, 0.013), "aux": (0.622 + shift, 0.62, 0.118)},
            seed=seed,
            passes={"main": 1.0, "aux": 6.0},
            flops=16 / 3,
            wall={"train": 262.0, "attack": 171.0, "data": 1.4, "eval": 43.0},
            losses=(2.3, 1.2),
        ),
        stored_run(
            "entprop",
            {"main": (0.716 + shift, 0.86, 0.008), "aux": (0.667 + shift, 0.7, 0.045)},
            seed=seed,
            passes={"main": 1.0, "aux": 0.2},
            flops=1.2,
            wall={"train": 60.0, "attack": 0.3, "data": 1.4, "eval": 42.0},
            losses=(2.3, 1.35),
        ),
    ]


def failed_run(error: str = "train: loss is not finite (nan) at step 118 of epoch 3") -> StoredRun:
    """A run that stopped."""
    run = stored_run("advprop", {"main": (0.0, 0.0, 0.0), "aux": (0.0, 0.0, 0.0)}, label="advprop-lr1", tasks=())
    cost = run.run.cost
    assert cost is not None
    changed = run.run.model_copy(update={"status": "failed", "error": error, "weights_sha256": None, "cost": cost})
    return StoredRun(run.folder, changed, run.history[:3], ())


def with_snapshots(stored: StoredRun, way: Mapping[int, Scores], tasks: Sequence[str] = ("clean", "pgd")) -> StoredRun:
    """The run with weights kept after some epochs, each judged; costs grow in proportion to the epochs."""
    cost = stored.run.cost
    assert cost is not None
    snapshots, found = [], []
    for epoch, scores in way.items():
        share = epoch / len(stored.history)
        seconds = {phase: share * value for phase, value in cost.wall_s.items()}
        until = cost.model_copy(update={"flops": round(share * cost.flops), "wall_s": seconds})
        weights = f"{epoch:02d}" * 32
        snapshots.append(Snapshot(epoch=epoch, weights_sha256=weights, cost=until))
        changes = {"epoch": epoch, "weights_sha256": weights}
        for task in task_records(scores, tasks):
            found.append(task.model_copy(update=changes | {"key": f"{task.task}-e{epoch}"}))
    run = stored.run.model_copy(update={"snapshots": tuple(snapshots)})
    return replace(stored, run=run, on_the_way=tuple(found))


def with_task(stored: StoredRun, task: str, measurements: Sequence[Measurement], **changes: Any) -> StoredRun:
    """The run with one more task record; ``changes`` replace fields of it."""
    (record,) = task_records({"main": (0.5, 0.5, 0.5)}, ["clean"])
    fields = {"task": task, "key": f"{task}-0a1b", "measurements": tuple(measurements)} | changes
    return replace(stored, tasks=(*stored.tasks, record.model_copy(update=fields)))


HOSTILE = (
    "<script>alert(1)</script>",
    "=cmd()",
    "$x_1$",
    "[red]",
    "[/]",
    "\u202eabc",
    "a\x00b\x1b[2J",
    "@x",
    "\tx",
    "x" * 10_000,
)


def hostile_runs(names: Sequence[str] = HOSTILE) -> list[StoredRun]:
    """Runs whose every text is hostile."""
    found = []
    for i, name in enumerate(names):
        provenance = PROVENANCE.model_copy(update={"cpu": name, "command": ("robusteval", name), "device": name})
        test = TEST.model_copy(update={"name": name, "verified": False})
        run = stored_run(
            name,
            {name: (0.5, 0.5, 0.1), f"aux{name}": (0.4, 0.4, 0.1)},
            id=f"{name}{i}",
            dataset=name,
            architecture=name,
            deployed=name,
            options={name: name},
            training={name: [name]},
            error=name,
            status="done" if i % 2 else "failed",
            provenance=provenance,
            train_data=TRAIN.model_copy(update={"name": name}),
        )
        where = ATTACK | {"branch": name, "loss": name, name: name}
        odd = measured("pgd", "robust_accuracy", 0.25, **where).model_copy(
            update={"trust": "flagged", "reasons": (Reason(name=name, evidence=name, text=name),), "note": name}
        )
        tasks = tuple(
            task.model_copy(update={"test_data": test, "measurements": (*task.measurements, odd)}) for task in run.tasks
        )
        logs = tuple(epoch.model_copy(update={"logs": epoch.logs | {f"loss{name}": 1.0}}) for epoch in run.history)
        found.append(StoredRun(run.folder, run.run, logs, tasks))
    return found


def example() -> list[StoredRun]:
    """Five methods, one failed run, one that was neither corrupted nor attacked."""
    scores = {"main": (0.705, 0.95, 0.0)}
    partial = stored_run("mixup", scores, label="mixup-a02", options={"alpha": 0.2}, tasks=("clean",))
    return [*five_methods(), failed_run(), partial]


def outcomes(share: float, n: int, who: float) -> npt.NDArray[np.bool_]:
    """So many of n images right, by formula: hard images are hard for all, and each network has a taste of its own."""
    index = np.arange(1, n + 1)
    hardness = index * 0.6180339887 % 1 + 0.3 * (index * (0.4142135623 + who) % 1)
    return np.asarray(np.argsort(np.argsort(hardness)) < round(share * n))


def kept(folder: Path, stored: StoredRun) -> StoredRun:
    """The run as it is read from a folder where it was written, its outcomes with it."""
    for task in stored.tasks:
        arrays: dict[str, npt.NDArray[Any]] = {}
        measurements = []
        for number, m in enumerate(task.measurements):
            if m.value is not None and m.metric in ("accuracy", "robust_accuracy"):
                who = 0.1 * stored.run.seed + sum(map(ord, stored.run.label)) / 777 + 0.01 * number
                arrays[str(number)] = outcomes(m.value, m.n, who)
                m = m.model_copy(update={"outcomes": str(number), "value": float(arrays[str(number)].mean())})
            measurements.append(m)
        write_arrays(folder, f"tasks/{task.key}.npz", arrays)
        changes = {"measurements": tuple(_meant(measurements))}
        write_record(folder, f"tasks/{task.key}.json", task.model_copy(update=changes))
    write_record(folder, "history.json", History(epochs=stored.history))
    write_record(folder, "run.json", stored.run)
    return load_run(folder)


def _meant(measurements: Sequence[Measurement]) -> list[Measurement]:
    """The means are those of their cells."""
    cells: dict[object, list[float]] = {}
    for m in measurements:
        if m.metric == "accuracy" and m.value is not None:
            cells.setdefault(m.where["branch"], []).append(m.value)
    means = {branch: math.fsum(values) / len(values) for branch, values in cells.items()}
    return [
        m.model_copy(update={"value": means[m.where["branch"]]}) if m.metric == "mean_accuracy" else m
        for m in measurements
    ]


CARDS: dict[str, dict[str, Any]] = {
    "entprop": {
        "title": "EntProp: High Entropy Propagation for Improving Accuracy and Robustness",
        "authors": "Enomoto",
        "venue": "UAI",
        "year": 2024,
        "url": "https://arxiv.org/abs/2405.18931",
        "summary": "MixUp images train the main branch; those of high entropy, perturbed, train the auxiliary one.",
        "reference": "none was published",
        "deviations": ("The number of selected samples is rounded to the nearest integer.", "Pixels are clipped."),
    },
    "advprop": {
        "title": "<b>Adversarial</b> Examples Improve Image Recognition",
        "authors": "Xie et al.",
        "venue": "CVPR",
        "year": 2020,
        "url": "javascript:alert(1)",
        "summary": "",
        "reference": "",
        "deviations": (),
    },
}


def everything() -> list[StoredRun]:
    """The example with weights kept on the way, a teacher, diagnostics and options that a paper has."""
    probes = [
        measured("selection", "entropy_share", 0.1 * i, images=images, low=i, high=i + 1)
        for images in ("clean", "selected")
        for i in range(1, 4)
    ]
    layers = [
        Measurement(task="features", metric=metric, value=0.3 * i, n=64, unit="number", where={"layer": f"stage{i}.bn"})
        for i in range(20)
        for metric in ("cosine", "relative_distance", "relative_distance_of_the_statistics", "symmetric_divergence")
    ]
    found = {stored.run.label: stored for stored in example()}
    for label in ("entprop", "standard"):
        branches = found[label].run.branches
        way = {1: dict.fromkeys(branches, (0.4, 1.0, 0.01)), 5: dict.fromkeys(branches, (0.6, 1.0, 0.02))}
        found[label] = with_snapshots(found[label], way, ("clean", "corruption", "pgd"))
    taught = found["entprop"].run.model_copy(update={"teacher": "standard-s0-c0ffee"})
    probed = with_task(replace(found["entprop"], run=taught), "selection", probes)
    found["entprop"] = with_task(probed, "features", layers, options={"limit": 64})
    return list(found.values())


PUBLISHED = {
    "dataset": "cifar10-sample",
    "architecture": "resnet20",
    "options": {},
    "metric": "corruption",
    "value": 0.55,
    "sd": 0.004,
    "source": "Enomoto, 2024, Table 4, with words that make the line a long one",
    "train_images": 4000,
    "test_images": 1000,
}


@pytest.fixture
def runs() -> list[StoredRun]:
    """Five methods, one failed run, one that was neither corrupted nor attacked."""
    return example()


@pytest.fixture
def cards() -> dict[str, dict[str, Any]]:
    """Cards as plain data."""
    return CARDS


@pytest.fixture
def seeds() -> list[StoredRun]:
    """Five methods under three seeds."""
    return [run for seed in range(3) for run in five_methods(seed)]


@pytest.fixture
def hostile() -> list[StoredRun]:
    """Runs whose every text is hostile."""
    return hostile_runs()


@pytest.fixture(scope="session")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> list[StoredRun]:
    """The example with its outcomes on disk, and with a second seed of two methods."""
    root = tmp_path_factory.mktemp("ranked")
    every = [*example(), *(run for run in five_methods(1) if run.run.method in ("mixup", "entprop"))]
    return [kept(root / stored.run.id, stored) for stored in every]


@pytest.fixture(scope="session")
def make_session() -> SimpleNamespace:
    """The builders, for records that differ from the examples."""
    names = {"run": stored_run, "measured": measured, "tasks": task_records}
    names |= {"with_snapshots": with_snapshots, "with_task": with_task, "kept": kept}
    return SimpleNamespace(**names, ATTACK=ATTACK, TEST=TEST, TRAIN=TRAIN, HARD=HARD, HOSTILE=HOSTILE)


@pytest.fixture
def make(make_session: SimpleNamespace) -> SimpleNamespace:
    """The builders, for records that differ from the examples."""
    return make_session


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example's report."""
    return write_report(tmp_path_factory.mktemp("report"), example(), cards=CARDS).parent


@pytest.fixture(scope="session")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report that has every section there is."""
    cards = CARDS | {"entprop": CARDS["entprop"] | {"published": [PUBLISHED]}}
    return write_report(tmp_path_factory.mktemp("full"), everything(), cards=cards).parent


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report whose every text is hostile; the same data set, so that it has one section."""
    runs = [
        StoredRun(stored.folder, stored.run.model_copy(update={"dataset": HOSTILE[0]}), stored.history, stored.tasks)
        for stored in hostile_runs()
    ]
    cards = {name: dict.fromkeys(CARDS["entprop"], name) | {"deviations": (name,)} for name in HOSTILE}
    return write_report(tmp_path_factory.mktemp("hostile"), runs, cards=cards).parent
