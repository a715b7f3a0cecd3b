"""What a long task has done so far, kept in the run folder until the task is recorded.

A draft is taken up again only for the same task, options, weights and images (the key says so), device, precision and
number of threads: the parts of one number must have been made alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robusteval import store

FOLDER = "drafts/"
_SECONDS, _ALIKE = "seconds", "alike"
_BETWEEN = "|"


class StoredDraft:
    """A `robusteval.tasks.task.Draft` in a file of a run folder.

    Args:
        folder: the run folder, locked by the caller.
        task_key: the task, its options, the weights and the images.
        alike: what else has to be the same.

    Attributes:
        seconds: what the interrupted attempts took, up to their last note.
    """

    def __init__(self, folder: Path, task_key: str, alike: str) -> None:
        self.folder, self.name = folder, f"{FOLDER}{task_key}.npz"
        self.alike = np.array(alike)
        self.began = time.perf_counter()
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        try:
            noted = store.read_arrays(folder, self.name) if self.name in store.names(folder) else {}
        except store.Damaged:  # it only saves time: what is damaged is made anew
            noted = {}
        if noted and str(noted[_ALIKE]) == alike:
            self.arrays = noted
        self.seconds = float(self.arrays.get(_SECONDS, 0.0))

    def read(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """See `robusteval.tasks.task.Draft`."""
        start = key + _BETWEEN
        found = {name.removeprefix(start): value for name, value in self.arrays.items() if name.startswith(start)}
        return found or None

    def write(self, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """See `robusteval.tasks.task.Draft`."""
        self.arrays |= {key + _BETWEEN + name: value for name, value in arrays.items()}
        self.arrays |= {_ALIKE: self.alike, _SECONDS: np.array(self.elapsed)}
        store.write_arrays(self.folder, self.name, self.arrays)

    @property
    def elapsed(self) -> float:
        """Seconds spent on the task, interrupted attempts included."""
        return self.seconds + time.perf_counter() - self.began

    def discard(self) -> None:
        """Removes the file: the task is recorded."""
        store.remove(self.folder, self.name)
