"""Generated images kept on disk between evaluations: an option, and nothing but time depends on it.

Without ``ROBUSTEVAL_CACHE`` nothing is kept: images are made batch by batch where they are judged. With it, each
corruption and severity is kept as it was made, under everything that decides its pixels.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robusteval import manifest
from robusteval.corruptions import adapter
from robusteval.corruptions.generate import corrupt
from robusteval.corruptions.strengths import GENERATOR_VERSION, table_for
from robusteval.data.digest import content_digest
from robusteval.data.sets import ImageSet

CACHE_VARIABLE = "ROBUSTEVAL_CACHE"
"""The environment variable that names the folder; about 30 MB for each cell of 10,000 images."""


def folder() -> Path | None:
    """Where generated images are kept; None if they are not."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else None


def corrupted(data: ImageSet, name: str, severity: float, *, seed: int, device: torch.device) -> Tensor:
    """All images of a set with one corruption, uint8 (N, 3, H, W) on the CPU: made, or read from the cache.

    What is made is put into the cache, if there is one. A file there that is not whole, or was changed, is made again;
    while another process writes there, nothing is.

    Args:
        data: the clean images.
        name: the corruption.
        severity: its severity.
        seed: of all draws.
        device: where images are made.

    Raises:
        UserError: as `corrupt`, or the cache cannot be written.
    """
    root = folder()
    if root is None or name in adapter.NAMES:  # another package's version decides those
        return _made(data, name, severity, seed, device)
    place, file = root / _key(data, seed, device), f"{name}-{severity}.npy"
    try:
        if file in manifest.names(place):
            return torch.from_numpy(np.load(io.BytesIO(manifest.read_bytes(place, file)), allow_pickle=False))
    except manifest.Damaged:
        pass
    made = _made(data, name, severity, seed, device)
    _keep(place, file, made)
    return made


def _made(data: ImageSet, name: str, severity: float, seed: int, device: torch.device) -> Tensor:
    index = torch.arange(len(data.labels), device=device)
    return corrupt(data.images.to(device), name, severity, seed=seed, index=index).cpu()


def _key(data: ImageSet, seed: int, device: torch.device) -> Path:
    """The folder for everything that decides pixels, beside corruption and severity.

    The digest is that of the images at hand, not of the set that they were taken from. The kind of device counts
    because the last bit of a pixel may depend on it.
    """
    source = content_digest(data.images.numpy(), data.labels.numpy())
    table = table_for("auto", *data.images.shape[2:])
    return Path(f"generator-{GENERATOR_VERSION}", f"{data.name}-{source[:32]}", f"{table}-{device.type}-seed-{seed}")


def _keep(place: Path, file: str, made: Tensor) -> None:
    """Puts images into the cache, unless another process is at it."""
    packed = io.BytesIO()
    np.save(packed, made.numpy(), allow_pickle=False)
    try:
        with manifest.locked(place):
            _without_damage(place)
            manifest.write_bytes(place, file, packed.getvalue())
    except manifest.Busy:
        pass


def _without_damage(place: Path) -> None:
    """Takes away a manifest that cannot be read: what it named is made again."""
    try:
        manifest.names(place)
    except manifest.Damaged:
        (place / manifest.MANIFEST).unlink()
