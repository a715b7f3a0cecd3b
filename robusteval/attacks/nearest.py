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
        state: with ``example`` and ``hit`` as they were, and the rows of `none_found`; unchanged.
        points: shape of ``state["x"]``, in [0, 1].
        wrong: bool (B,), whether the search saw the point misclassified.
        norm: of the distance.
        epsilon: an image is done (``hit``) once an example is within this radius, and is handed back as it was if none
            has been found. None: it is done when it is itself misclassified, and the nearest example is handed back.
    """
    there = distance(state["x"], points, norm)
    rows = torch.nonzero(wrong & (there < state["distance"])).squeeze(1)
    if query.precision != "float32" and len(rows):
        rows = rows[query.exact(points[rows]).argmax(dim=1) != state["y"][rows]]
    if not len(rows):
        return state
    nearest = state["nearest"].index_copy(0, rows, points[rows])
    there = state["distance"].index_copy(0, rows, there[rows])
    hit = there <= (0 if epsilon is None else epsilon)
    done = rows if epsilon is None else rows[hit[rows]]
    example = state["example"].index_copy(0, done, nearest[done])
    return {**state, "nearest": nearest, "distance": there, "example": example, "hit": hit}
