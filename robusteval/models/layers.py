"""The parts that all architectures share: pixel normalisation, convolution, initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
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


def _pixels_first(x: Tensor) -> bool:
    """Whether a pixel's channels lie together in memory (channels-last) and not each channel's pixels."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def global_average(x: Tensor) -> Tensor:
    """The mean over the pixels of each channel, (B, C) of (B, C, H, W).

    In channels-last layout the mean is taken of a permuted view. The values are the same, but the gradient then comes
    back in the layout of x: torch would make it contiguous, and the layers below would mix both layouts, at up to ten
    times the time.
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1) if _pixels_first(x) else x.mean((2, 3))


def subsample(x: Tensor, *, padding: int) -> Tensor:
    """Every second pixel, with ``padding`` zero channels before and after: (B, C + 2 padding, ceil(H/2), ceil(W/2)).

    Permuted in channels-last layout for the reason given at `global_average`.
    """
    if _pixels_first(x):
        return F.pad(x.permute(0, 2, 3, 1)[:, ::2, ::2], (padding, padding)).permute(0, 3, 1, 2)
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, padding, padding))
