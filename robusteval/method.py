"""What a training method is: frozen hyper-parameters with three verbs, `wrap`, `step` and `deploy`.

All mutable state lives in the wrapped model; the trainer owns the optimizer and hands each step a
`Backward`, so that a method can reuse the input gradient of a parameter backward pass (EntProp,
Fast AdvProp) and every pass is metered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from robusteval.branches import MAIN, add_branches, keep_branch
from robusteval.randomness import Stream

Backward = Callable[[Tensor], None]
"""Adds the gradient of a scalar loss to every parameter (and leaf) that requires one; see `Method.step`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch.

    Attributes:
        x: float32 (B, 3, H, W) in [0, 1], augmented; not to be modified.
        y: int64 (B,) labels.
        index: int64 (B,) position of each image in its data set.
        rng: the step's stream of randomness.
        classes: number of classes K.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    rng: Stream
    classes: int


@dataclass(frozen=True)
class Card:
    """Where a method comes from and where this implementation departs from it.

    Attributes:
        title, authors, venue, year, url: the paper.
        summary: one or two sentences on what a step does.
        reference: the code that was compared with, or why there is none.
        deviations: each choice that the paper leaves open or that differs from paper or code.
    """

    title: str
    authors: str
    venue: str
    year: int
    url: str
    summary: str
    reference: str
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passes:
    """The passes that one training image costs, by branch: the law that measured counts are held against.

    Attributes:
        train: forward + backward for parameters; 3 forward-equivalents each.
        attack: forward + backward for the input only; 2 forward-equivalents each.
        forward: forward only; 1 each.
    """

    train: Mapping[str, float]
    attack: Mapping[str, float] = field(default_factory=dict)
    forward: Mapping[str, float] = field(default_factory=dict)

    @property
    def backward_by_branch(self) -> dict[str, float]:
        """Backward passes by branch: the papers' cost in multiples of N is their sum."""
        names = dict.fromkeys((*self.train, *self.attack))
        return {name: self.train.get(name, 0.0) + self.attack.get(name, 0.0) for name in names}

    @property
    def flops(self) -> float:
        """FLOPs as a multiple of standard training."""
        return (3 * sum(self.train.values()) + 2 * sum(self.attack.values()) + sum(self.forward.values())) / 3


class Method(ABC):
    """A training method. Concrete ones are `robusteval.options.options` classes whose defaults are the paper's.

    Attributes:
        name: the registry name.
        card: the paper and the deviations from it.
        branches: names of the BatchNorm branches, ``main`` first.
        deployed: the branch that `deploy` keeps.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    branches: ClassVar[tuple[str, ...]] = (MAIN,)
    deployed: ClassVar[str] = MAIN

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with what training needs besides (branches, predictors, teachers), changed in place."""
        if self.branches[1:]:
            add_branches(model, self.branches[1:])
        return model

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        """One training step without the optimizer's: forward passes, and ``backward`` on each loss.

        ``backward`` may be called several times; gradients add up. Called inside the branch context that the
        forward pass used. Inputs that require a gradient get one, scaled by a positive constant.

        Returns:
            Detached scalars to log, still on the device (no ``.item()``: it would wait for the GPU). ``loss`` is
            always among them; the trainer stops when it is not finite.
        """

    def epoch(self, model: nn.Module, logs: Mapping[str, float]) -> None:  # noqa: B027  # most methods need none
        """Called after each epoch with the epoch's mean logs; may change buffers of the model."""

    def deploy(self, model: nn.Module, branch: str | None = None) -> nn.Module:
        """A plain copy with ordinary BatchNorm and the original keys: of ``branch``, by default the deployed one."""
        return keep_branch(model, branch or self.deployed)

    @abstractmethod
    def passes(self) -> Passes:
        """What a training image costs with these hyper-parameters."""
