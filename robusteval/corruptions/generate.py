"""Corrupted images, made where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from robusteval.corruptions import (
    adapter,
    blur,
    digital,
    elastic,
    noise,
    occlusion,
    sparkle,
    spatter,
    spectral,
    spline,
    warp,
    weather,
)
from robusteval.corruptions.strengths import Strength, Table, TableChoice, parts, strength, table_for
from robusteval.errors import UserError
from robusteval.randomness import Stream

Corruption = Callable[[Tensor, Strength, Stream, Tensor], Tensor]
"""(images uint8 (B, 3, H, W), strength, stream, index (B,)) -> uint8, same shape."""

_FUNCTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise": noise.gaussian_noise,
        "shot_noise": noise.shot_noise,
        "impulse_noise": noise.impulse_noise,
        "speckle_noise": noise.speckle_noise,
        "defocus_blur": blur.defocus_blur,
        "glass_blur": blur.glass_blur,
        "motion_blur": blur.motion,
        "zoom_blur": blur.zoom_blur,
        "gaussian_blur": blur.gaussian_blur,
        "snow": weather.snow,
        "frost": weather.frost,
        "fog": weather.fog,
        "brightness": weather.brightness,
        "spatter": spatter.spatter,
        "contrast": digital.contrast,
        "elastic_transform": elastic.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg_compression": digital.jpeg_compression,
        "saturate": digital.saturate,
        "blue_noise_sample": spectral.blue_noise_sample,
        "checkerboard_cutout": occlusion.checkerboard_cutout,
        "inverse_sparkles": sparkle.inverse_sparkles,
        "pinch_and_twirl": warp.pinch_and_twirl,
        "ripple": warp.ripple,
        "brownish_noise": spectral.brownish_noise,
        "circular_motion_blur": spline.circular_motion_blur,
        "lines": occlusion.lines,
        "sparkles": sparkle.sparkles,
        "transverse_chromatic_abberation": spline.transverse_chromatic_abberation,
    }
)

_UNLIKE: Mapping[Table, Mapping[str, Corruption]] = MappingProxyType(
    {"cifar": {}, "imagenet": {"frost": partial(weather.frost, shrink=1)}}
)
"""What a table does with another function."""

SMALLEST = 16
"""The least side of an image."""

_PIXELS = {"cpu": 64 * 32 * 32}
"""Pixels at a time: on a CPU as many as stay in its cache. It has no influence on the result."""


def corrupt(
    images: Tensor, name: str, severity: float, *, seed: int, index: Tensor, table: TableChoice = "auto"
) -> Tensor:
    """The images with one corruption, or with several one after the other, uint8 (B, 3, H, W) on the same device.

    What happens to an image depends on the image, the corruption, the severity, the table, the seed and the image's
    own index, and on nothing else: not on the other images of the batch, nor on their order or number.

    Args:
        images: uint8 (B, 3, H, W), sides of 16 pixels or more; they stay as they are.
        name: one of `CORRUPTIONS`, `HELD_OUT` or `CBAR`; or a compound of them such as ``defocus_blur+gaussian_noise``,
            whose parts are applied from left to right, each with the draws that it has alone; or one of
            `adapter.NAMES`.
        severity: 1 (least) to 5. The five are the published ones; those between are ours, see `strength`.
        seed: of all draws.
        index: the images' places in their data set, integers (B,).
        table: ``cifar`` has the strengths of CIFAR-10-C, ``imagenet`` those of ImageNet-C; ``auto`` takes the first
            for images of up to 32 pixels a side. Of `CBAR`, ``imagenet`` has only the five of ImageNet-C-bar.

    Raises:
        UserError: an unknown name or table, a name that the table lacks, a severity outside 1..5, images of another
            shape or type, or (frost) missing photographs.
    """
    _check(images, index)
    if name.startswith(adapter.PREFIX):
        return adapter.corrupt(images, name, severity, seed=seed, index=index)
    chosen = table_for(table, *images.shape[2:])
    steps = [(part, strength(chosen, part, severity)) for part in parts(name)]
    index = index.to(device=images.device, dtype=torch.int64)
    chunk = max(1, _PIXELS.get(images.device.type, 4096 * 32 * 32) // (images.shape[2] * images.shape[3]))
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    # An autocast region around an evaluation must not reach the arithmetic of the corruptions.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for start in range(0, len(images), chunk):
            some = slice(start, start + chunk)
            made = images[some].contiguous()
            for part, numbers in steps:
                function = _UNLIKE[chosen].get(part, _FUNCTIONS[part])
                made = function(made, numbers, _stream(seed, chosen, part, severity), index[some])
            result[some] = made
    return result


def _stream(seed: int, table: Table, name: str, severity: float) -> Stream:
    """The draws of one corruption: others for every table and severity."""
    purpose = ("corruption", name) if table == "cifar" else ("corruption", table, name)
    level: int | str = int(severity) if severity == int(severity) else repr(float(severity))
    return Stream.of(seed).at(*purpose, level)


def _check(images: Tensor, index: Tensor) -> None:
    """Raises UserError for images that are no bytes in the order (B, 3, H, W), or another number of indices."""
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < SMALLEST:
        given = f"{str(images.dtype).removeprefix('torch.')} {shape}{_nearest(images)}"
        raise UserError(f"corrupt: the images are {given}; allowed: uint8 (B, 3, H, W), H and W of {SMALLEST} or more")
    if index.shape != images.shape[:1] or index.is_floating_point():
        raise UserError(f"corrupt: index has the shape {tuple(index.shape)}; allowed: one integer for each image")


def _nearest(images: Tensor) -> str:
    """What may have been meant by images of another shape or type, as a part of a sentence."""
    shape = tuple(images.shape)
    if len(shape) == 4 and shape[3] == 3 != shape[1]:
        return "; channels last? images.permute(0, 3, 1, 2)"
    if len(shape) == 3:
        return "; one image? images.unsqueeze(0)"
    if images.is_floating_point() and images.numel():
        low, high = (float(end) for end in images.aminmax())
        if low >= 0 and high <= 1:
            return " from 0 to 1; (images * 255).round().to(torch.uint8)?"
        if low >= 0 and high <= 255:
            return " from 0 to 255; images.round().to(torch.uint8)?"
        return f" from {low:.3g} to {high:.3g}; normalised? corruptions come before that"
    return ""
