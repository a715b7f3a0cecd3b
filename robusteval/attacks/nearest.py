"""The misclassified image that is nearest to the original: what attacks without a fixed ball look for."""

from __future__ import annotations

import torch
from torch import Tensor

from robusteval.attacks.geometry import distance
from robusteval.attacks.search import Query, State
from robusteval.options import Norm


def none_found(state: State) -> State:
    """The rows ``nearest`` (the image) and ``distance`` (float64, infinite) of images that have just entered."""
    there = torch.full(state["y"].shape, torch.inf, dtype=torch.float64, device=state["y"].device)
    return {"nearest": state["x"], "distance": there}


def nearer(query: Query, state: State, points: Tensor, wrong: Tensor, *, norm: Norm, epsilon: float | None) -> State:
    """The state in which points that are misclassified and nearer than all before have been taken down.

    Points that a half-precision search takes for misclassified are looked at again in float32: one that is not would
    stand in the way of all true ones that are further away.

    Args:
        query: the network.
        state: with the rows of `none_found`, unchanged.
        points: shape of ``state["x"]``, in [0, 1].
        wrong: bool (B,), whether the search saw the point misclassified.
        norm: of the distance.
        epsilon: an image is done (``hit``) once an example is within this radius, and is handed back as it was if none
            has been found. None: it is done when it is itself misclassified, and the nearest example is handed back.
    """
    there = distance(state["x"], points, norm)
    better = wrong & (there < state["distance"])
    if query.precision != "float32" and bool(better.any()):
        rows = torch.nonzero(better).squeeze(1)
        confirmed = query.exact(points[rows]).argmax(dim=1) != state["y"][rows]
        better = better.index_put((rows,), confirmed)
    chosen = better.view(-1, *[1] * (points.ndim - 1))
    nearest = torch.where(chosen, points, state["nearest"])
    there = torch.where(better, there, state["distance"])
    hit = there <= (0 if epsilon is None else epsilon)
    example = nearest if epsilon is None else torch.where(hit.view_as(chosen), nearest, state["x"])
    return {**state, "nearest": nearest, "distance": there, "example": example, "hit": hit}
