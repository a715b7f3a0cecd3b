"""Fast adversarial training: one step from a random start."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.awp import AWP_DEVIATION, perturbed_weights
from robusteval.branches import MAIN
from robusteval.losses import accuracy, cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes
from robusteval.modes import AttackMode
from robusteval.options import NonNegative, Radius, Step, in_pixel_units, options


@options
class FastAT(Method):
    """Cross-entropy on FGSM examples from a random start, FGSM-RS (Wong et al., 2020, arXiv:2001.03994, Algorithm 3).

    Attributes:
        epsilon: the Linf radius.
        step_size: alpha, 1.25 times the radius in the paper.
        random_start: start uniformly in the ball; without it, plain FGSM training, which the paper shows to fail.
        attack_bn: statistics that BatchNorm uses while the example is sought.
        awp: relative size of the adversarial weight perturbation (Wu et al., 2020, arXiv:2004.05884); 0 is none.
    """

    name: ClassVar[str] = "fast_at"
    card: ClassVar[Card] = Card(
        title="Fast is better than free: Revisiting adversarial training",
        authors="Wong, Rice, Kolter",
        venue="ICLR",
        year=2020,
        url="https://arxiv.org/abs/2001.03994",
        summary="Every image is replaced by a random point of its ball moved by one sign step of 1.25 epsilon and "
        "projected; the loss is its cross-entropy. Watch for catastrophic overfitting: within an epoch the logged "
        "accuracy, which is that on one-step examples, jumps above the clean one, while accuracy under PGD with many "
        "steps falls to almost 0. It comes with long schedules, larger radii and larger steps.",
        reference="locuslab/fast_adversarial (CIFAR10/train_fgsm.py); csdongxian/AWP for awp",
        deviations=(
            "The attack uses batch statistics, as the reference does, but leaves the running ones alone (attack_bn = "
            "train-frozen-stats); there the noisy batch moves them too, as attack_bn = train has it.",
            "No early stopping on a PGD check, which the reference has as an option; no cyclic schedule of its own.",
            "Pixels are in [0, 1] and normalisation is the network's; the reference perturbs normalised images, with "
            "the radius scaled by channel, and starts up to the first channel's radius above the image in all three.",
            "awp: that paper does not combine it with one-step training.",
            AWP_DEVIATION,
        ),
    )

    epsilon: Radius = 8 / 255
    step_size: Step = 10 / 255
    random_start: bool = True
    attack_bn: AttackMode = "train-frozen-stats"
    awp: NonNegative = 0.0

    @model_validator(mode="after")
    def _in_pixel_units(self) -> FastAT:
        in_pixel_units("Linf", epsilon=self.epsilon, step_size=self.step_size)
        return self

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        start = None
        if self.random_start:
            start = random_start(
                batch.x, epsilon=self.epsilon, norm="Linf", rng=batch.rng.at("start"), index=batch.index
            )
        x_adv = pgd(
            model,
            batch.x,
            batch.y,
            epsilon=self.epsilon,
            step=self.step_size,
            steps=1,
            start=start,
            mode=self.attack_bn,
        )
        with perturbed_weights(model, lambda: cross_entropy(model(x_adv), batch.y).mean(), gamma=self.awp):
            logits = model(x_adv)
            loss = cross_entropy(logits, batch.y).mean()
            backward(loss)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, batch.y)}

    def passes(self) -> Passes:
        return Passes(train={MAIN: 2 if self.awp else 1}, attack={MAIN: 1})
