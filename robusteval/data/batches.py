"""Which images make up each batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from robusteval.errors import UserError
from robusteval.randomness import Stream


class EvalBatch(NamedTuple):
    """Positions int64 (batch_size,), of which the first ``valid`` are images to score and the rest are filling."""

    positions: Tensor
    valid: int


def epoch_batches(n: int, batch_size: int, rng: Stream, *, drop_last: bool) -> Iterator[Tensor]:
    """The batches of one epoch: int64 positions (batch_size,) of a random order in which every image is once.

    Args:
        n: number of images.
        batch_size: images per batch.
        rng: stream of this epoch.
        drop_last: leave out the last batch if it is smaller than the others.

    Raises:
        UserError: ``drop_last`` would leave no batch.

    >>> [len(batch) for batch in epoch_batches(10, 4, Stream.of(0), drop_last=False)]
    [4, 4, 2]
    """
    assert n > 0
    assert batch_size > 0
    if drop_last and batch_size > n:
        raise UserError(f"training.batch_size: {batch_size} images a batch; the data have {n}; allowed: 1 to {n}")
    order = rng.permutation(n)
    stop = n - n % batch_size if drop_last else n
    return (order[start : start + batch_size] for start in range(0, stop, batch_size))


def eval_batches(n: int, batch_size: int) -> Iterator[EvalBatch]:
    """Batches of exactly one size in the order of the set, the last one filled by repeating its last image.

    A network's floats can depend on the batch size; with one size everywhere they do not depend on ``n``.

    >>> [(positions.tolist(), valid) for positions, valid in eval_batches(5, 3)]
    [([0, 1, 2], 3), ([3, 4, 4], 2)]
    """
    assert n > 0
    assert batch_size > 0
    for start in range(0, n, batch_size):
        yield EvalBatch(torch.arange(start, start + batch_size).clamp_(max=n - 1), min(batch_size, n - start))
