"""TRADES: accuracy on clean images, and predictions that do not change within the ball."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import divergence_from, pgd
from robusteval.awp import AWP_DEVIATION, perturbed_weights
from robusteval.branches import MAIN
from robusteval.cost import timed
from robusteval.losses import accuracy, cross_entropy, kl_divergence
from robusteval.method import Backward, Batch, Card, Method, Passes, Published
from robusteval.modes import AttackMode, attack_mode, without_graph
from robusteval.options import Count, NonNegative, Norm, Radius, Step, in_pixel_units, options

_PUBLISHED = (
    ("cifar10", "resnet18", 0.8125, 0.4854),
    ("cifar100", "resnet18", 0.5474, 0.2360),
    ("cifar10", "wrn_34_10", 0.8433, 0.5175),
    ("cifar100", "wrn_34_10", 0.5761, 0.2688),
)
_SOURCE = "AR-AT (Waseda et al., 2024, arXiv:2402.14648), Table 3; its AutoAttack may take 10 steps per attack, not 100"


@options
class Trades(Method):
    """``CE(f(x), y) + beta * KL(p(x) || p(x_adv))``, batch mean (Zhang et al., 2019, arXiv:1901.08573, sec. 3).

    Attributes:
        beta: weight of the divergence, the paper's 1/lambda.
        epsilon, step_size, steps, norm: the attack, which drives the divergence up.
        start_sd: the attack starts from the image plus Gaussian noise; at the image itself the gradient is zero.
        attack_bn: statistics that BatchNorm uses in the attack's passes and for the clean prediction it departs from.
        awp: relative size of the adversarial weight perturbation (Wu et al., 2020, arXiv:2004.05884) along the gradient
            of the whole loss; 0 is none, 0.005 that paper's value here.
    """

    name: ClassVar[str] = "trades"
    card: ClassVar[Card] = Card(
        title="Theoretically Principled Trade-off between Robustness and Accuracy",
        authors="Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan",
        venue="ICML",
        year=2019,
        url="https://arxiv.org/abs/1901.08573",
        summary="Cross-entropy of the clean batch plus beta times the divergence of its predictions from those on "
        "examples found by ascending that divergence; gradients flow through both predictions.",
        reference="yaodongyu/TRADES; csdongxian/AWP for awp",
        deviations=(
            "beta = 6, the reference's default; the paper writes the trade-off as 1/lambda.",
            "epsilon = 8/255 and step 2/255; the reference rounds them to 0.031 (7.9/255) and 0.007 (1.8/255).",
            "One clean and one adversarial training pass, in this order; the reference passes the clean batch twice, "
            "with the same prediction, and so moves BatchNorm's running statistics three times a step, not twice.",
            "The attack's clean prediction is computed once; the reference computes the same one in every step.",
            "The start (noise of sd 0.001) is put into the ball and into [0, 1] before the first gradient; the "
            "reference does that after the first step.",
            AWP_DEVIATION,
        ),
        published=tuple(
            Published(dataset, architecture, {}, metric, value, None, _SOURCE)
            for dataset, architecture, clean, robust in _PUBLISHED
            for metric, value in (("clean", clean), ("autoattack Linf 8/255", robust))
        ),
    )

    beta: NonNegative = 6.0
    epsilon: Radius = 8 / 255
    step_size: Step = 2 / 255
    steps: Count = 10
    norm: Norm = "Linf"
    start_sd: NonNegative = 0.001
    attack_bn: AttackMode = "eval"
    awp: NonNegative = 0.0

    @model_validator(mode="after")
    def _in_pixel_units(self) -> Trades:
        in_pixel_units(self.norm, epsilon=self.epsilon, step_size=self.step_size)
        return self

    def attack(self, model: nn.Module, batch: Batch) -> Tensor:
        """Examples (B, 3, H, W) whose predictions are far from the clean ones."""
        with timed("attack"), attack_mode(model, self.attack_bn), without_graph():
            clean = model(batch.x)
        return pgd(
            model,
            batch.x,
            batch.y,
            epsilon=self.epsilon,
            step=self.step_size,
            steps=self.steps,
            norm=self.norm,
            start=self.start_sd * batch.rng.at("start").normal(batch.index, *batch.x.shape[1:]),
            mode=self.attack_bn,
            loss=divergence_from(clean),
        )

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        x_adv = self.attack(model, batch)
        with perturbed_weights(model, lambda: self._loss(model, batch, x_adv)["loss"], gamma=self.awp):
            logs = self._loss(model, batch, x_adv)
            backward(logs["loss"])
        return {key: value.detach() for key, value in logs.items()}

    def _loss(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> dict[str, Tensor]:
        """The loss, with its graph, and what is logged beside it."""
        logits, logits_adv = model(batch.x), model(x_adv)
        divergence = kl_divergence(logits, logits_adv).mean()
        return {
            "loss": cross_entropy(logits, batch.y).mean() + self.beta * divergence,
            "divergence": divergence,
            "accuracy": accuracy(logits, batch.y),
            "accuracy_adversarial": accuracy(logits_adv, batch.y),
        }

    def passes(self) -> Passes:
        return Passes(train={MAIN: 4 if self.awp else 2}, attack={MAIN: self.steps}, forward={MAIN: 1})
