"""Attacks for judging: every image walks through a search on its own, and leaves as soon as it is broken.

An attack that only wants to know whether an image can be broken wastes most of its passes on images that it has
broken already. Here a few *slots* hold the images under attack; one that is finished makes room for the next, and
where few are left, several searches are at each of them at once: its *lanes*. What happens to an image depends on the
network, the search, the image and its number alone, not on its neighbours: batches keep the shapes for which rows of
float results do not depend on one another, and every draw is keyed by the number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from robusteval.attacks.geometry import BALLS, Ball
from robusteval.cost import timed
from robusteval.losses import margin
from robusteval.modes import attack_mode, true_float32, without_graph
from robusteval.options import Norm

State = dict[str, Tensor]
"""What a search knows about the images in its slots; every tensor has a row for each."""

SLOTS = 64
"""Images under attack at once: a CPU is saturated by so many, and the last of them keep few others waiting."""

GPU_SLOTS = 1024
"""Images under attack at once on a GPU, which smaller batches leave idle."""

_ROWS = 8
"""Batches are padded to multiples of it: rows of fewer images differ in their last bits on CPUs."""


class Threat(NamedTuple):
    """The perturbations that are allowed: those within ``epsilon`` of the image in ``norm`` (pixels in [0, 1])."""

    norm: Norm
    epsilon: float

    def ball(self, x: Tensor) -> Ball:
        """The allowed images around x."""
        return BALLS[self.norm](x, self.epsilon)


class Query:
    """A network in eval mode, as an attack may ask it; what is asked is counted.

    Args:
        model: takes images in [0, 1], returns logits (B, K).
        precision: of these passes. ``bfloat16`` is autocast.
        rows: batches are padded to this many rows, or to multiples of 8 where it is None: on a GPU, kernels are chosen
            by shape, so that only equal shapes give equal bits.

    Attributes:
        follow: what `gradient` and `logits` pass images through: the model, or the same function (`folded`).
        forward, backward: images that were passed so far, padding included.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: Literal["float32", "bfloat16"] = "float32",
        rows: int | None = None,
    ) -> None:
        self.model = model
        self.follow = model
        self.precision = precision
        self.rows = rows
        self.forward = self.backward = 0

    def logits(self, points: Tensor) -> Tensor:
        """The logits of float32 images, float32 (B, K), without a graph."""
        with without_graph(), self._autocast(points):
            return self._pass(points)[: len(points)]

    def exact(self, points: Tensor) -> Tensor:
        """The logits as they count in the end: in float32 whatever the precision of the search."""
        with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
            return self._pass(points, exact=True)[: len(points)]

    def gradient(self, points: Tensor, value: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The logits (B, K), detached, and the gradient (shape of the points) of a value (B,) of each image's logits.

        The gradient is zero where the output does not depend on the input differentiably. ``value`` sees the logits of
        the points alone, without the padding.
        """
        with torch.enable_grad(), self._autocast(points):
            # A leaf that is added and not the model's input itself: FLOP counters of torch cannot follow the latter.
            zero = torch.zeros_like(points, requires_grad=True)
            logits = self._pass(points + zero)[: len(points)]
            total = value(logits).sum()
            gradient = None
            if total.requires_grad:
                self.backward += self.padded(len(points))
                (gradient,) = torch.autograd.grad(total, zero, allow_unused=True)
        return logits.detach(), torch.zeros_like(points) if gradient is None else gradient

    def padded(self, n: int) -> int:
        """How many rows are passed where n images are asked."""
        step = self.rows or _ROWS
        return -(-n // step) * step

    def _pass(self, points: Tensor, *, exact: bool = False) -> Tensor:
        rows = self.padded(len(points))
        self.forward += rows
        if rows > len(points):
            points = torch.cat([points, points[-1:].expand(rows - len(points), *points.shape[1:])])
        if points.ndim == 4:
            points = points.contiguous(memory_format=torch.channels_last)
        logits: Tensor = (self.model if exact else self.follow)(points)
        return logits.float()

    def _autocast(self, points: Tensor) -> torch.autocast:
        return torch.autocast(points.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


class Search(Protocol):
    """An attack, as steps that each image takes on its own. Searches are frozen dataclasses.

    A state belongs to the slots' images, row by row; rows are regrouped between steps. `run` fills the rows ``x``
    (float32 images in [0, 1]), ``y`` (int64 labels) and ``index`` (int64 numbers of the images, for draws) before
    `begin`, and counts the steps that each row has taken in ``step`` (int64) from 0: one a call, unless the search took
    several at once and returns a ``step`` of its own, at most ``steps``. The search keeps two more up to date:
    ``example`` (shape of x), what the image would be handed back as if the search ended now, and ``hit`` (bool (B,)):
    the query saw the network misclassify that example, and nothing better is to be had by going on.

    Attributes:
        steps: after so many steps, an image that was not hit is handed back.
    """

    @property
    def steps(self) -> int:
        """See above."""

    def begin(self, query: Query, state: State) -> State:
        """The state of images that enter: what `run` filled in, and whatever the search needs besides."""

    def step(self, query: Query, state: State) -> State:
        """The state after a step of every row, or several. Tensors of the given state are not changed in place."""


def run(
    search: Search,
    query: Query,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    *,
    then: Sequence[Search] = (),
    slots: int = SLOTS,
    early: bool = True,
    stepped: Callable[[int], None] | None = None,
    ended: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """What the search makes of each image: float32, shape of x.

    Of several searches, it is what the first makes of the image whose example is misclassified. They do not wait for
    one another: slots that no image's first search needs are filled with later ones, which leave as soon as one before
    them has hit. Where none succeeds, it is the example that comes nearest to an error.

    The network is in eval mode meanwhile, and its flags are as before afterwards. Whether an example is adversarial is
    for the caller to find out in float32, on batches of the shape that its other predictions have.

    Args:
        search: the attack.
        query: the network.
        x: float32 (n, ...) in [0, 1], unchanged.
        y: int64 (n,) labels.
        index: int64 (n,) numbers of the images in their data set; draws depend on them.
        then: attacks that follow on images that were not hit; they differ from the first in `Search.begin` alone.
        slots: images under attack at once, counted once for each search that is at them.
        early: whether an image leaves at its first hit.
        stepped: told how many steps were taken, or spared because an image left; in the end ``steps`` for each image
            and search.
        ended: told in the end, of each image, which search it owes its example to (int64 (n,), from 0), or their number
            where none succeeded. Those after it may not have been tried.
    """
    assert not torch.is_inference_mode_enabled(), "no gradient can be had in inference mode; no_grad is fine"
    lanes, x, n = (search, *then), x.detach(), len(x)
    assert len({(type(lane), lane.steps) for lane in lanes}) == 1, "searches that step differently share no batch"
    # Searches of an image are its lanes; row ``lane * n + image`` is what a lane makes of it, and their order of entry.
    found = torch.cat([x] * len(lanes))
    first = torch.full_like(y, len(lanes))  # the first lane that has hit each image
    rows = torch.empty_like(y[:0])
    state: State = {}
    entered = 0
    with timed("attack"), attack_mode(query.model, "eval"), attack_mode(query.follow, "eval"), true_float32():
        while True:
            spared = 0
            if len(rows) < slots and entered < len(found):
                waiting = torch.arange(entered, len(found), device=x.device)
                new = waiting[waiting // n < first[waiting % n]][: slots - len(rows)]
                until = int(new[-1]) + 1 if len(rows) + len(new) == slots else len(found)
                spared = (until - entered - len(new)) * search.steps
                entered, rows = until, torch.cat([rows, new])
                for lane in torch.unique(new // n).tolist():
                    images = new[new // n == lane] % n
                    state = _joined(state, _begun(lanes[lane], query, x[images], y[images], index[images]))
            if not len(rows):
                if stepped is not None and spared:
                    stepped(spared)
                examples, by = _chosen(query, x, y, found.view(len(lanes), *x.shape), first, slots)
                if ended is not None:
                    ended(by)
                return examples
            step = state["step"]
            state = search.step(query, state)
            if state["step"] is step:
                state["step"] = step + 1
            done = state["step"] >= search.steps
            if early:
                hit = rows[_confirmed(query, state)]
                first = first.scatter_reduce(0, hit % n, hit // n, "amin")
                done |= rows // n >= first[rows % n]
            leaving = torch.nonzero(done).squeeze(1)
            if stepped is not None:
                spared += int((search.steps - state["step"][leaving]).sum())
                stepped(int((state["step"] - step).sum()) + spared)
            if len(leaving):
                found[rows[leaving]] = state["example"][leaving]
                staying = torch.nonzero(~done).squeeze(1)
                state = {key: value.index_select(0, staying) for key, value in state.items()}
                rows = rows.index_select(0, staying)


def _chosen(query: Query, x: Tensor, y: Tensor, found: Tensor, first: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Each image's example among those of all lanes (lanes, n, ...): the first misclassified one, or the nearest to it.

    Searches need not have seen that what they hand back is misclassified. The nearest has the least margin in float32;
    the image itself, which some searches hand back where they found nothing, is not asked and never nearer than others.

    Also the lane of each misclassified one; the number of lanes where there is none.
    """
    if len(found) == 1:
        return found[0], first
    lane = torch.arange(len(found), device=x.device).unsqueeze(1)
    changed = torch.stack([(example != x).flatten(1).any(dim=1) for example in found])
    lead = torch.full(found.shape[:2], -torch.inf, device=x.device).masked_fill(lane == first, torch.inf)
    unhit = torch.nonzero((lane < first) & changed)
    for start in range(0, len(unhit), rows):
        which, image = unhit[start : start + rows].unbind(dim=1)
        example, label = found[which, image], y[image]
        logits = query.exact(example)
        near = -margin(logits, label).nan_to_num(nan=torch.inf)
        near[logits.argmax(dim=1) != label] = torch.inf
        lead[which, image] = near
    best = lead.argmax(dim=0)
    by = torch.where(lead.amax(dim=0) == torch.inf, best, len(found))
    return found[best, torch.arange(len(x), device=x.device)], by


def _begun(search: Search, query: Query, x: Tensor, y: Tensor, index: Tensor) -> State:
    """The state of some images that have taken no step."""
    state = {"x": x, "y": y, "index": index, "step": torch.zeros_like(index), "example": x}
    return search.begin(query, {**state, "hit": torch.zeros_like(index, dtype=torch.bool)})


def _joined(old: State, new: State) -> State:
    """The rows of both; the old ones first."""
    return {key: torch.cat([old[key], value]) for key, value in new.items()} if old else new


def _confirmed(query: Query, state: State) -> Tensor:
    """The hits that are misclassified in float32, too: ties of half-precision logits are no successes."""
    hit = state["hit"]
    if query.precision == "float32" or not bool(hit.any()):
        return hit
    rows = torch.nonzero(hit).squeeze(1)
    wrong = query.exact(state["example"][rows]).argmax(dim=1) != state["y"][rows]
    return torch.zeros_like(hit).index_put((rows,), wrong)
