"""Gaussian noise: training on a batch of which a part is noisy."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.branches import MAIN, split_batch
from robusteval.errors import UserError
from robusteval.losses import accuracy, cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes, Published
from robusteval.options import Positive, Probability, in_pixel_units, options

AUX = "aux"


@options
class GaussianNoise(Method):
    """Cross-entropy on clean images and on noisy ones (Rusak et al., 2020, arXiv:2001.06057).

    Attributes:
        sigma: standard deviation of the noise, on the scale of 0 to 1 of the pixels.
        share: part of the batch that is noisy.
        split_bn: ``aux``: the noisy images through an auxiliary branch, the clean ones through the main one;
            ``none``: all through the same BatchNorm.
    """

    name: ClassVar[str] = "gaussian_noise"
    card: ClassVar[Card] = Card(
        title="A Simple Way to Make Neural Networks Robust Against Diverse Image Corruptions",
        authors="Rusak, Schott, Zimmermann, Bitterwolf, Bringmann, Bethge, Brendel",
        venue="ECCV",
        year=2020,
        url="https://arxiv.org/abs/2001.06057",
        summary="Half of every batch gets Gaussian noise of one standard deviation, clipped to the pixels' range. With "
        "split_bn, that half goes through an auxiliary BatchNorm branch, and the main one is deployed.",
        reference="bethgelab/game-of-noise (weights and evaluation only: Gauss_sigma_0.5)",
        deviations=(
            "sigma = 0.1 is Kireev et al.'s (2022, arXiv:2103.02325) on CIFAR-10; the paper has 0.5, on ImageNet.",
            "Networks are trained from scratch; the paper starts from a trained one.",
            "split_bn is no part of the paper; each branch then sees its part of the batch only, at the same cost.",
        ),
        published=(
            Published(
                "cifar10",
                "preact_resnet18",
                {},
                "corruption",
                0.850,
                None,
                "Kireev et al. (2022), their published runs",
            ),
        ),
    )

    sigma: Positive = 0.1
    share: Probability = 0.5
    split_bn: Literal["none", "aux"] = "none"

    @model_validator(mode="after")
    def _possible(self) -> GaussianNoise:
        in_pixel_units("Linf", sigma=self.sigma)
        if self.split_bn == "aux" and not 0 < self.share < 1:
            raise ValueError("share: with split_bn both branches need images; allowed: above 0 and below 1")
        return self

    @property
    def branches(self) -> tuple[str, ...]:
        return (MAIN,) if self.split_bn == "none" else (MAIN, AUX)

    def clean(self, batch_size: int) -> int:
        """How many images stay clean, the first ones: batches are shuffled."""
        return batch_size - round(self.share * batch_size)

    def noisy(self, batch: Batch) -> Tensor:
        """The batch, its last part with noise; float32 (B, 3, H, W)."""
        kept = self.clean(len(batch.x))
        noise = batch.rng.at("noise").normal(batch.index[kept:], *batch.x.shape[1:])
        return torch.cat([batch.x[:kept], (batch.x[kept:] + self.sigma * noise).clamp(0, 1)])

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        kept, n = self.clean(len(batch.x)), len(batch.x)
        if self.split_bn == "aux" and not 0 < kept < n:
            raise UserError(
                f"gaussian_noise: share = {self.share} makes {n - kept} of a batch of {n} noisy, but with split_bn "
                "both branches need images; allowed: another share or a larger batch"
            )
        with split_batch(model, {MAIN: n} if self.split_bn == "none" else {MAIN: kept, AUX: n - kept}):
            logits = model(self.noisy(batch))
            loss = cross_entropy(logits, batch.y).mean()
            backward(loss)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, batch.y)}

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1} if self.split_bn == "none" else {MAIN: 1 - self.share, AUX: self.share})
