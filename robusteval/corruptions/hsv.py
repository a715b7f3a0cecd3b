"""Images with the saturation or the value of HSV rescaled, to the last bit as scikit-image computes it."""

from __future__ import annotations

import torch
from torch import Tensor

from robusteval.corruptions.filters import truncated
from robusteval.corruptions.strengths import Strength

# The place of red, green and blue in (largest, middle, smallest) for each sixth of the hue circle.
_PLACES = ((0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0), (1, 2, 0), (0, 2, 1))


def rescale(images: Tensor, *, saturation: Strength = (1, 0), value: Strength = (1, 0)) -> Tensor:
    """The images with saturation and value mapped by ``clip(factor * x + addition, 0, 1)``; uint8 (B, 3, H, W).

    The conversion there and back rounds in float64 before grey levels are cut off, so that the order of the
    operations shows. One of the three channels is the value, one has the full distance to it, and one is in between.

    Args:
        images: uint8 (B, 3, H, W).
        saturation: factor and addition; (1, 0) leaves it exactly as it is.
        value: the same for the value.
    """
    red, green, blue = images.double().div_(255).unbind(1)
    large = torch.maximum(torch.maximum(red, green), blue)
    range_ = large - torch.minimum(torch.minimum(red, green), blue)
    grey = (range_ == 0).double()
    safe = range_ + grey
    # Where two channels are the largest, the later one counts; products with 0 and 1 select without rounding.
    is_blue = (blue == large).double()
    is_green = (green == large).double().mul_(1 - is_blue)
    is_red = 1 - is_blue - is_green
    hue = (green - blue).div_(safe).mul_(is_red)
    hue += ((blue - red).div_(safe) + 2).mul_(is_green)
    hue += ((red - green).div_(safe) + 4).mul_(is_blue)
    hue = (hue / 6).mul_(1 - grey)
    hue = hue.add_(hue < 0).mul_(6)
    sixth = hue.floor()
    part = hue.sub_(sixth)
    odd = sixth.remainder(2)
    part = part * odd + (1 - part).mul_(1 - odd)

    depth = range_.div_(large + (large == 0))
    if saturation != (1, 0):
        depth = (depth * saturation[0] + saturation[1]).clamp_(0, 1)
    if value != (1, 0):
        large = (large * value[0] + value[1]).clamp_(0, 1)
    middle = (1 - part.mul_(depth)).mul_(large)
    small = (1 - depth).mul_(large)

    sorted_ = torch.stack((truncated(large), truncated(middle), truncated(small))).flatten()
    places = torch.tensor(_PLACES, dtype=torch.int32, device=images.device).t().contiguous()
    which = places.index_select(1, sixth.to(torch.int32).remainder_(6).flatten())
    which *= large.numel()
    which += torch.arange(large.numel(), dtype=torch.int32, device=images.device)
    return sorted_.index_select(0, which.flatten()).view(3, *large.shape).transpose(0, 1).contiguous()
