"""Adversarial training with projected gradient descent."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.awp import AWP_DEVIATION, perturbed_weights
from robusteval.branches import MAIN
from robusteval.losses import accuracy, cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes, Published
from robusteval.modes import AttackMode
from robusteval.options import Count, NonNegative, Norm, Radius, Step, in_pixel_units, options

_PUBLISHED = (
    ("cifar10", "resnet18", 0.8377, 0.4242),
    ("cifar100", "resnet18", 0.5582, 0.1950),
    ("cifar10", "wrn_34_10", 0.8606, 0.4626),
    ("cifar100", "wrn_34_10", 0.5983, 0.2394),
)
_SOURCE = "AR-AT (Waseda et al., 2024, arXiv:2402.14648), Table 3; its AutoAttack may take 10 steps per attack, not 100"


@options
class PgdAT(Method):
    """Cross-entropy on PGD examples only (Madry et al., 2018, arXiv:1706.06083, sec. 2 and 5).

    Attributes:
        epsilon, step_size, steps, norm: the inner attack; the defaults are the paper's for CIFAR-10 (Linf).
        random_start: start uniformly in the ball, as in the paper.
        attack_bn: statistics that BatchNorm uses while the example is sought.
        awp: relative size of the adversarial weight perturbation (Wu et al., 2020, arXiv:2004.05884); 0 is none, 0.01
            that paper's value here.
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
        reference="MadryLab/cifar10_challenge; csdongxian/AWP for awp",
        deviations=(
            "The attack runs with running statistics (attack_bn = eval), after Pang et al. (2021, arXiv:2010.00467); "
            "the reference code attacks in train mode. attack_bn = train-frozen-stats uses batch statistics.",
            AWP_DEVIATION,
        ),
        published=tuple(
            Published(dataset, architecture, {"steps": 10}, metric, value, None, _SOURCE)
            for dataset, architecture, clean, robust in _PUBLISHED
            for metric, value in (("clean", clean), ("autoattack Linf 8/255", robust))
        ),
    )

    epsilon: Radius = 8 / 255
    step_size: Step = 2 / 255
    steps: Count = 7
    norm: Norm = "Linf"
    random_start: bool = True
    attack_bn: AttackMode = "eval"
    awp: NonNegative = 0.0

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
        with perturbed_weights(model, lambda: cross_entropy(model(x_adv), batch.y).mean(), gamma=self.awp):
            logits = model(x_adv)
            loss = cross_entropy(logits, batch.y).mean()
            backward(loss)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, batch.y)}

    def passes(self) -> Passes:
        return Passes(train={MAIN: 2 if self.awp else 1}, attack={MAIN: self.steps})
