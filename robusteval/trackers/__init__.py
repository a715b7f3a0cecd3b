"""Experiment trackers, off unless asked for: observers that send a run's logs and numbers elsewhere.

A tracker only looks on (`robusteval.observing`): it changes no result, and one that fails is left out with a warning.
"""

from __future__ import annotations

from pathlib import Path

from robusteval.errors import unknown
from robusteval.observing import Observer
from robusteval.records import Measurement
from robusteval.wording import clean

NAMES = ("tensorboard", "wandb")


def tracker(name: str, out: Path) -> Observer:
    """The tracker of that name.

    Args:
        name: one of `NAMES`.
        out: the folder of runs and reports; what a tracker writes lies in a folder of its name there, beside ``runs``.

    Raises:
        UserError: an unknown name; its package is not installed, or not logged in.
    """
    if name == "tensorboard":
        from robusteval.trackers.tensorboard import TensorBoard

        return TensorBoard(out / "tensorboard")
    if name == "wandb":
        from robusteval.trackers.weights_and_biases import WeightsAndBiases

        return WeightsAndBiases(out)
    raise unknown("--track", "tracker", name, NAMES)


def key(measurement: Measurement) -> str:
    """The name of a number for trackers, e.g. ``corruption/accuracy/branch=main,corruption=fog,severity=3``."""
    where = ",".join(f"{name}={value}" for name, value in measurement.where.items())
    return clean("/".join(filter(None, (measurement.task, measurement.metric, where))))
