"""Adversarial training with projected gradient descent."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.branches import MAIN
from robusteval.losses import accuracy, cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes
from robusteval.modes import AttackMode
from robusteval.options import Count, Norm, Radius, Step, in_pixel_units, options


@options
class PgdAT(Method):
    """Cross-entropy on PGD examples only (Madry et al., 2018, arXiv:1706.06083, sec. 2 and 5).

    Attributes:
        epsilon, step_size, steps, norm: the inner attack; the defaults are the paper's for CIFAR-10 (Linf).
        random_start: start uniformly in the ball, as in the paper.
        attack_bn: statistics that BatchNorm uses while the example is sought.
    """

    name: ClassVar[str] = "pgd_at"
    card: ClassVar[Card] = Card(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        authors="Madry, Makelov, Schmidt, Tsipras, Vladu",
        venue="ICLR",
        year=2018,
        url="https://arxiv.org/abs/1706.06083",
        summary="Every image is replaced by a PGD example, made against the current weights; the loss is its "
        "cross-entropy.",
        reference="MadryLab/cifar10_challenge",
        deviations=(
            "The attack runs with running statistics (attack_bn = eval), after Pang et al. (2021, arXiv:2010.00467); "
            "the reference code attacks in train mode. attack_bn = train-frozen-stats uses batch statistics.",
        ),
    )

    epsilon: Radius = 8 / 255
    step_size: Step = 2 / 255
    steps: Count = 7
    norm: Norm = "Linf"
    random_start: bool = True
    attack_bn: AttackMode = "eval"

    @model_validator(mode="after")
    def _in_pixel_units(self) -> PgdAT:
        in_pixel_units(self.norm, epsilon=self.epsilon, step_size=self.step_size)
        return self

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        start = None
        if self.random_start:
            start = random_start(
                batch.x, epsilon=self.epsilon, norm=self.norm, rng=batch.rng.at("start"), index=batch.index
            )
        x_adv = pgd(
            model,
            batch.x,
            batch.y,
            epsilon=self.epsilon,
            step=self.step_size,
            steps=self.steps,
            norm=self.norm,
            start=start,
            mode=self.attack_bn,
        )
        logits = model(x_adv)
        loss = cross_entropy(logits, batch.y).mean()
        backward(loss)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, batch.y)}

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1}, attack={MAIN: self.steps})
