"""The Pareto front: what nothing else beats in one quantity without losing in the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Sense = Literal[1, -1]
"""1 where more is better, -1 where less is."""


def front(points: Sequence[tuple[float, float]], better: tuple[Sense, Sense]) -> list[int]:
    """The indices of the points that no other dominates, from the worst to the best in x; equal points stay together.

    A point dominates another if it is at least as good in both quantities and better in one.

    >>> front([(1, 1), (2, 3), (3, 2), (2, 3)], (1, 1)), front([(1, 1), (2, 3), (3, 2)], (-1, 1))
    ([1, 3, 2], [1, 0])
    """
    signed = [(better[0] * x, better[1] * y) for x, y in points]
    found: list[int] = []
    # From the best in x on, and of equals from the best in y: a point stays if its y is a new best, or repeats a point.
    for index in sorted(range(len(points)), key=lambda i: (-signed[i][0], -signed[i][1], -i)):
        if not found or signed[index][1] > signed[found[-1]][1] or signed[index] == signed[found[-1]]:
            found.append(index)
    return found[::-1]


def steps(
    corners: Sequence[tuple[float, float]], better: tuple[Sense, Sense], worst: tuple[float, float]
) -> list[tuple[float, float]]:
    """The line around everything that points on a front dominate, from one worst value to the other.

    Args:
        corners: the front, from the worst to the best in x.
        better: as for `front`.
        worst: the least good x and y that are shown.

    >>> steps([(1, 3), (2, 1)], (1, 1), (0, 0))
    [(0, 3), (1, 3), (1, 1), (2, 1), (2, 0)]
    """
    line = [(worst[0], corners[0][1])]
    for (x, y), following in zip(corners, [*corners[1:], (0.0, worst[1])], strict=True):
        line += [(x, y), (x, following[1])]
    return line
