"""What a job will cost, for a dry run: a few of its own steps are timed, the rest is reckoned from them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from robusteval.cost import FlopCount, forward_flops
from robusteval.planning import Job
from robusteval.restoring import network, setting
from robusteval.runner import judging
from robusteval.runtime import Runtime
from robusteval.tasks import Origin, Task
from robusteval.train import Diverged, train, wrapped

TRAINING_STEPS = 3
"""Timed steps; one more before them warms up."""


class Estimate(NamedTuple):
    """Floating-point operations and seconds."""

    flops: float
    seconds: float


NOTHING = Estimate(0, 0.0)


class _Enough(BaseException):
    """The probe has seen what it needs; not an Exception, so that no task can take it for one of its own."""


class _Report(NamedTuple):
    """What had been done at a moment: units, seconds on the clock, FLOPs."""

    done: int
    clock: float
    flops: float


@dataclass
class _Probe:
    """A progress that ends the stage after some reports of units done.

    Attributes:
        reports: how many are waited for.
        count: counts the FLOPs, if they are wanted.
    """

    reports: int
    count: FlopCount | None = None
    total: int = 0
    seen: list[_Report] = field(default_factory=list)

    def begin(self, stage: str, total: int) -> None:
        """The first unit starts."""
        self.total = total
        self._note(0)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Units are done."""
        if amount:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # else the time of launching kernels is taken for that of running them
            self._note(self.seen[-1].done + amount)
        if len(self.seen) > self.reports or self.seen[-1].done >= self.total:
            raise _Enough

    def _note(self, done: int) -> None:
        self.seen.append(_Report(done, time.perf_counter(), self.count.flops if self.count else 0.0))

    @property
    def whole(self) -> Estimate:
        """The whole stage's FLOPs and time, from what came after the first report, which warms up (unless all did).

        `NOTHING` where no stage began: there is nothing to measure.
        """
        if not self.seen:
            return NOTHING
        first, last = self.seen[1 if len(self.seen) > 2 else 0], self.seen[-1]
        share = self.total / max(last.done - first.done, 1)
        return Estimate((last.flops - first.flops) * share, (last.clock - first.clock) * share)


def estimate(jobs: Iterable[Job], runtime: Runtime) -> list[Estimate]:
    """What is left of each job; the training of a half-done job counts in full."""
    # Seeds cost the same, and to most tasks so do all methods with as many branches: one probe serves them all.
    probes: dict[object, Estimate] = {}
    estimates = []
    for job in jobs:
        cell = job.cell
        parts = []
        trained = (cell.dataset, cell.architecture, cell.method, cell.training)
        if not job.trained:
            parts.append(probes.get(trained) or probes.setdefault(trained, _training(job, runtime)))
        for task in job.missing:
            key: object = (cell.dataset, cell.architecture, len(cell.method.branches), task)
            part = probes.get(key) or probes.setdefault(key, _judging(job, task, runtime))
            if part == NOTHING:  # a task that looks for parts which only some methods have
                key = (*trained, task)
                part = probes.get(key) or probes.setdefault(key, _judging(job, task, runtime, _origin(job, runtime)))
            parts += [part] * (1 + len(cell.training.snapshot_epochs))
        estimates.append(Estimate(sum(part.flops for part in parts), sum(part.seconds for part in parts)))
    return estimates


def _training(job: Job, runtime: Runtime) -> Estimate:
    """FLOPs from the method's law, seconds from a few steps."""
    cell = job.cell
    probe = _Probe(1 + TRAINING_STEPS)
    with suppress(_Enough, Diverged):  # a training that diverges has cost what it has cost
        train(
            network(cell, job.train),
            cell.method,
            job.train,
            cell.training,
            seed=cell.seed,
            device=runtime.device,
            teacher=setting(cell, job.train).teacher,
            progress=probe,
        )
    image = job.train.images[:1].float() / 255
    images = probe.total * cell.training.batch_size
    flops = 3 * forward_flops(network(cell, job.train), image) * cell.method.passes().flops * images
    return Estimate(flops, probe.whole.seconds)


def _origin(job: Job, runtime: Runtime) -> Origin:
    """What tasks are told about a training, here one that has not begun."""
    cell = job.cell
    model = wrapped(network(cell, job.train).train(), cell.method, cell.training, setting(cell, job.train))
    return Origin(cell.method, cell.training, model.to(runtime.device), job.train, lambda method: None)


def _judging(job: Job, task: Task, runtime: Runtime, origin: Origin | None = None) -> Estimate:
    """FLOPs and seconds from the first images; `NOTHING` if the task has nothing to measure."""
    timed = _probed(job, task, runtime, origin, _Probe(2))
    with FlopCount() as count:  # apart from the timing: counting slows down
        counted = _probed(job, task, runtime, origin, _Probe(2, count))
    return Estimate(counted.flops, timed.seconds)


def _probed(job: Job, task: Task, runtime: Runtime, origin: Origin | None, probe: _Probe) -> Estimate:
    """What the probe made of the task's beginning."""
    model = network(job.cell, job.train).to(runtime.device).eval()
    context = judging(runtime, job.cell.method.deployed, probe, data_dir=job.data_dir)
    context = replace(context, origin=origin, hardest=True)
    with suppress(_Enough):
        for _ in task.measure(dict.fromkeys(job.cell.method.branches, model), job.test, context):
            pass
    return probe.whole
