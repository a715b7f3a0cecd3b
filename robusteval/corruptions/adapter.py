"""The corruptions of the Python package `imagecorruptions` (Michaelis et al., 2019, arXiv:1907.07484), seeded.

They have the names of CIFAR-10-C's and the strengths of ImageNet-C, made for pictures of 224 pixels; and some are
other algorithms. They are here for comparison with numbers that were made with that package, one image at a time
and as slow as it is. What they make is neither CIFAR-10-C nor ImageNet-C, and records say so.
"""

from __future__ import annotations

import threading
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from robusteval.corruptions.strengths import CORRUPTIONS, HELD_OUT
from robusteval.errors import UserError, unknown

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor

PREFIX = "imagecorruptions:"
"""What the names begin with."""

NAMES: tuple[str, ...] = tuple(PREFIX + name for name in CORRUPTIONS + HELD_OUT)
"""The fifteen and the four, in the order of the benchmark."""

NOTE = (
    "imagecorruptions:* has the strengths of ImageNet-C, far harder on 32 x 32 pixels: "
    "not CIFAR-10-C, and not to be compared with it"
)
"""For records and for whoever reads along: one ResNet-20 scores 35 % with these and 58 % with CIFAR-10-C's."""

_SMALLEST = 32
_OWN_SEED = ("impulse_noise", "glass_blur")

_GLOBAL_STATE = threading.Lock()
"""The package draws from numpy's global generator, which only one of our threads may borrow at a time."""


def corrupt(images: Tensor, name: str, severity: float, *, seed: int, index: Tensor) -> Tensor:
    """The images as the package corrupts them, uint8 (B, 3, H, W) on the same device.

    What happens to an image depends on the image, the corruption, the severity, the seed and the image's own index.
    numpy's global generator is as it was afterwards. (numba's, which the package seeds for its glass blur, is not.)

    Args:
        images: uint8 (B, 3, H, W), sides of 32 pixels or more; they stay as they are.
        name: one of `NAMES`.
        severity: 1 (least) to 5; the package has none between.
        seed: of all draws.
        index: the images' places in their data set, integers (B,).

    Raises:
        UserError: an unknown name, a severity outside 1..5, images of another shape or type, or the package cannot
            be imported.
    """
    import numpy as np
    import torch

    from robusteval.randomness import Stream

    if name not in NAMES:
        raise unknown("corrupt", "corruption", name, NAMES)
    if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
        raise UserError(f"corrupt: severity {severity!r} is not one of 1, 2, 3, 4, 5, all that {PREFIX}* has")
    severity = int(severity)
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < _SMALLEST:
        given = f"{str(images.dtype).removeprefix('torch.')} {shape}"
        raise UserError(f"corrupt: the images are {given}; allowed: uint8 (B, 3, H, W), sides from {_SMALLEST} pixels")
    if index.shape != images.shape[:1] or index.is_floating_point():
        raise UserError(f"corrupt: index has the shape {tuple(index.shape)}; allowed: one integer for each image")
    package, kind = _package(), name.removeprefix(PREFIX)
    words = Stream.of(seed).at("imagecorruptions", kind, severity).bits(index.cpu().long(), 5)
    seeds = words.numpy().view(np.uint32).tolist()
    pictures = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    result = np.empty_like(pictures)
    # Spatter divides by zero where there is no drop, and the image becomes black: the package's images, as they are.
    with _GLOBAL_STATE, np.errstate(divide="ignore", invalid="ignore"):
        before = np.random.get_state()
        try:
            for place, (picture, (*state, own)) in enumerate(zip(pictures, seeds, strict=True)):
                np.random.seed(state)
                # Two of the functions draw from generators of their own, seeded with the time unless told otherwise.
                more = {"seed": own} if kind in _OWN_SEED else {}
                result[place] = package.corrupt(picture, severity=severity, corruption_name=kind, **more)
        finally:
            np.random.set_state(before)
    return torch.from_numpy(result).permute(0, 3, 1, 2).contiguous().to(images.device)


def generator() -> str:
    """The package that makes the images, with its version, for records; of either distribution of the module."""
    for distribution in ("imagecorruptions-imaug", "imagecorruptions"):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return "imagecorruptions, of unknown version"


def _package() -> ModuleType:
    """The package's module. It brings OpenCV and numba, which nothing else here needs."""
    from robusteval.corruptions.textures import MODULE, PACKAGE

    try:
        return import_module(MODULE)
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{PREFIX}*: needs the Python package {PACKAGE!r} ({reason})") from None
