"""RandAugment: a few random operations of one common strength on every image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from robusteval.branches import MAIN, split_batch
from robusteval.data import ops
from robusteval.data.augment import as_float
from robusteval.losses import accuracy, cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes
from robusteval.options import Count, options

AUX = "aux"
OPERATIONS = tuple(ops.OPERATIONS)
"""The paper's fourteen."""
HIGHEST = 30


class Strength(NamedTuple):
    """What an operation is given: ``base``, plus or minus ``swing`` with equal chances."""

    base: float
    swing: float


def strength(name: str, magnitude: int, height: int, width: int) -> Strength:
    """What an operation is given at a magnitude from 0 to 30, on images of a size.

    >>> strength("rotate", 9, 32, 32), strength("posterize", 9, 32, 32)
    (Strength(base=0.0, swing=9.0), Strength(base=7.0, swing=0.0))
    """
    share = magnitude / HIGHEST
    if name in ("color", "contrast", "brightness", "sharpness"):
        return Strength(1, 0.9 * share)
    swing = {
        "rotate": 30 * share,
        "shear_x": 0.3 * share,
        "shear_y": 0.3 * share,
        "translate_x": float(int(150 / 331 * width * share)),
        "translate_y": float(int(150 / 331 * height * share)),
    }
    base = {"posterize": float(round(8 - 4 * share)), "solarize": 255 * (1 - share)}
    return Strength(base.get(name, 0.0), swing.get(name, 0.0))


@options
class RandAugment(Method):
    """Cross-entropy on images after a few random operations (Cubuk et al., 2020, arXiv:1909.13719).

    Attributes:
        num_ops: operations in a row on each image, N in the paper.
        magnitude: their strength M, 0 to 30; the paper searches N and M for every data set and network, and 2 and 9
            are its values for ResNet-50 on ImageNet.
        split_bn: ``aux``: plain images through the main branch and augmented ones through an auxiliary one, the mean
            of both losses; ``none``: augmented images only.
    """

    name: ClassVar[str] = "randaugment"
    card: ClassVar[Card] = Card(
        title="RandAugment: Practical automated data augmentation with a reduced search space",
        authors="Cubuk, Zoph, Shlens, Le",
        venue="NeurIPS",
        year=2020,
        url="https://arxiv.org/abs/1909.13719",
        summary="Every image goes through two of fourteen operations, drawn uniformly, at one common magnitude. With "
        "split_bn, the plain images too are learnt from, through the main branch, and the augmented ones through an "
        "auxiliary one; the main one is deployed.",
        reference="torchvision.transforms.v2.RandAugment (the authors' TensorFlow code has other operations than the "
        "paper)",
        deviations=(
            "Operations are the paper's fourteen with torchvision's ranges; the authors' code leaves out identity, "
            "adds invert, cutout and solarize_add, and posterizes and solarizes less with rising magnitude.",
            "Rotation and shear are bilinear and fill with black; torchvision takes the nearest pixel, the authors' "
            "code fills with grey.",
            "Operations follow crop and flip; the paper does not say, many re-implementations put them first.",
            "split_bn is no part of the paper: the branches are AdvProp's, with augmented images for adversarial ones.",
        ),
    )

    num_ops: Count = 2
    magnitude: Annotated[int, Field(ge=0, le=HIGHEST)] = 9
    split_bn: Literal["none", "aux"] = "none"

    @property
    def branches(self) -> tuple[str, ...]:
        return (MAIN,) if self.split_bn == "none" else (MAIN, AUX)

    def augmented(self, batch: Batch) -> Tensor:
        """The images after the operations, float32 (B, 3, H, W)."""
        index, rng = batch.index, batch.rng.at("randaugment")
        which = rng.at("operation").integers(index, len(OPERATIONS), self.num_ops)
        sign = 1 - 2 * rng.at("sign").integers(index, 2, self.num_ops).double()
        images = ops.as_levels(batch.x)
        for step in range(self.num_ops):
            chosen = which[:, step]
            given = torch.zeros(len(index), dtype=torch.float64, device=index.device)
            for number, name in enumerate(OPERATIONS):
                base, swing = strength(name, self.magnitude, *images.shape[2:])
                given = torch.where(chosen == number, base + swing * sign[:, step], given)
            images = ops.apply(images, OPERATIONS, chosen, given)
        return as_float(images)

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        augmented, n = self.augmented(batch), len(batch.x)
        if self.split_bn == "none":
            logits = model(augmented)
            loss = cross_entropy(logits, batch.y).mean()
            backward(loss)
            return {"loss": loss.detach(), "accuracy": accuracy(logits, batch.y)}
        with split_batch(model, {MAIN: n, AUX: n}):
            logits, logits_aux = model(torch.cat([batch.x, augmented])).chunk(2)
            plain, further = cross_entropy(logits, batch.y).mean(), cross_entropy(logits_aux, batch.y).mean()
            loss = (plain + further) / 2
            backward(loss)
        return {
            "loss": loss.detach(),
            "loss_aux": further.detach(),
            "accuracy": accuracy(logits, batch.y),
            "accuracy_aux": accuracy(logits_aux, batch.y),
        }

    def passes(self) -> Passes:
        return Passes(train=dict.fromkeys(self.branches, 1.0))
