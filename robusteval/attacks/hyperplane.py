"""The shortest way from an image to a hyperplane inside the pixel range (Croce and Hein, 2020, arXiv:1907.02044)."""

from __future__ import annotations

import torch
from torch import Tensor

from robusteval.options import Norm


def to_hyperplane(point: Tensor, normal: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """The shortest d with ``normal . d = gap`` for which ``point + d`` is in [0, 1]; shape of the point.

    Where the box has no such point, d leads to the corner that comes closest. Exact up to rounding: each entry moves
    at its pace (1 in Linf, the normal's entry in L2) until the box stops it, so that ``normal . d`` is an increasing,
    concave, piecewise linear function of how long they move. Newton's method comes from the left, skips no
    solution and ends at it after a few passes over the entries.

    The published code sorts and bisects instead. In L2 it also takes entries of the normal below 1e-8 for 0, so that
    saturated networks, whose gradients are that small, are left where they are; here only the direction of the normal
    matters.

    Args:
        point: float (B, n) in [0, 1].
        normal: float (B, n), finite. Where an entry is zero, that of d is zero.
        gap: float (B,), finite: by how much ``normal . point`` is to grow.
        norm: the norm in which d is to be short.
    """
    # Without masks, which cost forty times as much as arithmetic on a CPU: 0 and 1 are numbers here.
    peak = normal.abs().amax(dim=1, keepdim=True)
    peak = torch.where(peak > 0, peak, 1)
    normal = normal / torch.where(gap.unsqueeze(1) < 0, -peak, peak)
    wanted = gap.double().abs() / peak.double().squeeze(1)
    weight, sign = normal.abs(), normal.sign()
    room = (sign.clamp(min=0) - point).abs_()
    if norm == "Linf":
        pace, gain, limit = sign, weight, room
    else:
        pace, gain, limit = normal, weight.square(), room / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    full = weight * room
    time = torch.zeros_like(wanted)
    stopped, count = torch.zeros_like(normal), torch.zeros_like(peak).squeeze(1)
    while True:
        missing = wanted - (full * stopped).sum(dim=1, dtype=torch.float64)
        rate = (gain * (1 - stopped)).sum(dim=1, dtype=torch.float64)
        # Never back: rounding makes ``missing`` negative at most where the way has been found.
        time = torch.where(missing > 0, torch.maximum(missing / rate, time), time)
        moved = time.to(normal.dtype).unsqueeze(1)
        stopped, before = (moved - limit).sign_().clamp_(min=0), count
        count = stopped.sum(dim=1)
        if torch.equal(count, before):
            return pace * torch.minimum(moved, limit)
