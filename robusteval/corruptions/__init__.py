"""The corruptions of CIFAR-10-C (Hendrycks and Dietterich, 2019, arXiv:1903.12261): read from files or made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robusteval.corruptions.strengths import (
    CIFAR,
    CORRUPTIONS,
    GENERATOR_VERSION,
    HELD_OUT,
    IMAGENET,
    TABLES,
    Table,
    TableChoice,
    parts,
    strength,
    table_for,
)

if TYPE_CHECKING:
    from robusteval.corruptions.generate import corrupt

__all__ = [
    "CIFAR",
    "CORRUPTIONS",
    "GENERATOR_VERSION",
    "HELD_OUT",
    "IMAGENET",
    "TABLES",
    "Table",
    "TableChoice",
    "corrupt",
    "parts",
    "strength",
    "table_for",
]


def __getattr__(name: str) -> object:
    """The function `corrupt`, imported at its first use: the names above must not cost an import of torch."""
    if name == "corrupt":
        from robusteval.corruptions.generate import corrupt

        return corrupt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
