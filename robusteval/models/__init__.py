"""The architectures by name, each with pixel normalisation as its first layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

from torch import nn

from robusteval.errors import UserError, unknown
from robusteval.models.layers import NORMALIZATIONS, Normalization
from robusteval.models.preact import PreActResNet
from robusteval.models.resnet import ResNet
from robusteval.models.wide import WideResNet

__all__ = ["MODELS", "NORMALIZATIONS", "ModelInfo", "build"]


class Maker(Protocol):
    """Makes a freshly initialised network."""

    def __call__(self, *, classes: int, normalization: Normalization) -> nn.Module:
        """The network."""
        ...


@dataclass(frozen=True)
class ModelInfo:
    """What an architecture is, where it comes from, and how it is made."""

    paper: str
    year: int
    description: str
    make: Maker


_RESNET = "He et al., Deep residual learning for image recognition, arXiv:1512.03385"
_PREACT = "He et al., Identity mappings in deep residual networks, arXiv:1603.05027"
_WIDE = "Zagoruyko & Komodakis, Wide residual networks, arXiv:1605.07146"


def _cifar(depth: int, size: str) -> ModelInfo:
    blocks = ((depth - 2) // 6,) * 3
    make = partial(ResNet, widths=(16, 32, 64), blocks=blocks, option="A")
    return ModelInfo(_RESNET, 2016, f"{depth} layers, widths 16-32-64, option-A shortcuts; {size} parameters", make)


def _wide(depth: int, widen: int, size: str) -> ModelInfo:
    make = partial(WideResNet, depth=depth, widen=widen)
    return ModelInfo(_WIDE, 2016, f"{depth} layers, {widen} times as wide, no dropout; {size} parameters", make)


_WIDTHS = (64, 128, 256, 512)

MODELS: Mapping[str, ModelInfo] = MappingProxyType(
    {
        "resnet8": _cifar(8, "0.08M"),
        "resnet20": _cifar(20, "0.27M"),
        "resnet56": _cifar(56, "0.85M"),
        "resnet18": ModelInfo(
            _RESNET,
            2016,
            "18 layers, widths 64-512, 3x3 stem, projection shortcuts; 11.2M parameters",
            partial(ResNet, widths=_WIDTHS, blocks=(2, 2, 2, 2), option="B"),
        ),
        "preact_resnet18": ModelInfo(
            _PREACT,
            2016,
            "18 layers, widths 64-512, 3x3 stem, activation before convolution; 11.2M parameters",
            partial(PreActResNet, widths=_WIDTHS, blocks=(2, 2, 2, 2)),
        ),
        "wrn_16_4": _wide(16, 4, "2.7M"),
        "wrn_28_10": _wide(28, 10, "36.5M"),
        "wrn_34_10": _wide(34, 10, "46.2M"),
        "wrn_40_2": _wide(40, 2, "2.2M"),
    }
)
"""Every architecture; the sizes are those for ten classes."""


def build(name: str, *, classes: int, normalize: str = "cifar10") -> nn.Module:
    """A network with fresh weights, drawn from torch's global generator.

    It maps float images (B, 3, H, W) in [0, 1] to logits (B, classes), normalisation included.

    Args:
        name: a key of `MODELS`.
        classes: number of logits, at least 2.
        normalize: a key of `NORMALIZATIONS`.

    Raises:
        UserError: an unknown name, or fewer than two classes.
    """
    if name not in MODELS:
        raise unknown("model", "architecture", name, MODELS)
    if normalize not in NORMALIZATIONS:
        raise unknown(name, "normalisation", normalize, NORMALIZATIONS)
    if classes < 2:
        raise UserError(f"{name}: {classes} classes; allowed: 2 or more")
    return MODELS[name].make(classes=classes, normalization=NORMALIZATIONS[normalize])
