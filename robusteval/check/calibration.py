"""How fast this process is now: seconds of a training can be compared between machines only as multiples of that."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from robusteval.records import Finite, Record
from robusteval.store import StoredRun, locked, names, read_record, write_record

if TYPE_CHECKING:
    from robusteval.runtime import Runtime

FILE = "calibration.json"
STEPS, TIMES = 4, 5


class Calibration(Record):
    """The time of the calibration loop in the process that trained a run, before and after; see `seconds`."""

    seconds: Finite


def seconds(runtime: Runtime) -> float:
    """The least time of several that a fixed bit of training takes here: forward, backward and a step of a ResNet-8.

    The least and not the mean: others who use the machine can only make it slower.
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

    def loop() -> None:
        for _ in range(STEPS):
            with autocast(precision, device):
                loss = cross_entropy(network(x), y)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for a GPU

    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        loop()
        times.append(time.perf_counter() - began)
    return min(times)


def keep(stored: StoredRun, calibration: Calibration) -> None:
    """Writes the calibration beside the run that it was timed for."""
    with locked(stored.folder):
        write_record(stored.folder, FILE, calibration)


def relative(stored: StoredRun) -> float | None:
    """Seconds of the run's training over those of the calibration loop; None where that was not timed."""
    cost = stored.run.cost
    if cost is None or "train" not in cost.wall_s or FILE not in names(stored.folder):
        return None
    return cost.wall_s["train"] / read_record(stored.folder, FILE, Calibration).seconds
