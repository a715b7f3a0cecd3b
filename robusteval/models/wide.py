"""Wide residual networks (Zagoruyko & Komodakis, 2016, arXiv:1605.07146), without dropout."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.models.layers import Normalization, Normalize, conv, global_average, initialise


class WideBlock(nn.Module):
    """BatchNorm, rectifier and 3x3 convolution, twice; a projection reads the first activation."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        # The spelling is that of the keys in public checkpoints.
        self.convShortcut = conv(inputs, outputs, size=1, stride=stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """The block's output (B, outputs, H / stride, W / stride)."""
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideGroup(nn.Module):
    """Blocks of one width, the first of which changes width and resolution."""

    def __init__(self, inputs: int, outputs: int, *, count: int, stride: int) -> None:
        super().__init__()
        rest = [WideBlock(outputs, outputs, stride=1) for _ in range(count - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride=stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """The group's output (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """A wide residual network with the keys of the TRADES code (Zhang et al., 2019, arXiv:1901.08573).

    Args:
        classes: number of logits.
        normalization: applied to the pixels first.
        depth: number of convolutions that count, 6n + 4.
        widen: factor on the widths 16, 32, 64.
    """

    unused_keys = ("sub_block1.",)
    """Prefix of the weights that TRADES checkpoints hold but no forward pass of that code reads."""

    def __init__(self, *, classes: int, normalization: Normalization, depth: int, widen: int) -> None:
        super().__init__()
        assert depth % 6 == 4
        count = depth // 6
        self.normalize = Normalize(normalization)
        self.conv1 = conv(3, 16)
        self.block1 = WideGroup(16, 16 * widen, count=count, stride=1)
        self.block2 = WideGroup(16 * widen, 32 * widen, count=count, stride=2)
        self.block3 = WideGroup(32 * widen, 64 * widen, count=count, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, classes)
        initialise(self, fan="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, classes) of images (B, 3, H, W) in [0, 1]; any height and width."""
        out = self.block3(self.block2(self.block1(self.conv1(self.normalize(x)))))
        logits: Tensor = self.fc(global_average(F.relu(self.bn1(out))))
        return logits
