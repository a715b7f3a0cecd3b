"""What a job will cost, for a dry run: a few of its own steps are timed, the rest is reckoned from them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from robusteval.cost import FlopCount, forward_flops
from robusteval.planning import Job
from robusteval.runner import judging, network, setting
from robusteval.runtime import Runtime
from robusteval.tasks import Task
from robusteval.train import Diverged, train

TRAINING_STEPS = 3
"""Timed steps; one more before them warms up."""


class Estimate(NamedTuple):
    """Floating-point operations and seconds."""

    flops: float
    seconds: float


class _Enough(BaseException):
    """The probe has seen what it needs; not an Exception, so that no task can take it for one of its own."""


@dataclass
class _Probe:
    """A progress that ends the stage after some units and remembers when each was done."""

    units: int
    total: int = 0
    times: list[float] = field(default_factory=list)

    def begin(self, stage: str, total: int) -> None:
        """The first unit starts."""
        self.total = total
        self.times.append(time.perf_counter())

    def advance(self, amount: int = 1, note: str = "") -> None:
        """A unit is done."""
        if amount:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # else the time of launching kernels is taken for that of running them
            self.times.append(time.perf_counter())
        if len(self.times) > min(self.units, self.total):
            raise _Enough

    @property
    def seconds(self) -> float:
        """The whole stage's time, from the units after the first one, which warms up (unless it is the only one)."""
        counted = self.times[1:] if len(self.times) > 2 else self.times
        return (counted[-1] - counted[0]) / (len(counted) - 1) * self.total


def estimate(jobs: Iterable[Job], runtime: Runtime) -> list[Estimate]:
    """What is left of each job; the training of a half-done job counts in full."""
    # Seeds cost the same, and to tasks so do all methods with as many branches: one probe serves them all.
    probes: dict[object, Estimate] = {}
    estimates = []
    for job in jobs:
        cell = job.cell
        parts = []
        if not job.trained:
            key: object = (cell.dataset, cell.architecture, cell.method, cell.training)
            parts.append(probes.get(key) or probes.setdefault(key, _training(job, runtime)))
        for task in job.missing:
            key = (cell.dataset, cell.architecture, len(cell.method.branches), task)
            parts.append(probes.get(key) or probes.setdefault(key, _judging(job, task, runtime)))
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
    return Estimate(flops, probe.seconds)


def _judging(job: Job, task: Task, runtime: Runtime) -> Estimate:
    """FLOPs and seconds from the first images."""
    timed = _probed(job, task, runtime, units=2)
    with FlopCount() as count:  # apart from the timing: counting slows down
        counted = _probed(job, task, runtime, units=1)
    return Estimate(count.flops * counted.total, timed.seconds)


def _probed(job: Job, task: Task, runtime: Runtime, *, units: int) -> _Probe:
    """The probe that some units of a task reported to."""
    probe = _Probe(units)
    model = network(job.cell, job.train).to(runtime.device).eval()
    context = judging(runtime, job.cell.method.deployed, probe, data_dir=job.data_dir)
    with suppress(_Enough):
        for _ in task.measure(dict.fromkeys(job.cell.method.branches, model), job.test, context):
            pass
    return probe
