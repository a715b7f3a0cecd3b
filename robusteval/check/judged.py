"""Networks that were judged just now, in the form of runs, so that the gate needs to know of runs only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robusteval.branches import MAIN, branch_names
from robusteval.cells import plain
from robusteval.evaluation import Data, Evaluation, Tasks, chosen_tasks, evaluate
from robusteval.provenance import collect
from robusteval.records import DataRef, Run, TaskRecord
from robusteval.runtime import prepare
from robusteval.store import StoredRun
from robusteval.subjects import Model
from robusteval.tasks import Task

NOWHERE = DataRef(name="not known", split="train", n=0, digest="", verified=False)
"""What a network was trained on, of which we only see the network."""


@dataclass(frozen=True)
class JudgedRun(StoredRun):
    """A run without a folder: its outcomes, by the keys of its tasks, are in memory."""

    arrays: Mapping[str, Mapping[str, np.ndarray[Any, Any]]] = field(default_factory=dict)

    def all_outcomes(self, task_key: str) -> dict[str, np.ndarray[Any, Any]]:
        """The per-sample outcomes of all measurements of one task."""
        return dict(self.arrays[task_key])


def judged(
    models: Sequence[Model],
    data: Data,
    tasks: Tasks,
    *,
    label: str,
    limit: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> list[StoredRun]:
    """What `robusteval.evaluate` finds of some networks: trainings of one configuration with several seeds, or one.

    Args:
        models: in the order of their seeds, which are numbered from 0.
        data: the images.
        tasks: what is measured.
        label: what the configuration is called.
        limit: only so many images, from the first.
        data_dir: folder with data sets.
        device: where.
        threads: on the CPU.
    """
    found: list[StoredRun] = []
    for seed, model in enumerate(models):
        parts = [
            (task, evaluate(model, data, task, limit=limit, data_dir=data_dir, device=device, threads=threads))
            for task in chosen_tasks(tasks)
        ]
        found.append(_run(model, parts, label=label, seed=seed, device=device, threads=threads))
    return found


def _run(
    model: Model, parts: Sequence[tuple[Task, Evaluation]], *, label: str, seed: int, device: str, threads: int | None
) -> StoredRun:
    """The run that a network would have been."""
    networks = dict(model) if isinstance(model, Mapping) else {MAIN: model}
    branches = tuple(networks) if isinstance(model, Mapping) else tuple(branch_names(networks[MAIN])) or (MAIN,)
    deployed = MAIN if MAIN in branches else branches[0]
    kinds = dict.fromkeys(type(network).__name__ for network in networks.values())
    sha256 = _digest(networks)
    provenance = collect(prepare(device, threads), "float32").model_copy(update={"command": ()})
    keys = [f"{task.name}-{position}" for position, (task, _) in enumerate(parts)]
    run = Run(
        id=f"{label}-{seed}",
        label=label,
        method="given",
        options={},
        training={},
        dataset=parts[0][1].data.name,
        architecture="+".join(kinds),
        seed=seed,
        status="done",
        branches=branches,
        deployed=deployed,
        parameters=sum(one.numel() for network in networks.values() for one in network.parameters()),
        train_data=NOWHERE,
        weights_sha256=sha256,
        provenance=provenance,
    )
    records = tuple(
        TaskRecord(
            task=task.name,
            version=task.version,
            key=key,
            options=plain(task),
            test_data=evaluation.data,
            weights_sha256=sha256,
            measurements=evaluation.measurements,
            wall_s=0.0,
            provenance=provenance,
        )
        for key, (task, evaluation) in zip(keys, parts, strict=True)
    )
    arrays = {key: evaluation.outcomes for key, (_, evaluation) in zip(keys, parts, strict=True)}
    return JudgedRun(Path(f"{label} {seed}"), run, (), records, arrays=arrays)


def _digest(networks: Mapping[str, nn.Module]) -> str:
    """The sha256 of everything that the networks hold; equal networks have equal ones."""
    found = hashlib.sha256()
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            found.update(f"{name} {key} {value.dtype if isinstance(value, torch.Tensor) else value} ".encode())
            if isinstance(value, torch.Tensor):
                found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
