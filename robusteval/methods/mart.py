"""MART: adversarial training that presses hardest on images that are wrong without any attack."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd
from robusteval.awp import AWP_DEVIATION, perturbed_weights
from robusteval.branches import MAIN
from robusteval.losses import accuracy, boosted_cross_entropy, cross_entropy, kl_divergence
from robusteval.method import Backward, Batch, Card, Method, Passes, Published
from robusteval.modes import AttackMode
from robusteval.options import Count, NonNegative, Radius, Step, in_pixel_units, options

_PUBLISHED = (
    ("cifar10", "resnet18", 0.8215, 0.4783),
    ("cifar100", "resnet18", 0.5454, 0.2604),
    ("cifar10", "wrn_34_10", 0.8610, 0.4911),
    ("cifar100", "wrn_34_10", 0.5775, 0.2489),
)
_SOURCE = "AR-AT (Waseda et al., 2024, arXiv:2402.14648), Table 3; its AutoAttack may take 10 steps per attack, not 100"


@options
class Mart(Method):
    """``BCE(p(x_adv), y) + weight * KL(p(x) || p(x_adv)) * (1 - p_y(x))``, batch mean (Wang et al., 2020, ICLR).

    BCE is the cross-entropy plus ``-log(1 - p_k)``, k the likeliest wrong class.

    Attributes:
        weight: the paper's lambda; 5 as in the reference for ResNet-18, which has 6 for wide networks.
        epsilon, step_size, steps: the Linf attack on the cross-entropy.
        start_sd: the attack starts from the image plus Gaussian noise.
        attack_bn: statistics that BatchNorm uses while the example is sought.
        awp: relative size of the adversarial weight perturbation (Wu et al., 2020, arXiv:2004.05884) along the gradient
            of the whole loss; 0 is none.
    """

    name: ClassVar[str] = "mart"
    card: ClassVar[Card] = Card(
        title="Improving Adversarial Robustness Requires Revisiting Misclassified Examples",
        authors="Wang, Zou, Yi, Bailey, Ma, Gu",
        venue="ICLR",
        year=2020,
        url="https://openreview.net/forum?id=rklOg6EFwS",
        summary="A boosted cross-entropy of PGD examples plus the divergence of clean from adversarial predictions, "
        "which counts the more, the less probable the clean image's label is. Gradients flow through every factor.",
        reference="YisenWang/MART; csdongxian/AWP for awp",
        deviations=(
            "Logarithms are taken in log space, exactly; the reference computes log(1.0001 - p_k + 1e-12), "
            "log(p + 1e-12) and 1.0000001 - p_y, which bounds the middle term at 9.2 and stops its gradient where p_k "
            "is almost 1.",
            "epsilon = 8/255 and step 2/255; the reference rounds them to 0.031 (7.9/255) and 0.007 (1.8/255).",
            "The start (noise of sd 0.001, the reference's) is put into the ball and into [0, 1] before the first "
            "gradient; the reference does that after the first step.",
            "awp: its reference code has no MART; here the weights ascend the whole loss, as there for TRADES.",
            AWP_DEVIATION,
        ),
        published=tuple(
            Published(dataset, architecture, {}, metric, value, None, _SOURCE)
            for dataset, architecture, clean, robust in _PUBLISHED
            for metric, value in (("clean", clean), ("autoattack Linf 8/255", robust))
        ),
    )

    weight: NonNegative = 5.0
    epsilon: Radius = 8 / 255
    step_size: Step = 2 / 255
    steps: Count = 10
    start_sd: NonNegative = 0.001
    attack_bn: AttackMode = "eval"
    awp: NonNegative = 0.0

    @model_validator(mode="after")
    def _in_pixel_units(self) -> Mart:
        in_pixel_units("Linf", epsilon=self.epsilon, step_size=self.step_size)
        return self

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        x_adv = pgd(
            model,
            batch.x,
            batch.y,
            epsilon=self.epsilon,
            step=self.step_size,
            steps=self.steps,
            start=self.start_sd * batch.rng.at("start").normal(batch.index, *batch.x.shape[1:]),
            mode=self.attack_bn,
        )
        with perturbed_weights(model, lambda: self._loss(model, batch, x_adv)["loss"], gamma=self.awp):
            logs = self._loss(model, batch, x_adv)
            backward(logs["loss"])
        return {key: value.detach() for key, value in logs.items()}

    def _loss(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> dict[str, Tensor]:
        """The loss, with its graph, and what is logged beside it."""
        logits, logits_adv = model(batch.x), model(x_adv)
        boosted = boosted_cross_entropy(logits_adv, batch.y).mean()
        wrong = -(-cross_entropy(logits, batch.y)).expm1()  # 1 - p_y(x), without cancellation
        divergence = (kl_divergence(logits, logits_adv) * wrong).mean()
        return {
            "loss": boosted + self.weight * divergence,
            "loss_boosted": boosted,
            "divergence": divergence,
            "accuracy": accuracy(logits, batch.y),
            "accuracy_adversarial": accuracy(logits_adv, batch.y),
        }

    def passes(self) -> Passes:
        return Passes(train={MAIN: 4 if self.awp else 2}, attack={MAIN: self.steps})
