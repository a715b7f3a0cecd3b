"""NoFrost: adversarial training without batch normalisation."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.branches import MAIN
from robusteval.losses import accuracy, smoothed_cross_entropy
from robusteval.method import Backward, Batch, Card, Passes, Published
from robusteval.methods.bn_free import BnFree
from robusteval.options import Count, Norm, Probability, Radius, Step, in_pixel_units, options

CODE = "amazon-science/normalizer-free-robust-training"


@options
class NoFrost(BnFree):
    """Cross-entropy on clean images and on their PGD examples, in a network without BatchNorm (Wang et al., 2022).

    Attributes:
        weight: share lambda of the adversarial loss; 1 - lambda is that of the clean one.
        epsilon, step_size, steps, norm: the inner attack; the defaults are those of the published training command.
        random_start: start uniformly in the ball.
        label_smoothing: share of the target that is spread over all classes, in both losses; not in the attack's.
        zero_init: start every residual block as its shortcut; without, clip the gradients (``training.grad_clip``).
    """

    name: ClassVar[str] = "nofrost"
    card: ClassVar[Card] = Card(
        title="Removing Batch Normalization Boosts Adversarial Training",
        authors="Wang, Zhang, Zheng, Shi, Li, Wang",
        venue="ICML",
        year=2022,
        url="https://arxiv.org/abs/2207.01156",
        summary="A network without normalisation learns from clean images and their PGD examples with equal weight: "
        "what BatchNorm cannot do well, as the two have different statistics.",
        reference=CODE,
        deviations=(
            "Our architectures with their BatchNorm layers reduced to scale and shift and residual blocks that start "
            "at zero; the paper trains a normalizer-free network (Brock et al., 2021; timm's nf_resnet50) with scaled "
            "weight standardisation, dropout 0.25 and stochastic depth 0.1.",
            "PGD-10 with eps = 8/255, alpha = 1/255 (the code's rule min(1.25 eps, eps + 4) / steps), lambda = 0.5 and "
            "label smoothing 0.1 are those of the published command; the code's own default is 7 steps.",
            "The optimizer is the suite's; the reference trains ImageNet for 90 epochs of SGD with nesterov momentum, "
            "weight decay 5e-5 and a cosine from 0.1.",
            "PGD accuracy is 23.56 % in the abstract, which names no radius, and 22.45 % in the code's README, whose "
            "command is PGD-20 with 8/255; the row beside ours is the latter.",
        ),
        published=(
            Published("imagenet", "nf_resnet50", {}, "clean", 0.7406, None, "abstract"),
            Published("imagenet", "nf_resnet50", {}, "pgd Linf 8/255", 0.2245, None, f"README of {CODE}"),
        ),
    )

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    epsilon: Radius = 8 / 255
    step_size: Step = 1 / 255
    steps: Count = 10
    norm: Norm = "Linf"
    random_start: bool = True
    label_smoothing: Probability = 0.1

    @model_validator(mode="after")
    def _in_pixel_units(self) -> NoFrost:
        in_pixel_units(self.norm, epsilon=self.epsilon, step_size=self.step_size)
        return self

    def attack(self, model: nn.Module, batch: Batch) -> Tensor:
        """The adversarial twins (B, 3, H, W) of the batch."""
        start = None
        if self.random_start:
            rng = batch.rng.at("start")
            start = random_start(batch.x, epsilon=self.epsilon, norm=self.norm, rng=rng, index=batch.index)
        return pgd(
            model,
            batch.x,
            batch.y,
            epsilon=self.epsilon,
            step=self.step_size,
            steps=self.steps,
            norm=self.norm,
            start=start,
        )

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        # One pass for both: without BatchNorm no image knows which others are in its batch.
        logits, logits_adv = model(torch.cat([batch.x, self.attack(model, batch)])).chunk(2)
        clean = smoothed_cross_entropy(logits, batch.y, smoothing=self.label_smoothing).mean()
        adversarial = smoothed_cross_entropy(logits_adv, batch.y, smoothing=self.label_smoothing).mean()
        loss = (1 - self.weight) * clean + self.weight * adversarial
        backward(loss)
        return {
            "loss": loss.detach(),
            "loss_adversarial": adversarial.detach(),
            "accuracy": accuracy(logits, batch.y),
            "accuracy_adversarial": accuracy(logits_adv, batch.y),
        }

    def passes(self) -> Passes:
        return Passes(train={MAIN: 2}, attack={MAIN: self.steps})
