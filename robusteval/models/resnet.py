"""Residual networks for small images (He et al., 2016, arXiv:1512.03385).

`ResNet` covers both forms that the field uses: the narrow CIFAR networks of section 4.2 with
parameter-free shortcuts (option A), and the ImageNet network of table 1 with a 3x3 stem and projection
shortcuts (option B). Keys are those of the common public checkpoints of either form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.models.layers import Normalization, Normalize, conv, global_average, initialise, subsample


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, with zero channels in equal number before and after."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The shortcut (B, outputs, ceil(H / 2), ceil(W / 2))."""
        return subsample(x, padding=self.padding)


def shortcut(inputs: int, outputs: int, *, stride: int, option: Literal["A", "B"]) -> nn.Module:
    """The identity where the shape stays, else the parameter-free (A) or the projection shortcut (B)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if option == "A":
        assert stride == 2
        return ZeroPadShortcut(inputs, outputs)
    return nn.Sequential(conv(inputs, outputs, size=1, stride=stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with BatchNorm, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, option: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride=stride, option=option)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out = out + self.shortcut(x)
        # In place for the sum alone, which no one else sees. The output of a layer may be kept by a hook,
        # or be the layer's input where BatchNorm was replaced by the identity; 1 % of speed is not worth that.
        return out.relu_()


class ResNet(nn.Module):
    """A residual network whose stages ``layer1``, ``layer2``, ... halve the image, but for the first.

    Args:
        classes: number of logits.
        normalization: applied to the pixels first.
        widths: channels of each stage; the stem has those of the first.
        blocks: residual blocks in each stage.
        option: the shortcut where the shape changes; also chooses the initialisation that goes with it,
            that of section 4.2 (A, fan-in) or of the authors' published training code (B, fan-out).
    """

    def __init__(
        self,
        *,
        classes: int,
        normalization: Normalization,
        widths: Sequence[int],
        blocks: Sequence[int],
        option: Literal["A", "B"],
    ) -> None:
        super().__init__()
        self.normalize = Normalize(normalization)
        self.conv1 = conv(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        self.stages = tuple(f"layer{number}" for number in range(1, len(widths) + 1))
        for name, width, count in zip(self.stages, widths, blocks, strict=True):
            stride = 1 if name == "layer1" else 2
            first = BasicBlock(inputs, width, stride=stride, option=option)
            rest = [BasicBlock(width, width, stride=1, option=option) for _ in range(count - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
            inputs = width
        self.linear = nn.Linear(inputs, classes)
        initialise(self, fan="fan_in" if option == "A" else "fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, classes) of images (B, 3, H, W) in [0, 1]; any height and width."""
        out = F.relu(self.bn1(self.conv1(self.normalize(x))))
        for name in self.stages:
            out = getattr(self, name)(out)
        logits: Tensor = self.linear(global_average(out))
        return logits
