"""What a training method is: frozen hyper-parameters with three verbs, `wrap`, `step` and `deploy`.

All mutable state lives in the wrapped model; the trainer owns the optimizer and hands each step a
`Backward`, so that a method can reuse the input gradient of a parameter backward pass (EntProp,
Fast AdvProp) and every pass is metered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

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
        partner: float32 (B, 3, H, W), augmented: another view for each image, where `Method.pairing` asks for one.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    rng: Stream
    classes: int
    partner: Tensor | None = None


class Pairing(NamedTuple):
    """Which further images a method wants beside each one.

    Attributes:
        kind: ``same_class``: an image of the same class, by a random permutation within each class;
            ``augmented``: the same image, augmented by another draw.
        every: epochs after which the permutations are drawn anew.
    """

    kind: Literal["same_class", "augmented"]
    every: int = 1


@dataclass(frozen=True)
class Setting:
    """What a network is trained on, for methods that give it parts of a size.

    Attributes:
        classes: number of classes K.
        images: number of training images; `Batch.index` is below it.
        batch_size: rows of each `Batch`, which has fewer where ``training.accumulate`` divides it.
        shape: of an image.
        teacher: the network that `Method.teacher` trained, plain; None if the method has none.
    """

    classes: int
    images: int
    batch_size: int
    shape: tuple[int, int, int] = (3, 32, 32)
    teacher: nn.Module | None = None


class Published(NamedTuple):
    """A number that a paper reports for a method.

    Attributes:
        dataset, architecture: registry names, or the paper's own where there is none.
        options: hyper-parameters that differ from the defaults; the row is compared with runs that have these.
        metric: ``clean``, ``corruption`` (mean accuracy over 15 x 5), ``autoattack`` or ``pgd``, the last two with
            their threat model, e.g. ``autoattack Linf 8/255``.
        value: a fraction in [0, 1].
        sd: standard deviation over runs, if reported.
        source: paper and table.
    """

    dataset: str
    architecture: str
    options: Mapping[str, str | int | float | bool]
    metric: str
    value: float
    sd: float | None
    source: str


@dataclass(frozen=True)
class Card:
    """Where a method comes from and where this implementation departs from it.

    Attributes:
        title, authors, venue, year, url: the paper.
        summary: one or two sentences on what a step does.
        reference: the code that was compared with, or why there is none.
        deviations: each choice that the paper leaves open or that differs from paper or code.
        published: what the paper measured.
    """

    title: str
    authors: str
    venue: str
    year: int
    url: str
    summary: str
    reference: str
    deviations: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()


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


TRAINING_ONLY = "training_only"
"""The child of a model that holds what only training needs; its keys begin so, and `Method.deploy` leaves it out."""


def attach(model: nn.Module, **parts: nn.Module) -> None:
    """Gives the model parts that train and are stored with it, but are no part of the network that is deployed.

    They must be called by the method's step: the model's forward pass does not know them.
    """
    if TRAINING_ONLY not in model._modules:
        model.add_module(TRAINING_ONLY, nn.ModuleDict())
    model.get_submodule(TRAINING_ONLY).update(parts)  # type: ignore[operator]  # a ModuleDict


def attached(model: nn.Module, name: str) -> nn.Module:
    """The part that `attach` gave the model under this name."""
    return model.get_submodule(f"{TRAINING_ONLY}.{name}")


@contextmanager
def detached(model: nn.Module) -> Iterator[None]:
    """A context in which the model is without its attached parts."""
    parts = model._modules.pop(TRAINING_ONLY, None)
    try:
        yield
    finally:
        if parts is not None:
            model._modules[TRAINING_ONLY] = parts


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
    deployed: ClassVar[str] = MAIN

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches with these hyper-parameters; a class attribute where they do not depend on them."""
        return (MAIN,)

    @property
    def replays(self) -> int:
        """How many optimizer steps in a row are given the same batch; epochs see that many times fewer images."""
        return 1

    @property
    def epochs_factor(self) -> float:
        """What the epochs of the training are multiplied by, so that a costlier method has the budget of another.

        The schedule, warm-up included, shrinks with them.
        """
        return 1.0

    @property
    def pairing(self) -> Pairing | None:
        """What `Batch.partner` is to be; None for nothing."""
        return None

    def teacher(self) -> Method | None:
        """The method whose network this one learns from: a run of its own, same architecture, data and seed."""
        return None

    def wrap(self, model: nn.Module, setting: Setting) -> nn.Module:
        """The model with what training needs besides: branches, and other parts by `attach`. Changed in place.

        The model is in train mode; what is put into eval mode here, a teacher say, stays in it.
        """
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
        with detached(model):
            return keep_branch(model, branch or self.deployed)

    @abstractmethod
    def passes(self) -> Passes:
        """What a training image costs with these hyper-parameters."""
