"""Residual networks with pre-activation (He et al., 2016, arXiv:1603.05027)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.models.layers import Normalization, Normalize, conv, global_average, initialise


class PreActBlock(nn.Module):
    """BatchNorm, rectifier and 3x3 convolution, twice; a projection reads the first activation."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        projects = stride != 1 or inputs != outputs
        # A sequence of one, for the key ``shortcut.0.weight`` of public checkpoints.
        self.shortcut = nn.Sequential(conv(inputs, outputs, size=1, stride=stride)) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """The block's output (B, outputs, H / stride, W / stride)."""
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class PreActResNet(nn.Module):
    """A pre-activation network with a 3x3 stem; ``bn`` and a rectifier follow the last block.

    That last activation is in the paper's appendix and in the checkpoints of adversarial training
    (Rice et al., 2020, arXiv:2002.11569), though not in every public implementation.

    Args:
        classes: number of logits.
        normalization: applied to the pixels first.
        widths: channels of each stage; the stem has those of the first.
        blocks: residual blocks in each stage.
    """

    def __init__(
        self, *, classes: int, normalization: Normalization, widths: Sequence[int], blocks: Sequence[int]
    ) -> None:
        super().__init__()
        self.normalize = Normalize(normalization)
        self.conv1 = conv(3, widths[0])
        inputs = widths[0]
        self.stages = tuple(f"layer{number}" for number in range(1, len(widths) + 1))
        for name, width, count in zip(self.stages, widths, blocks, strict=True):
            first = PreActBlock(inputs, width, stride=1 if name == "layer1" else 2)
            rest = [PreActBlock(width, width, stride=1) for _ in range(count - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
            inputs = width
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)
        initialise(self, fan="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, classes) of images (B, 3, H, W) in [0, 1]; any height and width."""
        out = self.conv1(self.normalize(x))
        for name in self.stages:
            out = getattr(self, name)(out)
        logits: Tensor = self.linear(global_average(F.relu(self.bn(out))))
        return logits
