"""AdvProp: adversarial examples as extra training data, seen through BatchNorm layers of their own."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.branches import MAIN, split_batch, use_branch
from robusteval.losses import accuracy, cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes
from robusteval.modes import AttackMode
from robusteval.options import Count, Radius, Step, in_pixel_units, options

AUX = "aux"


@options
class AdvProp(Method):
    """Clean images through the main branch, their adversarial twins through the auxiliary one (Xie et al., 2020).

    Attributes:
        epsilon, step_size, steps: the Linf attack; eps = 4, n = 5, alpha = 1 (of 255) as in Fast AdvProp's and
            EntProp's accounts of the paper.
        targeted: descend towards a random wrong label, as in the paper; else ascend the loss of the true one.
        random_start: start uniformly in the ball.
        attack_bn: statistics of the auxiliary branch while the example is sought.
        loss_weighting: ``mean`` halves the paper's sum of the two losses, which keeps the learning rate's scale.
        forward: both halves concatenated in ``one`` pass, or in ``two``; the gradients are the same.
    """

    name: ClassVar[str] = "advprop"
    branches: ClassVar[tuple[str, ...]] = (MAIN, AUX)
    card: ClassVar[Card] = Card(
        title="Adversarial Examples Improve Image Recognition",
        authors="Xie, Tan, Gong, Wang, Yuille, Le",
        venue="CVPR",
        year=2020,
        url="https://arxiv.org/abs/1911.09665",
        summary="PGD examples are made through the auxiliary BatchNorm branch in eval mode; the network learns from "
        "the clean batch through the main branch and from the examples through the auxiliary one. The main branch is "
        "deployed.",
        reference="tingxueronghua/pytorch-classification-advprop (no training code was published by the authors)",
        deviations=(
            "loss_weighting = mean: the paper adds the two losses, both public re-implementations average them.",
            "The random target is never the true label, as the paper says; the re-implementation may draw it.",
            "Every start is random; the re-implementation starts 58 % of its batches from the clean image.",
            "No fine-grained variant with an auxiliary branch per data source.",
        ),
    )

    epsilon: Radius = 4 / 255
    step_size: Step = 1 / 255
    steps: Count = 5
    targeted: bool = True
    random_start: bool = True
    attack_bn: AttackMode = "eval"
    loss_weighting: Literal["mean", "sum"] = "mean"
    forward: Literal["one", "two"] = "one"

    @model_validator(mode="after")
    def _in_pixel_units(self) -> AdvProp:
        in_pixel_units("Linf", epsilon=self.epsilon, step_size=self.step_size)
        return self

    def attack(self, model: nn.Module, batch: Batch) -> Tensor:
        """The adversarial twins (B, 3, H, W) of the batch, made through the auxiliary branch."""
        start = None
        if self.random_start:
            start = random_start(
                batch.x, epsilon=self.epsilon, norm="Linf", rng=batch.rng.at("start"), index=batch.index
            )
        labels = batch.y
        if self.targeted:
            offset = 1 + batch.rng.at("target").integers(batch.index, batch.classes - 1)
            labels = (batch.y + offset) % batch.classes
        with use_branch(model, AUX):
            return pgd(
                model,
                batch.x,
                labels,
                epsilon=self.epsilon,
                step=self.step_size,
                steps=self.steps,
                start=start,
                targeted=self.targeted,
                mode=self.attack_bn,
            )

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        x_adv = self.attack(model, batch)
        scale = 0.5 if self.loss_weighting == "mean" else 1.0
        if self.forward == "one":
            with split_batch(model, {MAIN: len(batch.x), AUX: len(batch.x)}):
                logits, logits_adv = model(torch.cat([batch.x, x_adv])).chunk(2)
                clean, adversarial = cross_entropy(logits, batch.y).mean(), cross_entropy(logits_adv, batch.y).mean()
                backward(scale * (clean + adversarial))
        else:
            with use_branch(model, MAIN):
                logits = model(batch.x)
                clean = cross_entropy(logits, batch.y).mean()
                backward(scale * clean)
            with use_branch(model, AUX):
                logits_adv = model(x_adv)
                adversarial = cross_entropy(logits_adv, batch.y).mean()
                backward(scale * adversarial)
        return {
            "loss": scale * (clean.detach() + adversarial.detach()),
            "loss_aux": adversarial.detach(),
            "accuracy": accuracy(logits, batch.y),
            "accuracy_aux": accuracy(logits_adv, batch.y),
        }

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1, AUX: 1}, attack={AUX: self.steps})
