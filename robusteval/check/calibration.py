"""How long trainings take in units of a calibration loop's time: seconds of two machines cannot be compared.

On a CPU it is the processor's time of this process, which other processes do not add to; it is not free of them, as
they take cache and clock rate. So the loop is timed before and after each run, and a training counts only if the two
agree. Of a GPU the processor's time says nothing: there it is the time that passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from robusteval.records import Epoch, Finite, Measurement, Record, Run
from robusteval.store import StoredRun, names, read_record, write_record

if TYPE_CHECKING:
    from robusteval.runtime import Runtime

FILE = "timing.json"
STEPS, TIMES = 4, 8
"""Steps of the loop, and how many are timed: the loop takes as many times the quickest."""

AGREE = 1.25
"""How much longer the loop may take on one side of a training than on the other."""


class Timing(Record):
    """Seconds of a training, and of the calibration loop in the same process before and after the run."""

    training: Finite
    before: Finite
    after: Finite

    @property
    def relative(self) -> float | None:
        """The training in units of the loop; None if the machine was not equally fast before and after."""
        loops = sorted((self.before, self.after))
        return self.training / loops[0] if loops[1] <= AGREE * loops[0] else None


class Stopwatch:
    """Times trainings with the loop before and after; an observer of runs (`robusteval.observing.Observer`).

    Args:
        folders: of the runs that are to be trained from their start, by id; of a resumed training, whose other part
            another process did, nothing is known.
        runtime: where they are trained.
        clock: seconds; by default the processor's or, on a GPU, those that pass.
    """

    def __init__(self, folders: Mapping[str, Path], runtime: Runtime, clock: Callable[[], float] | None = None) -> None:
        self.folders, self.runtime = folders, runtime
        self.clock = clock or (time.process_time if runtime.device.type == "cpu" else time.perf_counter)
        self.loop = self.began = self.ended = 0.0

    def begin(self, run: Run) -> None:
        """Times the loop, and starts."""
        if run.id in self.folders:
            self.loop = seconds(self.runtime, self.clock)
            self.began = self.ended = self.clock()

    def epoch(self, epoch: Epoch) -> None:
        """Notes the time: this epoch may be the last."""
        self.ended = self.clock()

    def measured(self, measurement: Measurement, epoch: int | None) -> None:
        """Judging is not timed."""

    def end(self, run: Run) -> None:
        """Writes what was timed beside the run, whose folder is still locked for this process."""
        if run.id in self.folders and run.cost is not None:  # else the training has not come to its end
            after = seconds(self.runtime, self.clock)
            timing = Timing(training=self.ended - self.began, before=self.loop, after=after)
            write_record(self.folders[run.id], FILE, timing)


def seconds(runtime: Runtime, clock: Callable[[], float]) -> float:
    """What the loop takes: steps of a ResNet-8's training, forward, backward and update.

    As many times the least of several steps, and not their sum: others who use the machine only make it slower.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from robusteval.hardware import autocast, choose_precision
    from robusteval.models import build

    device, precision = runtime.device, choose_precision("auto", runtime.device)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(0)
        network = build("resnet8", classes=10, normalize="cifar10").to(device)
        x, y = torch.rand(128, 3, 32, 32).to(device), torch.arange(128, device=device) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def step() -> float:
        began = clock()
        with autocast(precision, device):
            loss = cross_entropy(network(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for a GPU
        return clock() - began

    return STEPS * min(step() for _ in range(TIMES))


def relative(stored: StoredRun) -> float | None:
    """The run's training in units of the calibration loop; None where that was not timed, or not reliably."""
    if stored.run.cost is None or FILE not in names(stored.folder):
        return None
    return read_record(stored.folder, FILE, Timing).relative
