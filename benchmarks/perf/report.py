"""Processor and wall seconds of a report by part, on synthetic runs with the outcomes of every image.

    OMP_NUM_THREADS=1 python benchmarks/perf/report.py [--rows 500] [--images 1000] [--rounds 3] [--keep DIR]

Each run has clean accuracy, the 75 cells of corruptions and PGD, a third of them on two branches, and 15 epochs of
training. What `robusteval report` does with them is done once before the clock runs (imports, fonts), then timed in
every round, reading included; the lowest processor seconds are printed, which other processes disturb least. ``all`` is
reading and `write_report` together, as a user waits for them; the parts below it are timed one by one and leave out
the writing to disk. ``--keep`` makes the runs there, or takes those that lie there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from robusteval.collector import paused
from robusteval.corruptions.strengths import CORRUPTIONS
from robusteval.records import Cost, DataRef, Epoch, Measurement, Provenance, Run, TaskRecord
from robusteval.report import write_report
from robusteval.report.board.leaderboard import leaderboard
from robusteval.report.figures.style import drawing, svg
from robusteval.report.files.frame import long_table, wide_table
from robusteval.report.files.latex import latex
from robusteval.report.files.listing import listing
from robusteval.report.files.markdown import markdown
from robusteval.report.files.tables import csv_text
from robusteval.report.page.html import page_text
from robusteval.report.page.sections import sections
from robusteval.stats import wilson
from robusteval.store import HISTORY, RUN, TASKS, History, find_runs, write_arrays, write_record

R = TypeVar("R")
METHODS = {"standard": 1, "mixup": 1, "advprop": 2, "pgd_at": 1, "trades": 1, "entprop": 2}  # and their branches
PROVENANCE = Provenance(
    robusteval="0", commit=None, python="3.11", packages={"torch": "2"}, platform="Linux", cpu="CPU", device="cpu",
    threads=1, precision="float32", created="2026-01-01T00:00:00+00:00", command=("robusteval", "run"),
)  # fmt: skip


def make(folder: Path, number: int, images: int) -> None:
    """Writes a run as the runner writes them."""
    rng = np.random.default_rng(number)
    method = list(METHODS)[number % len(METHODS)]
    branches = ("main", "aux")[: METHODS[method]]
    test = DataRef(name="cifar10", split="test", n=images, digest="2e" * 32, verified=True)
    cost = Cost(
        wall_s={"train": 100.0 + number, "attack": 40.0, "data": 5.0}, images=750_000, forward={"main": 750_000},
        backward={"main": 750_000}, flops=10**14 * (1 + number % 7), peak_memory_bytes=10**9, device="cpu", threads=1,
        precision="float32",
    )  # fmt: skip
    run = Run(
        id=f"{method}-{number:04d}", label=f"{method}-{number}", method=method, options={"alpha": number},
        training={"epochs": 15, "lr": 0.1}, dataset="cifar10", architecture="resnet20", seed=0, status="done",
        branches=branches, deployed="main", parameters=272_474, cost=cost, weights_sha256="ab" * 32,
        train_data=test.model_copy(update={"split": "train", "n": 50_000}), provenance=PROVENANCE,
    )  # fmt: skip
    logs = [{"loss": 2 / epoch + number / 1000, "accuracy": 1 - 0.8 / epoch} for epoch in range(1, 16)]
    history = tuple(Epoch(epoch=epoch, logs=one, lr=0.1) for epoch, one in enumerate(logs, 1))
    write_record(folder, RUN, run)
    write_record(folder, HISTORY, History(epochs=history))
    skill = rng.uniform(0.4, 0.9)
    for task in ("clean", "corruption", "pgd"):
        write_task(folder, task, test, branches, skill, rng)


def write_task(
    folder: Path, task: str, test: DataRef, branches: tuple[str, ...], skill: float, rng: np.random.Generator
) -> None:
    """Writes what a task measured, and the outcome of each image."""
    found: list[Measurement] = []
    outcomes: dict[str, np.ndarray] = {}

    def measured(metric: str, share: float, where: dict[str, str | int]) -> None:
        right = rng.random(test.n) < share
        low, high = wilson(int(right.sum()), test.n)
        key = str(len(outcomes))
        outcomes[key] = right
        found.append(
            Measurement(
                task=task,
                metric=metric,
                value=float(right.mean()),
                n=test.n,
                low=low,
                high=high,
                where=where,
                outcomes=key,
            )
        )

    for branch in branches:
        if task == "clean":
            measured("accuracy", skill, {"branch": branch})
        elif task == "pgd":
            attack = {"norm": "Linf", "epsilon": "8/255", "step": "2/255", "steps": 20, "restarts": 1, "loss": "ce"}
            measured("robust_accuracy", skill / 2, {**attack, "branch": branch, "attack_branch": branch})
        else:
            source: dict[str, str | int] = {"branch": branch, "source": "generated", "generator": "1"}
            begin = len(found)
            for name in CORRUPTIONS:
                for severity in range(1, 6):
                    place = {**source, "corruption": name, "severity": severity}
                    measured("accuracy", skill * (1 - severity / 15), place)
            mean = float(np.mean([m.value for m in found[begin:]]))
            whole: dict[str, str | int] = {**source, "corruptions": len(CORRUPTIONS), "severities": 5}
            found.append(
                Measurement(
                    task=task,
                    metric="mean_accuracy",
                    value=mean,
                    n=test.n,
                    low=mean - 0.02,
                    high=mean + 0.02,
                    where=whole,
                )
            )
    record = TaskRecord(
        task=task, version=1, key=f"{task}-0a1b", options={}, test_data=test, weights_sha256="ab" * 32,
        measurements=tuple(found), wall_s=1.0, provenance=PROVENANCE,
    )  # fmt: skip
    write_record(folder, f"{TASKS}{record.key}.json", record)
    write_arrays(folder, f"{TASKS}{record.key}.npz", outcomes)


def timed(what: str, work: Callable[[], R], seconds: dict[str, list[tuple[float, float]]]) -> R:
    wall, processor = time.perf_counter(), time.process_time()
    made = work()
    seconds.setdefault(what, []).append((time.process_time() - processor, time.perf_counter() - wall))
    return made


def once(source: Path, out: Path, seconds: dict[str, list[tuple[float, float]]]) -> None:
    """All of it, as the command does it; then part by part."""

    @paused()
    def report() -> None:
        write_report(out, find_runs(source))

    timed("all", report, seconds)
    with paused(), drawing():
        runs = timed("reading", lambda: find_runs(source), seconds)
        found = timed("scores, ranks", lambda: leaderboard(runs), seconds)
        parts = timed("figures", lambda: sections(found, {}), seconds)
        timed("figures as SVG", lambda: [svg(plot.figure) for part in parts for plot in part.files], seconds)
        timed("long CSV", lambda: csv_text(long_table(found.runs)), seconds)
        others = (lambda: csv_text(wide_table(found)), lambda: markdown(found), lambda: latex(found))
        timed("other tables", lambda: [listing(found), *(table() for table in others)], seconds)
        whole = timed("page with its figures", lambda: page_text(found), seconds)
    seconds.setdefault("megabytes of the page", []).append((len(whole.encode()) / 1e6, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="where the runs are made, or lie already")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = arguments.keep or Path(scratch) / "runs"
        if not source.exists():
            for number in range(arguments.rows):
                make(source / f"{number:04d}", number, arguments.images)
        once(source, Path(scratch) / "out", {})
        seconds: dict[str, list[tuple[float, float]]] = {}
        for _ in range(arguments.rounds):
            once(source, Path(scratch) / "out", seconds)
    print(f"{arguments.rows} runs of {arguments.images} images; seconds{'processor':>16}{'wall':>8}")
    for what, times in seconds.items():
        processor, wall = (min(each) for each in zip(*times, strict=True))
        print(f"{what:42}{processor:8.2f}{wall:8.2f}", flush=True)


if __name__ == "__main__":
    main()
