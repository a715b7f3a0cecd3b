"""Did the attack use what it saw, and did it get anywhere?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robusteval.attacks.doubts.subject import Subject, exceeds, logits_of
from robusteval.attacks.fab import FabSearch
from robusteval.attacks.geometry import distance
from robusteval.attacks.search import Query, Search, State, Threat, run
from robusteval.losses import margin

_LOST_SHARE = 0.002
_IDLE_SHARE = 0.05


def silent_success(subject: Subject) -> str | None:
    """The attack, run again on its survivors, asks about points that are misclassified and hands back none of them."""
    rows = subject.survivors()
    if subject.search is None or not subject.white_box or not len(rows):
        return None
    index, order = subject.index[rows].sort()
    rows = rows[order]
    watched = _Watched(subject.search, index, torch.zeros_like(index, dtype=torch.bool))
    # In float32: half-precision logits of images near the boundary err on their own.
    query = _Witness(subject.model, subject.threat)
    run(watched, query, subject.x[rows], subject.y[rows], index)
    count, n = int(watched.seen.sum()), len(subject.x)
    if not exceeds(count, n, _LOST_SHARE):
        return None
    return f"an iterate of the attack was adversarial on {count} of {n} images that count as robust"


def no_progress(subject: Subject) -> str | None:
    """The examples that failed are no nearer to being wrong than the images were, by no measure.

    Measures are the attack's losses and the gap between the label's and the next logit. Either alone misleads:
    cross-entropy is 0 in float32 on both ends for images that a network is sure of, and an attack that drives it up may
    raise several wrong classes at once and widen the gap to the next one.
    """
    rows = subject.survivors()
    if isinstance(subject.search, FabSearch):  # it hands back the image itself where it found nothing in the ball
        rows = rows[(subject.examples[rows] != subject.x[rows]).flatten(1).any(dim=1)]
    if not subject.losses or not subject.white_box or not len(rows) or subject.threat.epsilon == 0:
        return None
    y = subject.y[rows]
    start, end = (logits_of(subject.model, points[rows]) for points in (subject.x, subject.examples))
    nearer = margin(end, y) < margin(start, y)
    for loss in subject.losses:
        nearer |= loss(end, y) > loss(start, y)
    count = int((~nearer).sum())
    if not exceeds(count, len(rows), _IDLE_SHARE):
        return None
    return f"{count} of {len(rows)} examples that failed are no nearer to being misclassified than their images"


class _Witness(Query):
    """A query that remembers for which rows of a search's state it has seen an allowed, misclassified point."""

    def __init__(self, model: nn.Module, threat: Threat) -> None:
        super().__init__(model)
        self.threat = threat
        self.x = self.y = self.wrong = torch.empty(0)

    def watch(self, state: State) -> None:
        """From now on, a batch of so many images belongs to these rows."""
        self.x, self.y, self.wrong = state["x"], state["y"], torch.zeros_like(state["y"], dtype=torch.bool)

    def _pass(self, points: Tensor, *, exact: bool = False) -> Tensor:
        logits = super()._pass(points, exact=exact)
        if len(points) == len(self.y):
            # Searches for the nearest example ask about points beyond the ball, too.
            allowed = distance(self.x, points.detach(), self.threat.norm) <= self.threat.epsilon * (1 + 1e-6)
            self.wrong = self.wrong | (allowed & (logits[: len(points)].argmax(dim=1) != self.y))
        return logits


@dataclass(frozen=True)
class _Watched:
    """A search, and the images that were misclassified at any point that it asked about.

    Attributes:
        search: the search.
        index: the images' numbers, sorted.
        seen: bool, a place for each of them.
    """

    search: Search
    index: Tensor
    seen: Tensor

    @property
    def steps(self) -> int:
        """See `Search`."""
        return self.search.steps

    def begin(self, query: Query, state: State) -> State:
        """See `Search`."""
        return self._watched(query, state, self.search.begin)

    def step(self, query: Query, state: State) -> State:
        """See `Search`."""
        return self._watched(query, state, self.search.step)

    def _watched(self, query: Query, state: State, act: Callable[[Query, State], State]) -> State:
        assert isinstance(query, _Witness)
        query.watch(state)
        following = act(query, state)
        place = torch.searchsorted(self.index, state["index"])
        self.seen[place] |= query.wrong
        return following
