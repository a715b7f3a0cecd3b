"""What was measured otherwise than in the baseline, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from robusteval.check.baseline import Cell, Quantity
from robusteval.records import Scalar

NO_INFLUENCE = ("checkpoint_seconds",)
"""Training options that do not change the weights; those of `robusteval.cells`, which cannot be read without torch."""


def counterpart(quantity: Quantity, now: Mapping[str, Quantity]) -> str | None:
    """The key of the quantity now that is this one, or at least the only one that it can have become."""
    alike = {
        key: other
        for key, other in now.items()
        if (other.task, other.metric, other.dataset) == (quantity.task, quantity.metric, quantity.dataset)
    }
    for fields in (("where", "version", "options", "images", "n", "parts"), ("where",)):
        for key, other in alike.items():
            if all(getattr(other, field) == getattr(quantity, field) for field in fields):
                return key
    return next(iter(alike)) if len(alike) == 1 else None


def changed_quantity(before: Quantity, now: Quantity) -> str:
    """In what the quantities differ; empty if in nothing."""
    # What names the quantity is an option of the task, too: it is told once.
    told = {key for key, value in before.where.items() if now.where.get(key) != value}
    options = {key: value for key, value in before.options.items() if key not in told}
    differences = [
        *differing("", before.where, now.where),
        *differing("option ", options, now.options),
        *_differs("version of the task", before.version, now.version),
        *_differs("number of test images", before.n, now.n),
        *_differs("number of images in each mean", before.parts, now.parts),
        *_differs("digest of the test images", before.images[:12], now.images[:12]),
    ]
    return "; ".join(differences)


def changed_cell(before: Cell, now: Cell) -> str:
    """In what the configurations differ; empty if in nothing."""
    differences = [
        *_differs("method", before.method, now.method),
        *differing("option ", before.options, now.options),
        *differing("training.", _decisive(before.training), _decisive(now.training)),
        *_differs("number of training images", before.train_images[1], now.train_images[1]),
        *_differs("digest of the training images", before.train_images[0][:12], now.train_images[0][:12]),
    ]
    return "; ".join(differences)


def _decisive(training: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in training.items() if key not in NO_INFLUENCE}


def differing(prefix: str, before: Mapping[str, Scalar | Any], now: Mapping[str, Scalar | Any]) -> Iterator[str]:
    """The entries of a table that are others now or are gone.

    One that is only there now is no difference: an option that robusteval has learnt since, whose default leaves all
    as it was. If it does not, the numbers will tell.
    """
    for key, value in before.items():
        if key not in now:
            yield f"{prefix}{key} was {value} and is gone"
        else:
            yield from _differs(prefix + key, value, now[key])


def _differs(what: str, before: object, now: object) -> Iterator[str]:
    if before != now:
        yield f"{what} was {before} and is {now}"
