"""Augmentation as batched tensor code on the device of its input.

Crop and flip are one gather over the zero-padded uint8 batch. What an image's crop, flip and cutout draw is a function
of the stream (the caller's: seed, purpose, epoch) and the image's index in the set, so neither the batch an image is in
nor the batch size changes it. MixUp and CutMix combine a batch with a permutation of itself and draw once a batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.registry import CIFAR10
from robusteval.options import Whole, options
from robusteval.randomness import Stream

_BITS = 20
_MEAN = CIFAR10.mean


@options
class Augment:
    """What is done to every training image.

    Attributes:
        crop_padding: zero pixels added on every side before a random crop of the original size (He et al., 2016,
            arXiv:1512.03385, section 4.2: 4); 0 for none.
        flip: mirror left and right with probability 1/2.
        cutout: side of a square masked at a uniform centre and clipped at the borders (DeVries & Taylor, 2017,
            arXiv:1708.04552: 16 on CIFAR-10, 8 on CIFAR-100); 0 for none.
    """

    crop_padding: Whole = 4
    flip: bool = True
    cutout: Whole = 0


def as_float(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 (...) / 255, the same floats on every device."""
    # A divisor on the device: CUDA turns division by a Python number into a product, which rounds differently.
    assert images.dtype == torch.uint8, images.dtype
    return images.to(torch.float32).div_(torch.full((), 255.0, device=images.device))


def augment(
    images: Tensor,
    index: Tensor,
    rng: Stream,
    spec: Augment,
    *,
    fill: tuple[float, float, float] = _MEAN,
) -> Tensor:
    """The augmented images, float32 (B, 3, H, W) in [0, 1].

    Args:
        images: uint8 (B, 3, H, W).
        index: int64 (B,), each image's index in its set, on the same device.
        rng: stream of this epoch's augmentation; another epoch needs another stream.
        spec: what to do.
        fill: colour of the cutout mask, in [0, 1]. DeVries & Taylor mask with 0 after normalisation, which is the
            mean colour; here normalisation is the network's first layer, so the mean is written out.
    """
    height, width = images.shape[2:]
    draws = rng.integers(index, 1 << _BITS, 5)
    if spec.crop_padding or spec.flip:
        images = _crop_flip(images, draws, spec)
    out = as_float(images)
    if spec.cutout:
        rows = _square(draws[:, 3], height, spec.cutout)
        hidden = rows[:, :, None] & _square(draws[:, 4], width, spec.cutout)[:, None, :]
        for channel, value in enumerate(fill):  # not one tensor of the colour: copying it to a GPU would wait for it
            out[:, channel].masked_fill_(hidden, value)
    return out


def _below(draw: Tensor, high: int) -> Tensor:
    """Uniform in [0, high) from a draw of ``_BITS`` bits."""
    return (draw * high) >> _BITS


def _crop_flip(images: Tensor, draws: Tensor, spec: Augment) -> Tensor:
    """A window of the padded images at offsets from draws 0 and 1, mirrored by draw 2; uint8 (B, 3, H, W)."""
    count, channels, height, width = images.shape
    pad = spec.crop_padding
    padded = F.pad(images, (pad, pad, pad, pad))
    top, left = _below(draws[:, 0], 2 * pad + 1), _below(draws[:, 1], 2 * pad + 1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    if spec.flip:
        mirrored = _below(draws[:, 2], 2).bool()
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + left[:, None]
    # One flat position per pixel, shared by the channels through a stride of 0.
    position = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).view(count, 1, -1)
    flat = padded.view(count, channels, -1)
    return flat.gather(2, position.expand(-1, channels, -1)).view(count, channels, height, width)


def _square(draw: Tensor, length: int, side: int) -> Tensor:
    """Which of ``length`` pixels lie in [centre - side // 2, centre - side // 2 + side), bool (B, length)."""
    start = _below(draw, length)[:, None] - side // 2
    pixel = torch.arange(length, device=draw.device)
    return (pixel >= start) & (pixel < start + side)


class Mixed(NamedTuple):
    """Mixed images (B, 3, H, W), both labels (B,), and the weight of the first, float32 (B,) in [0, 1].

    The loss is lam * loss(x, y_a) + (1 - lam) * loss(x, y_b).
    """

    x: Tensor
    y_a: Tensor
    y_b: Tensor
    lam: Tensor


def mixup(x: Tensor, y: Tensor, rng: Stream, *, alpha: float) -> Mixed:
    """Each image blended with its partner (Zhang et al., 2018, arXiv:1710.09412).

    Args:
        x: float (B, 3, H, W); not changed.
        y: int64 (B,).
        rng: stream of this step.
        alpha: the weight of the image itself is drawn from Beta(alpha, alpha), above 0.
    """
    weight, partner = _draw(x, rng, alpha)
    return _mixed(torch.lerp(x.index_select(0, partner), x, weight), y, partner, weight)


def cutmix(x: Tensor, y: Tensor, rng: Stream, *, alpha: float) -> Mixed:
    """Each image with one box, the same for the batch, taken from its partner (Yun et al., 2019, arXiv:1905.04899).

    The box's centre is uniform and its sides are sqrt(1 - lam) of the image's, clipped at the borders; the ``lam`` that
    comes back is the share of the image that is left after the clipping.

    Args:
        x: float (B, 3, H, W); not changed.
        y: int64 (B,).
        rng: stream of this step.
        alpha: lam before the clipping is drawn from Beta(alpha, alpha), above 0.
    """
    weight, partner = _draw(x, rng, alpha)
    height, width = x.shape[2:]
    centre = rng.at("centre").integers(torch.zeros(1, dtype=torch.int64), 1 << _BITS, 2)[0]
    top, bottom = _side(height, weight, int(_below(centre[0], height)))
    left, right = _side(width, weight, int(_below(centre[1], width)))
    out = x.clone()
    out[:, :, top:bottom, left:right] = x[:, :, top:bottom, left:right].index_select(0, partner)
    return _mixed(out, y, partner, 1 - (bottom - top) * (right - left) / (height * width))


def _draw(x: Tensor, rng: Stream, alpha: float) -> tuple[float, Tensor]:
    """The batch's weight and every image's partner; drawn on the CPU, so that the box needs no wait for the device."""
    assert alpha > 0, alpha
    return rng.at("lam").beta(alpha), rng.at("partner").permutation(len(x)).to(x.device, non_blocking=True)


def _side(length: int, weight: float, centre: int) -> tuple[int, int]:
    """The box's first pixel and the one behind its last, along one axis."""
    cut = int(length * math.sqrt(1 - weight))
    return max(centre - cut // 2, 0), min(centre + cut // 2, length)


def _mixed(x: Tensor, y: Tensor, partner: Tensor, weight: float) -> Mixed:
    return Mixed(x, y, y[partner], torch.full((len(y),), weight, dtype=torch.float32, device=x.device))
