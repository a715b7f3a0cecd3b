"""Trains and judges disentangled-BatchNorm methods for robust image classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robusteval.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "__version__", "evaluate"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`evaluate` and its result, imported when first asked for: the package itself does not import torch."""
    if name not in ("Evaluation", "evaluate"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from robusteval import evaluation

    return getattr(evaluation, name)
