"""Corrupted images, made where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from robusteval.corruptions import blur, digital, elastic, noise, spatter, weather
from robusteval.corruptions.strengths import CIFAR, Strength
from robusteval.errors import UserError, unknown
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
    }
)

_SIDE = 32

_CHUNK = {"cpu": 64}
"""Images at a time: on a CPU as many as stay in its cache. It has no influence on the result."""


def corrupt(images: Tensor, name: str, severity: int, *, seed: int, index: Tensor) -> Tensor:
    """The images with one corruption at CIFAR-10-C strength, uint8 (B, 3, 32, 32) on the same device.

    What happens to an image depends on the image, the corruption, the severity, the seed and the image's own
    index, and on nothing else: not on the other images of the batch, nor on their order or number.

    Args:
        images: uint8 (B, 3, 32, 32); they stay as they are.
        name: one of `CORRUPTIONS` or `HELD_OUT`.
        severity: 1 (least) to 5.
        seed: of all draws.
        index: the images' places in their data set, integers (B,).

    Raises:
        UserError: an unknown name, a severity outside 1..5, images of another shape or type, or (frost) missing
            photographs.
    """
    if name not in _FUNCTIONS:
        raise unknown("corrupt", "corruption", name, _FUNCTIONS)
    if type(severity) is not int or not 1 <= severity <= 5:
        raise UserError(f"corrupt: severity {severity!r} is not one of 1, 2, 3, 4, 5")
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1:] != (3, _SIDE, _SIDE):
        given = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise UserError(f"corrupt: the images are {given}; allowed: uint8 (B, 3, {_SIDE}, {_SIDE})")
    if index.shape != images.shape[:1] or index.is_floating_point():
        raise UserError(f"corrupt: index has the shape {tuple(index.shape)}; allowed: one integer for each image")
    strength = CIFAR[name][severity - 1]
    rng = Stream.of(seed).at("corruption", name, severity)
    index = index.to(device=images.device, dtype=torch.int64)
    function = _FUNCTIONS[name]
    chunk = _CHUNK.get(images.device.type, 4096)
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    # An autocast region around an evaluation must not reach the arithmetic of the corruptions.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            result[part] = function(images[part], strength, rng, index[part])
    return result
