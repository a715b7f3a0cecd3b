"""The device and the precision that computations run in."""

from __future__ import annotations

import re
from typing import Literal

import torch

from robusteval.errors import UserError

Precision = Literal["float32", "bfloat16"]


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device, or the one of that name; ``auto`` is a GPU where there is one, else the CPU.

    Raises:
        UserError: no such device here.
    """
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if reason := _unusable(name):
        raise UserError(f"--device: {name!r} cannot be used here ({reason}); allowed: auto, cpu, cuda, cuda:N")
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events, and questions about bfloat16, are about the current device
    return device


def _unusable(name: str) -> str:
    """Why there is no such device here, in our words: torch's are long and about its own devices; `""` = it works."""
    if name == "cpu":
        return ""
    match = re.fullmatch(r"cuda(?::([0-9]+))?", name)
    if not match:
        return "no device is called so"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    count = torch.cuda.device_count()
    if int(match[1] or 0) >= count:
        return f"the last GPU is cuda:{count - 1}"
    try:
        torch.empty(1, device=name)
    except RuntimeError:
        return "the GPU refuses to work"
    return ""


def device_name(device: torch.device) -> str:
    """The name of the device as its maker writes it; ``cpu`` for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def choose_precision(setting: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """The precision of autocast: ``auto`` is bfloat16 where the device computes in it, else float32."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Emulated bfloat16 is slower than float32: only CPUs with instructions for it gain.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if device.type == "cpu" and native else "float32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which convolutions and matrix products run in that precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
