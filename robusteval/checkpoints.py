"""What a training run needs to go on after a kill: groups of tensors and a few plain values, in one checked file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robusteval import store

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT = "checkpoint.safetensors"


class Checkpoint(NamedTuple):
    """Tensors by group and name, and JSON values."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint in place of the last one; a kill at any instant leaves one of the two."""
    flat = {f"{group}|{name}": t for group, named in checkpoint.tensors.items() for name, t in named.items()}
    values = json.dumps(dict(checkpoint.values), allow_nan=False)
    store.write_tensors(folder, CHECKPOINT, flat, {"groups": json.dumps([*checkpoint.tensors]), "values": values})


def load(folder: Path) -> Checkpoint | None:
    """The last checkpoint; None where there is none.

    Raises:
        Damaged: it is not what was written.
    """
    if CHECKPOINT not in store.names(folder):
        return None
    flat, meta = store.read_tensors(folder, CHECKPOINT)
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in json.loads(meta["groups"])}
    for key, value in flat.items():
        group, name = key.split("|", 1)
        tensors[group][name] = value
    return Checkpoint(tensors, json.loads(meta["values"]))
