"""The process that computes: device, threads, determinism, memory allocator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime:
    """What `prepare` set up, for the provenance of records.

    Attributes:
        device: where networks run.
        threads: of torch on the CPU; results differ between thread counts in rounding.
        allocator: ``glibc, tuned`` or ``system``.
    """

    device: torch.device
    threads: int
    allocator: str


def prepare(device: str = "auto", threads: int | None = None) -> Runtime:
    """The runtime, after making this process deterministic and its memory allocator fast.

    Args:
        device: ``auto`` (a CUDA GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        threads: for computation on the CPU; None leaves torch's choice.

    Raises:
        UserError: the device cannot be used here.
    """
    # cuBLAS reads this when it starts; without it its results can differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from robusteval.allocator import tune_allocator
    from robusteval.hardware import choose_device

    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Else every fresh tensor is first filled with NaN, a debugging aid that costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property that torch's stub lacks
    torch.backends.cudnn.benchmark = False
    # float32 means float32: TensorFloat-32, torch's default for convolutions, keeps 10 bits of mantissa.
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # as above
    return Runtime(choose_device(device), torch.get_num_threads(), tune_allocator())
