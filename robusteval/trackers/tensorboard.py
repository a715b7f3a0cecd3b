"""TensorBoard: a folder of event files per run (``tensorboard --logdir OUT/tensorboard``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robusteval.errors import UserError
from robusteval.records import Epoch, Measurement, Run
from robusteval.trackers import key


class TensorBoard:
    """Curves of every log by epoch under ``train``; numbers of the final weights at the last epoch.

    Args:
        folder: each run's events go into a folder of its id there.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"--track tensorboard: needs the package tensorboard ({error}); pip install 'robusteval[tensorboard]'"
            ) from None
        self.folder = folder
        self.make: Any = SummaryWriter  # torch leaves it untyped, and it is not there without the package
        self.writer: Any = None
        self.last = 0

    def begin(self, run: Run) -> None:
        """Opens the run's file with its configuration as a text."""
        self.last = int(run.training.get("epochs", 0))
        self.writer = self.make(str(self.folder / run.id))
        text = json.dumps(configuration(run), indent=1)
        self.writer.add_text("run", "\n".join(f"    {line}" for line in text.splitlines()))

    def epoch(self, epoch: Epoch) -> None:
        """A point of each curve."""
        self.last = epoch.epoch
        for name, value in (epoch.logs | {"lr": epoch.lr}).items():
            self._scalar(f"train/{name}", value, epoch.epoch)

    def measured(self, measurement: Measurement, epoch: int | None) -> None:
        """A point; none for a missing value."""
        if measurement.value is not None:
            self._scalar(key(measurement), measurement.value, self.last if epoch is None else epoch)

    def end(self, run: Run) -> None:
        """Closes the file."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _scalar(self, name: str, value: float, step: int) -> None:
        assert self.writer is not None, "a run has begun"
        self.writer.add_scalar(name, value, step)


def configuration(run: Run) -> dict[str, Any]:
    """What the run is made of, without what it came to."""
    kept = {"id", "label", "method", "options", "training", "dataset", "architecture", "seed", "branches", "deployed"}
    return run.model_dump(include={*kept, "parameters", "train_data", "teacher", "provenance"}, mode="json")
