"""The parts that all architectures share: pixel normalisation, convolution, initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class Normalization(NamedTuple):
    """Channel means and standard deviations of pixels in [0, 1], in the order red, green, blue."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NORMALIZATIONS: Mapping[str, Normalization] = MappingProxyType(
    {
        "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "none": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    }
)
"""Of the training images, four digits; ``none`` passes pixels on as they are."""


class Normalize(nn.Module):
    """Pixels in [0, 1] minus the channel's mean, divided by its standard deviation.

    The constants are non-persistent buffers: they follow the device, and a state dict does not hold them,
    so that checkpoints of the bare network load strictly.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        for name, values in normalization._asdict().items():
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised images (B, 3, H, W)."""
        assert x.is_floating_point(), f"images must be floating-point numbers in [0, 1], not {x.dtype}"
        # Subtract and divide, not multiply and add: these are the bits that the field's transforms give.
        return (x - self.mean).div_(self.std)


def conv(inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps height and width, up to its stride."""
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


def initialise(model: nn.Module, *, fan: Literal["fan_in", "fan_out"]) -> None:
    """Draws the weights as He et al. (2015, arXiv:1502.01852), from torch's global generator.

    Every convolution gets normal weights of variance 2 / fan; ``fan_in`` preserves the variance of the
    activations, ``fan_out`` that of the gradients. The bias of the classifier is zero, its weights keep
    PyTorch's uniform draw, and BatchNorm starts as the identity.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
