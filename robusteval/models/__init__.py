"""The architectures by name, each with pixel normalisation as its first layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

from torch import nn

from robusteval.errors import UserError, unknown
from robusteval.models.external import is_external, make, normalises_itself, wrappers
from robusteval.models.layers import NORMALIZATIONS, Normalization
from robusteval.models.preact import PreActResNet
from robusteval.models.resnet import ResNet
from robusteval.models.wide import WideResNet

__all__ = ["MODELS", "NORMALIZATIONS", "ModelInfo", "build", "normalises_itself", "wrappers"]


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


def build(name: str, *, classes: int, normalize: str | None = None, resize: int | None = None) -> nn.Module:
    """A network with fresh weights, drawn from torch's global generator.

    It maps float images (B, 3, H, W) in [0, 1] to logits (B, classes), normalisation included.

    Args:
        name: a key of `MODELS`, or a network of another package (`robusteval.models.external`).
        classes: number of logits, at least 2.
        normalize: a key of `NORMALIZATIONS`; None is ``cifar10``, or nothing for a network that normalises itself.
        resize: height and width that another package's network gets images of; None leaves them as they are.

    Raises:
        UserError: an unknown name, fewer than two classes, or a network that cannot be had.
    """
    if name not in MODELS and not is_external(name):
        raise unknown("model", "architecture", name, [*MODELS, "timm:NAME", "torchvision:NAME", "robustbench:NAME"])
    if normalize is not None and normalize not in NORMALIZATIONS:
        raise unknown(name, "normalisation", normalize, NORMALIZATIONS)
    if classes < 2:
        raise UserError(f"{name}: {classes} classes; allowed: 2 or more")
    if is_external(name):
        itself = normalises_itself(name) and normalize is None
        chosen = None if itself else NORMALIZATIONS[normalize or "cifar10"]
        return make(name, classes=classes, normalization=chosen, resize=resize)
    if resize is not None:
        raise UserError(f"{name}: takes images of any size as they are; allowed: resize with timm: and torchvision:")
    return MODELS[name].make(classes=classes, normalization=NORMALIZATIONS[normalize or "cifar10"])
