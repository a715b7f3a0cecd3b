"""A data set in the portions that are attacked at a time: a portion lies on the device as float32, and is drafted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robusteval.attacks.folding import folded
from robusteval.attacks.geometry import check_inside
from robusteval.attacks.search import GPU_SLOTS, SLOTS, Query, Search, Threat, run
from robusteval.data.sets import ImageSet
from robusteval.tasks.predict import to_input
from robusteval.tasks.task import Context

FILLS = 16
"""A portion is so many times the images that are under attack at once, and what is attacked of it between drafts."""


@dataclass(frozen=True, eq=False)
class Portion:
    """Some images of a set.

    Attributes:
        rows: where they are in it.
        x: float32 (n, 3, H, W) in [0, 1], on the context's device.
        y, index: int64 (n,) labels and numbers in the set, there too.
    """

    rows: slice
    x: Tensor
    y: Tensor
    index: Tensor

    def __str__(self) -> str:
        return f"{self.rows.start}-{self.rows.stop}"


def portions(data: ImageSet, context: Context) -> Iterator[Portion]:
    """The set's images in order, `at_a_time`."""
    n, most = len(data.labels), at_a_time(context)
    for first in range(0, n, most):
        rows = slice(first, min(first + most, n))
        x, y = to_input(data.images[rows], context.device), data.labels[rows].to(context.device)
        yield Portion(rows, x, y, torch.arange(rows.start, rows.stop, device=context.device))


def query_of(model: nn.Module, context: Context, *, exact: bool = False) -> Query:
    """The network as attacks ask it, with a new count of passes; on a GPU all batches have one shape.

    Args:
        model: the network.
        context: where, and in which precision.
        exact: in float32 whatever the context says.
    """
    rows = None if context.device.type == "cpu" else GPU_SLOTS
    return Query(model, precision="float32" if exact else context.precision, rows=rows)


def attack(
    search: Search,
    query: Query,
    portion: Portion,
    chosen: Tensor,
    threat: Threat,
    context: Context,
    *,
    then: Sequence[Search] = (),
    early: bool = True,
    ended: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The examples of the chosen images of a portion, in order; ``advance`` is told of all steps of all its images.

    Args:
        search: the attack.
        query: the network.
        portion: the images.
        chosen: bool (n,): which of them are attacked.
        threat: what the attack may do.
        context: where and how.
        then: attacks that follow on what is not hit; see `robusteval.attacks.search.run`.
        early: whether an image leaves at the first hit.
        ended: told which search each example is of, if it should be misclassified; there, too.

    Raises:
        OutsideTheBall: the attack is wrong.
    """
    x, advance = portion.x[chosen], context.progress.advance
    advance((len(chosen) - len(x)) * search.steps * (1 + len(then)))
    if len(x):
        query.follow = folded(query.model, x[:2])
    y, index = portion.y[chosen], portion.index[chosen]
    slots = _slots(context)
    made = run(search, query, x, y, index, then=then, slots=slots, early=early, stepped=advance, ended=ended)
    check_inside(x, made, norm=threat.norm, epsilon=threat.epsilon)
    return made


def at_a_time(context: Context) -> int:
    """Images of a portion, at most; of fewer images, so many pairs of an image and a search of several are attacked."""
    return FILLS * _slots(context)


def _slots(context: Context) -> int:
    """How many images are under attack at once."""
    return SLOTS if context.device.type == "cpu" else GPU_SLOTS


def steps_of_a_batch(context: Context) -> int:
    """How many steps of PGD, which are three passes of an image, judging a batch costs: units of tasks that do both."""
    return max(context.batch_size // 3, 1)
