"""The options of training. Apart from the loop, so that a suite can be read without importing torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from robusteval.options import Count, NonNegative, Positive, Whole, options

Momentum = Annotated[float, Field(gt=0, le=1)]


_MOMENTA = "a number above 0, up to 1, or a table of them by branch: {main = 0.1, aux = 0.01}"


def _momentum(value: object) -> object:
    """A number, or a table as the sorted pairs that a frozen, comparable options object can hold."""
    pairs = value if isinstance(value, dict) else dict(value) if isinstance(value, tuple) else {"": value}
    numbers = {
        name: float(one)
        for name, one in pairs.items()
        if isinstance(one, float | int) and not isinstance(one, bool) and 0 < one <= 1
    }
    if not numbers or len(numbers) < len(pairs):
        raise ValueError(f"should be {_MOMENTA}")
    return numbers[""] if "" in numbers else tuple(sorted(numbers.items()))


BranchMomentum = Annotated[
    float | tuple[tuple[str, float], ...], PlainValidator(_momentum), Field(description=_MOMENTA)
]
"""One number for all branches, or pairs of branch and number (from a table)."""


@options
class Training:
    """How a network is trained; the same for every method of a suite unless a method says otherwise.

    The defaults are the recipe of the CIFAR experiments in (Enomoto, 2024, EntProp, section 4.1.3): 200 epochs
    of SGD with momentum 0.9, batch 128, learning rate 0.1 falling with a cosine, weight decay 5e-4.

    Attributes:
        epochs: passes over the training images.
        batch_size: images an optimiser step sees.
        optimizer: ``sgd`` (momentum, nesterov) or ``adamw``.
        lr: the highest learning rate.
        momentum, nesterov: of SGD.
        weight_decay: L2 penalty (SGD) or decoupled decay (AdamW).
        decay_norm_and_bias: False keeps the decay off BatchNorm parameters and biases.
        schedule: ``cosine`` to 0, ``step`` by gamma at each milestone, ``onecycle`` (up, then down) or ``constant``.
        milestones: where ``step`` steps, as fractions of the training.
        gamma: the factor of a step.
        warmup_epochs: epochs over which the learning rate first rises linearly from 0.
        warmup_lr: the learning rate of all those epochs instead; 0 = the rise.
        crop_padding: pixels of padding before the random crop; 0 = no crop.
        flip: random horizontal flips.
        cutout: side of the square that is cut out in pixels; 0 = none.
        precision: ``bfloat16`` autocast, ``float32``, or ``auto``: bfloat16 where the device computes in it.
        channels_last: memory layout of images and convolutions; faster, results differ in rounding.
        accumulate: parts in which a batch is passed through the network (less memory; BatchNorm sees the parts).
        ema: decay of an exponential moving average of the weights per step; 0 = none.
        swa_start: fraction of the training from which on the weights are averaged; 0 = not at all.
        swa_every_steps: steps between two weights that enter that average.
        bn_momentum: share of the batch in BatchNorm's running statistics (torch's convention: 1 - the decay of other
            frameworks); one number, or a table by branch, e.g. ``{main = 0.1, aux = 0.01}``.
        precise_bn: at the end, statistics are re-estimated as plain means over batches (Wu and Johnson, 2021,
            arXiv:2105.07576), also for weights that are not averaged (averaged ones always need it).
        bn_reestimate_batches: batches from which averaged weights, or ``precise_bn``, get their statistics.
        snapshots: at so many epochs, evenly spaced in the logarithm from the first on, the weights are kept and
            judged, for curves of every metric against cost; 0 = none but the last.
        shadow_momenta: momenta whose running statistics are kept besides, for the task ``bn_bank``.
        grad_clip: largest L2 norm of the gradient; 0 = no limit.
        checkpoint_seconds: time between checkpoints; without influence on the result.
    """

    epochs: Count = 200
    batch_size: Count = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["cosine", "step", "onecycle", "constant"] = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: NonNegative = 0.0
    warmup_lr: NonNegative = 0.0
    crop_padding: Annotated[int, Field(ge=0, le=16)] = 4
    flip: bool = True
    cutout: Annotated[int, Field(ge=0, le=32)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    accumulate: Count = 1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    swa_start: Annotated[float, Field(ge=0, lt=1)] = 0.0
    swa_every_steps: Count = 1
    bn_momentum: BranchMomentum = 0.1
    precise_bn: bool = False
    bn_reestimate_batches: Count = 100
    snapshots: Whole = 0
    shadow_momenta: tuple[Momentum, ...] = ()
    grad_clip: NonNegative = 0.0
    checkpoint_seconds: Positive = 60.0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """What no single field can say."""
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise (given: {list(self.milestones)})")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate must not exceed batch_size ({self.accumulate} > {self.batch_size})")
        if self.ema and self.swa_start:
            raise ValueError("ema and swa_start both average the weights; give one of them")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError('nesterov needs optimizer = "sgd" and a momentum above 0')
        if len(set(self.shadow_momenta)) < len(self.shadow_momenta):
            raise ValueError(f"shadow_momenta must differ (given: {list(self.shadow_momenta)})")
        if self.warmup_lr and not self.warmup_epochs:
            raise ValueError("warmup_lr needs warmup_epochs above 0")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs must not exceed epochs ({self.warmup_epochs} > {self.epochs})")
        return self

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """The epochs whose weights are kept: ``snapshots`` of them, log-spaced from 1, without the last one.

        >>> Training(epochs=100, snapshots=4).snapshot_epochs
        (1, 3, 10, 32)
        """
        spaced = (round(self.epochs ** (i / self.snapshots)) for i in range(self.snapshots))
        return tuple(sorted({epoch for epoch in spaced if epoch < self.epochs}))
