"""Weights & Biases, or what speaks its interface: `init`, and the run's `log`, `summary` and `finish`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from robusteval.errors import UserError
from robusteval.records import Epoch, Measurement, Run
from robusteval.trackers import key
from robusteval.trackers.tensorboard import configuration

PROJECT = "robusteval"
"""Where runs go unless WANDB_PROJECT says otherwise."""


class WeightsAndBiases:
    """A run of the same id and name there: logs by epoch under ``train``, numbers in its summary.

    Args:
        folder: wandb writes its own folder into it.

    Raises:
        UserError: the package is not installed, or knows no account and is not offline: it would ask, and wait.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.wandb: Any = importlib.import_module("wandb")  # an extra: not there when types are checked
        except ImportError as error:
            raise UserError(
                f"--track wandb: needs the package wandb ({error}); pip install 'robusteval[wandb]'"
            ) from None
        online = os.environ.get("WANDB_MODE", "online") not in ("offline", "disabled", "dryrun")
        login = getattr(self.wandb, "login", None)
        if online and login is not None and not login(prompt=False, verify=False):
            raise UserError(
                "--track wandb: not logged in; allowed: `wandb login`, WANDB_API_KEY=..., WANDB_MODE=offline"
            )
        self.folder = folder
        self.run: Any = None

    def begin(self, run: Run) -> None:
        """Starts the run there, or goes on with it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(self.folder),
            id=run.id,
            name=run.label,
            config=configuration(run),
            resume="allow",
            # Else it takes over what we print, and the terminal.
            settings={"console": "off", "silent": True},
        )

    def epoch(self, epoch: Epoch) -> None:
        """A line of the history."""
        logs = {f"train/{name}": value for name, value in epoch.logs.items()}
        self.run.log({**logs, "train/lr": epoch.lr}, step=epoch.epoch)

    def measured(self, measurement: Measurement, epoch: int | None) -> None:
        """An entry of the summary: its history only goes forward, and weights on the way are judged last."""
        if measurement.value is not None:
            early = "" if epoch is None else f"epoch={epoch}/"
            self.run.summary[early + key(measurement)] = measurement.value

    def end(self, run: Run) -> None:
        """Sends the rest; a run that is not done is marked as one that failed."""
        if self.run is not None:
            self.run.finish(exit_code=0 if run.status == "done" else 1)
            self.run = None
