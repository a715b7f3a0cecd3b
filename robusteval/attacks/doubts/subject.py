"""What a battery of checks is given, and the rules by which counts of images become a doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from robusteval.attacks.objectives import Objective
from robusteval.attacks.search import GPU_SLOTS, SLOTS, Query, Search, Threat, run
from robusteval.losses import cross_entropy
from robusteval.modes import attack_mode, true_float32
from robusteval.randomness import Stream

_ROWS = 256
"""Images in a pass that only predicts."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A robust number under examination: the network, the attack, and some of the images.

    Attributes:
        model: the network that is judged: images in [0, 1] to logits (B, classes).
        attacked: the network whose gradients the attack followed; the same object, unless the attack went another way.
        x: float32 (n, 3, H, W) in [0, 1], the first images of the evaluation, on the network's device.
        y: int64 (n,) labels.
        index: int64 (n,) numbers of the images in their set.
        classes: number of classes.
        threat: the perturbations that were allowed.
        robust: bool (n,): right clean and after the attack.
        examples: shape of x: the strongest that the attack handed back for each image.
        rng: of the checks' own draws.
        search: the attack, or the first of an ensemble; it is run again on images that survived and on planted ones.
        losses: what the attack drove up; empty for one that follows no gradient.
        precision: of the attack's passes.
        others: networks whose examples may transfer: other branches, other methods of a suite; by name.
        before: `state_of` the network before the attack.
        images: number of images behind the number; None: n.
        available: number of images in the set; None: as many as behind the number.
    """

    model: nn.Module
    attacked: nn.Module
    x: Tensor
    y: Tensor
    index: Tensor
    classes: int
    threat: Threat
    robust: Tensor
    examples: Tensor
    rng: Stream
    search: Search | None = None
    losses: tuple[Objective, ...] = (cross_entropy,)
    precision: Literal["float32", "bfloat16"] = "float32"
    others: Mapping[str, nn.Module] = field(default_factory=dict)
    before: State | None = None
    images: int | None = None
    available: int | None = None

    @property
    def white_box(self) -> bool:
        """Whether the attack followed the gradients of the judged network."""
        return self.attacked is self.model

    def survivors(self) -> Tensor:
        """The rows (int64) of the images that the attack could not break."""
        return torch.nonzero(self.robust).squeeze(1)

    def broken_by(self, search: Search) -> int:
        """How many survivors the judged network gets wrong after a search through it."""
        rows = self.survivors()
        if not len(rows):
            return 0
        found = self.attack(search, self.model, rows)
        return int((predictions(self.model, found) != self.y[rows]).sum())

    def attack(self, search: Search, network: nn.Module, rows: Tensor) -> Tensor:
        """What the search makes of some of the images."""
        slots = SLOTS if self.x.device.type == "cpu" else GPU_SLOTS
        query = Query(network, precision=self.precision)
        return run(search, query, self.x[rows], self.y[rows], self.index[rows], slots=slots)


Find = Callable[[Subject], str | None]
"""A check: the evidence, with its numbers, or None where there is nothing to doubt."""


class Check(NamedTuple):
    """A check under its name.

    Attributes:
        find: looks for it.
        text: one sentence: why it matters.
        decisive: what comes after compares outputs of a fixed function of single images; if this is found, there is
            nothing to compare.
        level: a ``doubt`` flags the number; a ``remark`` does not.
    """

    find: Find
    text: str
    decisive: bool = False
    level: Literal["doubt", "remark"] = "doubt"


def exceeds(count: int, n: int, share: float, *, level: float = 0.01) -> bool:
    """Whether so many of n images show that more than a share of all images are such.

    An exact one-sided binomial test. For 100 images and 0.2 points it takes 3 images, for 1,000 it takes 7, for 10,000
    it takes 32: a few images that are no more than chance raise no doubt.

    >>> exceeds(2, 100, 0.002), exceeds(3, 100, 0.002)
    (False, True)
    """
    from scipy.special import bdtrc

    return count > 0 and float(bdtrc(count - 1, n, share)) < level


@contextmanager
def judging(model: nn.Module) -> Iterator[None]:
    """A context in which predictions are those that count: eval mode, true float32, no autocast."""
    with attack_mode(model, "eval"), true_float32():
        yield


def logits_of(model: nn.Module, points: Tensor) -> Tensor:
    """The network's logits as they count, float32 (B, K), without a graph."""
    query = Query(model)
    with judging(model):
        return torch.cat([query.exact(part) for part in torch.split(points, _ROWS)])


def predictions(model: nn.Module, points: Tensor) -> Tensor:
    """The class with the highest logit of each image, int64 (B,)."""
    return logits_of(model, points).argmax(dim=1)


class State(NamedTuple):
    """All that a network's behaviour depends on: tensors (parameters and every buffer) and train/eval flags."""

    tensors: Mapping[str, Tensor]
    flags: Mapping[str, bool]

    def changed(self, later: State) -> list[str]:
        """The names of what differs in a later state, bit for bit."""
        tensors = [n for n, tensor in self.tensors.items() if not _identical(tensor, later.tensors.get(n))]
        new = [n for n in later.tensors if n not in self.tensors]
        return tensors + new + [n or "network" for n, flag in self.flags.items() if later.flags.get(n) != flag]


def state_of(model: nn.Module) -> State:
    """A copy of the network's state."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return State({n: t.detach().clone() for n, t in named}, {n: m.training for n, m in model.named_modules()})


def _identical(a: Tensor, b: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers; NaN is equal to NaN."""
    return b is not None and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
