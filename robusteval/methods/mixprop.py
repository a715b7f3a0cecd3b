"""MixProp: MixUp images as extra training data, seen through BatchNorm layers of their own."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from robusteval.branches import MAIN
from robusteval.data.augment import mixup
from robusteval.method import Backward, Batch, Card, Method, Passes, Published
from robusteval.methods.advprop import AUX
from robusteval.methods.disentangled import learn, unmixed
from robusteval.options import Positive, options


@options
class MixProp(Method):
    """Clean images through the main branch, their MixUp images through the auxiliary one (Zhang et al., 2022).

    Attributes:
        alpha: the coefficient is drawn from Beta(alpha, alpha), one per batch; EntProp's runs of MixProp have 0.2 on
            ImageNet and 1 elsewhere.
        loss_weighting: ``mean`` of the two losses, which keeps the learning rate's scale, or their ``sum``.
        forward: both halves concatenated in ``one`` pass, or in ``two``; the gradients are the same.
    """

    name: ClassVar[str] = "mixprop"
    branches: ClassVar[tuple[str, ...]] = (MAIN, AUX)
    card: ClassVar[Card] = Card(
        title="MixProp: Towards High-Performance Image Recognition via Dual Batch Normalisation",
        authors="Zhang, Feng, Hu, Shao, Jin",
        venue="BMVC",
        year=2022,
        url="https://proceedings.mlr.press/v244/enomoto24a.html",
        summary="The network learns from the clean batch through the main BatchNorm branch and from the same batch "
        "mixed with itself through the auxiliary one. The main branch is deployed.",
        reference="none published",
        deviations=(
            "Written after EntProp's account of the method (sec. 4.1.2 of what the link leads to), not the paper.",
            "loss_weighting = mean: EntProp scales its baselines to the loss of standard training (sec. 4.1.3).",
            "The same images are in both halves; one mixing coefficient per batch.",
        ),
        published=(
            Published("cifar100", "resnet18", {}, "clean", 0.8086, None, "EntProp (Enomoto, 2024), Table 4"),
            Published("cifar100", "resnet18", {}, "corruption", 0.5397, None, "EntProp (Enomoto, 2024), Table 4"),
            Published("cifar100", "ResNet-50", {}, "clean", 0.8184, None, "EntProp (Enomoto, 2024), Table 2"),
            Published("cifar100", "ResNet-50", {}, "corruption", 0.5555, None, "EntProp (Enomoto, 2024), Table 2"),
        ),
    )

    alpha: Positive = 1.0
    loss_weighting: Literal["mean", "sum"] = "mean"
    forward: Literal["one", "two"] = "one"

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        parts = {MAIN: unmixed(batch.x, batch.y), AUX: mixup(batch.x, batch.y, batch.rng, alpha=self.alpha)}
        return learn(model, parts, backward, loss_weighting=self.loss_weighting, forward=self.forward)

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1, AUX: 1})
