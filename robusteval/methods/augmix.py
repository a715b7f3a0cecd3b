"""AugMix: images mixed with chains of random operations, and predictions that agree on them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robusteval.branches import MAIN, split_batch
from robusteval.data import ops
from robusteval.data.augment import as_float
from robusteval.losses import accuracy, cross_entropy, jensen_shannon
from robusteval.method import Backward, Batch, Card, Method, Passes, Published
from robusteval.options import Count, NonNegative, options

AUX = "aux"
VIEWS = ("view1", "view2")
_LIKE_CORRUPTIONS = ("color", "contrast", "brightness", "sharpness")
OPERATIONS = tuple(name for name in ops.OPERATIONS if name not in ("identity", *_LIKE_CORRUPTIONS))
"""The nine that the paper chains."""


def strengths(which: Tensor, level: Tensor, sign: Tensor, height: int, width: int) -> Tensor:
    """What each operation is given, float64 (N,), on images of a size.

    Args:
        which: int64 (N,), position in `OPERATIONS`.
        level: float64 (N,), from 0 to 10.
        sign: (N,), 1 or -1, for the operations that have two directions.
        height: of the images.
        width: of the images.
    """

    def whole(highest: float) -> Tensor:
        return (level * highest / 10).floor()

    shear = sign * (level * 0.3 / 10)
    of = {
        "posterize": 4 - whole(4),
        "rotate": sign * whole(30),
        "solarize": 256 - whole(256),
        "shear_x": shear,
        "shear_y": shear,
        "translate_x": sign * whole(width / 3),
        "translate_y": sign * whole(height / 3),
    }
    return torch.stack([of.get(name, level) for name in OPERATIONS]).gather(0, which.unsqueeze(0)).squeeze(0)


@options
class AugMix(Method):
    """Clean images and two AugMix views of each, their predictions pulled together (Hendrycks et al., 2020).

    Attributes:
        severity: strengths are drawn from 0.1 to this, of at most 10.
        width: chains that are mixed in a view.
        depth: operations in a chain; -1 draws 1, 2 or 3 for each.
        alpha: the chains' weights are drawn from Dirichlet(alpha, ...), that of their mixture beside the image from
            Beta(alpha, alpha); a whole number, since gamma variables are drawn as sums of exponential ones.
        jsd: learn from the clean image and let two views agree with it; else learn from one view.
        jsd_weight: of the Jensen-Shannon divergence.
        split_bn: ``aux``: views go through an auxiliary branch, clean images through the main one; ``per_view``:
            every view has a branch of its own; ``none``: all go through the same BatchNorm.
    """

    name: ClassVar[str] = "augmix"
    card: ClassVar[Card] = Card(
        title="AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty",
        authors="Hendrycks, Mu, Cubuk, Zoph, Gilmer, Lakshminarayanan",
        venue="ICLR",
        year=2020,
        url="https://arxiv.org/abs/1912.02781",
        summary="A view is the image mixed with three chains of random operations. The loss is the cross-entropy of "
        "the clean image plus 12 times the Jensen-Shannon divergence between the predictions for it and for two views. "
        "With split_bn, views go through auxiliary BatchNorm branches, and the main one is deployed.",
        reference="google-research/augmix (cifar.py); split_bn: huggingface/pytorch-image-models (--aug-splits, "
        "--split-bn)",
        deviations=(
            "Images are mixed in [0, 1] and normalised by the network; the reference mixes normalised ones. Weights "
            "add up to 1, so both are the same.",
            "Operations see grey levels after crop and flip, as in the reference; PIL's results to the last bit.",
            "The mixture's probability is at least 1e-7 inside the logarithm, as in the reference, not in the paper.",
            "alpha is a whole number; the paper uses 1.",
            "Without jsd and with split_bn = aux: the mean of the losses of the clean image through the main branch "
            "and of one view through the auxiliary one, which is timm's loss over the concatenation.",
        ),
        published=(
            Published("cifar10", "wrn_40_2", {}, "corruption", 0.888, None, "Hendrycks et al. (2020), Table 1"),
            Published("cifar100", "wrn_40_2", {}, "corruption", 0.641, None, "Hendrycks et al. (2020), Table 1"),
        ),
    )

    severity: Annotated[int, Field(ge=1, le=10)] = 3
    width: Count = 3
    depth: Annotated[int, Field(ge=-1)] = -1
    alpha: Count = 1
    jsd: bool = True
    jsd_weight: NonNegative = 12.0
    split_bn: Literal["none", "aux", "per_view"] = "none"

    @model_validator(mode="after")
    def _possible(self) -> AugMix:
        if self.depth == 0:
            raise ValueError("depth: 0 operations; allowed: 1 or more, or -1 for 1 to 3 at random")
        if self.split_bn == "per_view" and not self.jsd:
            raise ValueError('split_bn: without jsd there is one view; allowed: "none" and "aux"')
        return self

    @property
    def views(self) -> int:
        """How many augmented views of each image a step learns from."""
        return len(VIEWS) if self.jsd else 1

    @property
    def branches(self) -> tuple[str, ...]:
        return tuple(self._parts)

    @property
    def _parts(self) -> dict[str, int]:
        """How many images the forward pass sends through each branch for one of the batch, in this order."""
        if self.split_bn == "none":
            return {MAIN: 1 + self.views if self.jsd else 1}
        return {MAIN: 1} | ({AUX: self.views} if self.split_bn == "aux" else dict.fromkeys(VIEWS, 1))

    def augmented(self, batch: Batch) -> list[Tensor]:
        """The views of the batch, float32 (B, 3, H, W) each."""
        index, rng = batch.index, batch.rng.at("augmix")
        count, _, height, width = batch.x.shape
        chains, longest = self.views * self.width, 3 if self.depth < 0 else self.depth
        which = rng.at("operation").integers(index, len(OPERATIONS), chains, longest)
        level = 0.1 + (self.severity - 0.1) * rng.at("level").uniform(index, chains, longest).double()
        sign = 1 - 2 * rng.at("sign").integers(index, 2, chains, longest)
        if self.depth < 0:
            depth = 1 + rng.at("depth").integers(index, 3, chains, 1)
            which = which.masked_fill(torch.arange(longest, device=index.device) >= depth, -1)
        images = ops.as_levels(batch.x).repeat_interleave(chains, dim=0)
        for step in range(longest):
            chosen, here = which[:, :, step].flatten(), (..., step)
            strength = strengths(chosen.clamp(min=0), level[here].flatten(), sign[here].flatten(), height, width)
            images = ops.apply(images, OPERATIONS, chosen, strength)
        mixed = as_float(images).view(count, self.views, self.width, *batch.x.shape[1:])
        weights = _dirichlet(rng.at("weights").uniform(index, self.views, self.width, self.alpha))
        share = _dirichlet(rng.at("share").uniform(index, self.views, 2, self.alpha))[:, :, 0]
        mixture = mixed.mul_(weights.view(*weights.shape, 1, 1, 1)).sum(dim=2)
        views = torch.lerp(batch.x.unsqueeze(1), mixture, share.view(*share.shape, 1, 1, 1))
        return list(views.unbind(1))

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        views, n = self.augmented(batch), len(batch.x)
        images = [batch.x, *views] if sum(self._parts.values()) > self.views else views
        with split_batch(model, {name: n * count for name, count in self._parts.items()}):
            logits = model(torch.cat(images)).chunk(len(images))
            losses = [cross_entropy(part, batch.y).mean() for part in logits]
            logs = {"accuracy": accuracy(logits[0], batch.y)}
            if self.jsd:
                divergence = jensen_shannon(logits).mean()
                logs["divergence"] = divergence.detach()
                loss = losses[0] + self.jsd_weight * divergence
            else:
                loss = torch.stack(losses).mean()
            backward(loss)
        if len(images) > self.views:
            logs["loss_views"] = torch.stack(losses[1:]).detach().mean()
            logs["accuracy_views"] = torch.stack([accuracy(part, batch.y) for part in logits[1:]]).mean()
        return {"loss": loss.detach()} | logs

    def passes(self) -> Passes:
        return Passes(train=self._parts)


def _dirichlet(uniform: Tensor) -> Tensor:
    """Dirichlet(k, ..., k) weights, float32 (..., n), from uniform draws (..., n, k)."""
    # A gamma variable of whole order is a sum of exponential ones. Draws are multiples of 2**-24; in the middle of
    # their cells none is 0, so that no sum divides 0 by 0.
    gamma = -(uniform.double() + 2.0**-25).log().sum(dim=-1)
    return (gamma / gamma.sum(dim=-1, keepdim=True)).float()
