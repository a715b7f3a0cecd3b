"""MixUp: training on convex combinations of images and of their labels."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from robusteval.branches import MAIN
from robusteval.data.augment import mixup
from robusteval.losses import accuracy, mixed_cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes
from robusteval.options import Positive, options


@options
class MixUp(Method):
    """Cross-entropy on mixed images with mixed labels (Zhang et al., 2018, arXiv:1710.09412).

    Attributes:
        alpha: the coefficient is drawn from Beta(alpha, alpha), one per batch; 1 is the paper's value for CIFAR.
    """

    name: ClassVar[str] = "mixup"
    card: ClassVar[Card] = Card(
        title="mixup: Beyond Empirical Risk Minimization",
        authors="Zhang, Cisse, Dauphin, Lopez-Paz",
        venue="ICLR",
        year=2018,
        url="https://arxiv.org/abs/1710.09412",
        summary="Each image is mixed with another one of the batch, and the loss mixes the losses of both labels.",
        reference="facebookresearch/mixup-cifar10",
        deviations=(
            "The logged accuracy is that of the label with the larger share; the reference code logs a mixed one.",
        ),
    )

    alpha: Positive = 1.0

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        mixed = mixup(batch.x, batch.y, batch.rng, alpha=self.alpha)
        logits = model(mixed.x)
        loss = mixed_cross_entropy(logits, mixed.y_a, mixed.y_b, mixed.lam).mean()
        backward(loss)
        heavier = mixed.y_a.where(mixed.lam >= 0.5, mixed.y_b)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, heavier)}

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1})
