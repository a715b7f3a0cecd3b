"""Free adversarial training: the backward pass of a training step also moves the perturbation."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.awp import AWP_DEVIATION, perturbed_weights
from robusteval.branches import MAIN
from robusteval.errors import UserError
from robusteval.losses import accuracy, cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes, Setting, attach, attached
from robusteval.options import Count, NonNegative, Radius, Step, in_pixel_units, options


class Perturbation(nn.Module):
    """The perturbation of each place in a batch, ``delta`` (rows, C, H, W), which outlives the batch."""

    delta: Tensor

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("delta", torch.zeros(rows, *shape))


@options
class FreeAT(Method):
    """Cross-entropy at a perturbation that goes on from batch to batch (Shafahi et al., 2019, arXiv:1904.12843).

    Attributes:
        epsilon: the Linf radius.
        step_size: of the perturbation's sign step; the paper's is epsilon.
        replays: optimizer steps in a row on the same batch, the paper's m: 8 for CIFAR-10.
        awp: relative size of the adversarial weight perturbation (Wu et al., 2020, arXiv:2004.05884); 0 is none. With
            it a step is no longer free: it costs two.
    """

    name: ClassVar[str] = "free_at"
    card: ClassVar[Card] = Card(
        title="Adversarial Training for Free!",
        authors="Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein",
        venue="NeurIPS",
        year=2019,
        url="https://arxiv.org/abs/1904.12843",
        summary="Each batch is trained on m times in a row. One backward pass gives the gradient of the weights and "
        "that of the images, whose sign moves a perturbation that is kept from step to step and from batch to batch. "
        "Epochs see m times fewer images, so training costs what standard training does.",
        reference="ashafahi/free_adv_train (CIFAR), mahyarnajibi/FreeAdversarialTraining (ImageNet); csdongxian/AWP "
        "for awp",
        deviations=(
            "Perturbed images are clipped to the pixel range, as in both references; the gradient is zero where that "
            "changes a pixel, whose perturbation then stays. locuslab/fast_adversarial cuts the perturbation instead.",
            "The m replays show the same augmented images, as in the references.",
            "Every batch has as many images as the perturbation has rows, as in the CIFAR reference; the last "
            "batch of an epoch of the ImageNet one may be smaller.",
            "awp: that paper does not combine it with free training; the images' gradient too is that at the moved "
            "weights.",
            AWP_DEVIATION,
        ),
    )

    epsilon: Radius = 8 / 255
    step_size: Step = 8 / 255
    replays: Count = 8
    awp: NonNegative = 0.0

    @model_validator(mode="after")
    def _in_pixel_units(self) -> FreeAT:
        in_pixel_units("Linf", epsilon=self.epsilon, step_size=self.step_size)
        return self

    def wrap(self, model: nn.Module, setting: Setting) -> nn.Module:
        model = super().wrap(model, setting)
        attach(model, perturbation=Perturbation(setting.batch_size, setting.shape))
        return model

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        delta = attached(model, "perturbation").get_buffer("delta")
        if len(delta) != len(batch.x):
            raise UserError(
                f"free_at: a part of {len(batch.x)} images meets a perturbation of {len(delta)}; training.accumulate "
                "divides the batch; allowed: 1"
            )
        leaf = delta.clone().requires_grad_()
        images = (batch.x + delta).clamp(0, 1)
        with perturbed_weights(model, lambda: cross_entropy(model(images), batch.y).mean(), gamma=self.awp):
            logits = model((batch.x + leaf).clamp(0, 1))
            loss = cross_entropy(logits, batch.y).mean()
            backward(loss)
        assert leaf.grad is not None
        delta.add_(self.step_size * leaf.grad.sign()).clamp_(-self.epsilon, self.epsilon)
        return {"loss": loss.detach(), "accuracy": accuracy(logits, batch.y)}

    def passes(self) -> Passes:
        return Passes(train={MAIN: 2 if self.awp else 1})
