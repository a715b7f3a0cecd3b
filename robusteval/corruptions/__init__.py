"""Corruptions, read from files or made here.

Those of CIFAR-10-C (Hendrycks and Dietterich, 2019, arXiv:1903.12261) and of CIFAR-10-C-bar (Mintun et al., 2021,
arXiv:2102.11273).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robusteval.corruptions.bar import CBAR
from robusteval.corruptions.strengths import (
    CIFAR,
    CORRUPTIONS,
    GENERATOR_VERSION,
    HELD_OUT,
    IMAGENET,
    NAMES,
    TABLES,
    Table,
    TableChoice,
    parts,
    sources,
    strength,
    table_for,
)

if TYPE_CHECKING:
    from robusteval.corruptions.generate import corrupt

__all__ = [
    "CBAR",
    "CIFAR",
    "CORRUPTIONS",
    "GENERATOR_VERSION",
    "HELD_OUT",
    "IMAGENET",
    "NAMES",
    "TABLES",
    "Table",
    "TableChoice",
    "corrupt",
    "parts",
    "sources",
    "strength",
    "table_for",
]


def __getattr__(name: str) -> object:
    """The function `corrupt`, imported at its first use: the names above must not cost an import of torch."""
    if name == "corrupt":
        from robusteval.corruptions.generate import corrupt

        return corrupt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
