"""CutMix: training on images with a box from another image, and on both labels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from robusteval.branches import MAIN
from robusteval.data.augment import Mixed, cutmix
from robusteval.losses import accuracy, mixed_cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes
from robusteval.options import Positive, Probability, options


@options
class CutMix(Method):
    """Cross-entropy on images with pasted boxes, with labels mixed by area (Yun et al., 2019, arXiv:1905.04899).

    Attributes:
        alpha: the box leaves a share of the image that is drawn from Beta(alpha, alpha), one per batch.
        probability: of mixing a batch at all; 0.5 is the authors' value for CIFAR, 1 for ImageNet.
    """

    name: ClassVar[str] = "cutmix"
    card: ClassVar[Card] = Card(
        title="CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
        authors="Yun, Han, Oh, Chun, Choe, Yoo",
        venue="ICCV",
        year=2019,
        url="https://arxiv.org/abs/1905.04899",
        summary="With probability 0.5, a box of every image of the batch is replaced by that of another one, and the "
        "loss mixes the losses of both labels by area.",
        reference="clovaai/CutMix-PyTorch (train.py)",
        deviations=(
            "Box, share and decision are drawn once a batch as in the reference; the paper's text draws them for each "
            "pair of images.",
            "The labels' weight is the area that is left after the box was clipped at the border, as in the reference.",
            "The logged accuracy is that of the label with the larger share; the reference logs the first one's.",
        ),
    )

    alpha: Positive = 1.0
    probability: Probability = 0.5

    def mixed(self, batch: Batch) -> Mixed:
        """What the network sees: the batch with boxes, or as it is."""
        # Drawn on the CPU: the answer decides what is computed, and a GPU would have to be waited for.
        drawn = batch.rng.at("mix").uniform(torch.zeros(1, dtype=torch.int64), 1)
        if float(drawn) < self.probability:
            return cutmix(batch.x, batch.y, batch.rng, alpha=self.alpha)
        return Mixed(batch.x, batch.y, batch.y, torch.ones(len(batch.x), device=batch.x.device))

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        mixed = self.mixed(batch)
        logits = model(mixed.x)
        loss = mixed_cross_entropy(logits, mixed.y_a, mixed.y_b, mixed.lam).mean()
        backward(loss)
        heavier = mixed.y_a.where(mixed.lam >= 0.5, mixed.y_b)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, heavier)}

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1})
