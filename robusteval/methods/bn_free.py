"""Training without batch normalisation."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from robusteval.method import Card, Published, Setting
from robusteval.methods.standard import Standard
from robusteval.normfree import remove_norms, restore_norms
from robusteval.options import options

FIXUP = "AngusG/bn-advex-zhang-fixup README (5 seeds); its ResNet-110 with BatchNorm: 92.58 +- 0.08 %"


@options
class BnFree(Standard):
    """Cross-entropy training of the network with its BatchNorm layers reduced to scale and shift.

    Attributes:
        label_smoothing: share of the target that is spread over all classes.
        zero_init: start every residual block as its shortcut; without, clip the gradients (``training.grad_clip``).
    """

    name: ClassVar[str] = "bn_free"
    card: ClassVar[Card] = Card(
        title="Counterbalancing Teacher: Regularizing Batch Normalized Models for Robustness",
        authors="Asgari Taghanaki, Gholami, Khani, Choi, Tran, Zhang, Khani",
        venue="arXiv",
        year=2022,
        url="https://arxiv.org/abs/2207.01548",
        summary="Standard training of the same network without normalisation, the counterpart that the paper's first "
        "claim is about: lower corruption error, higher clean error than with BatchNorm.",
        reference="none published",
        deviations=(
            "The paper's recipe without BatchNorm (initialisation, learning rate, epochs) could not be read. Ours: "
            "scale and shift of each channel stay, convolutions are drawn as He et al. (2015), residual blocks start "
            "at zero. The learning rate is the suite's; with zero_init = false set training.grad_clip = 1: without it, "
            "training collapsed at a learning rate of 0.1.",
            "No figure is the paper's. The published row is another network without BatchNorm, Fixup (Zhang et al., "
            "2019, arXiv:1901.09321), measured with the code of Galloway et al. (2019, arXiv:1905.02161); it lost no "
            "clean accuracy. Their accuracies under noise and attack (Gaussian noise 76.3 %, with BatchNorm 59.0 %; "
            "PGD 38.1 %, with BatchNorm 8.5 %) are for radii in units of normalised pixels, about 1.5/255: not "
            "comparable.",
            "The deployed network has BatchNorm layers with mean 0 and variance 1: re-estimating their statistics on "
            "images makes it another network.",
        ),
        published=(Published("cifar10", "resnet110", {}, "clean", 0.930, 0.002, FIXUP),),
    )

    zero_init: bool = True

    def wrap(self, model: nn.Module, setting: Setting) -> nn.Module:
        remove_norms(model, zero_init=self.zero_init)
        return super().wrap(model, setting)

    def deploy(self, model: nn.Module, branch: str | None = None) -> nn.Module:
        plain = super().deploy(model, branch)
        restore_norms(plain)
        return plain
