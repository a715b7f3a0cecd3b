"""Gradients of the branches' own parameters on a scale of their own, as Fast AdvProp synchronises its groups."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import nn

from robusteval.branches import MAIN, BranchNorm


@contextmanager
def scaled_gradients(model: nn.Module, scales: Mapping[str, float]) -> Iterator[None]:
    """A context in which gradients of the BatchNorm parameters of each branch in ``scales`` arrive multiplied.

    What ``.grad`` holds already, of an earlier part of the batch say, stays as it is.
    """
    handles = [
        parameter.register_hook(partial(operator.mul, scale))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for norm in model.modules()
        if isinstance(norm, BranchNorm)
        for name, scale in scales.items()
        for parameter in (norm if name == MAIN else norm.aux_bn[name]).parameters(recurse=False)
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
