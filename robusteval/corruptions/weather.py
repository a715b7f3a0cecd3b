"""Weather: snow, frost, fog, brightness; spatter, held out, is in `spatter`."""

from __future__ import annotations

import torch
from torch import Tensor

from robusteval.corruptions.filters import motion_blur, planes, truncated, unplanes
from robusteval.corruptions.hsv import rescale
from robusteval.corruptions.strengths import Strength
from robusteval.corruptions.textures import SHRINK, ice
from robusteval.corruptions.zoom import zoomed
from robusteval.randomness import Stream


def snow(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images in falling snow, uint8 (B, 3, H, W).

    A layer of flakes (normal noise, enlarged, cut off below a threshold, blurred along its fall) is added to a
    paler image, once as it is and once turned by 180 degrees.
    """
    mean, deviation, zoom, threshold, radius, sigma, weight = strength
    height, width = images.shape[2:]
    flakes = rng.at("flakes").normal(index, 1, height, width).double().mul_(deviation).add_(mean)
    layer = zoomed(planes(flakes), zoom)
    layer *= layer >= threshold
    angle = rng.at("angle").uniform(index, 1).squeeze(1) * 90 - 135
    fallen = motion_blur(unplanes(truncated(layer), 1), angle, radius=radius, sigma=sigma, heading="up")
    white = fallen.double().div_(255)

    clear = images.float().div_(255)
    red, green, blue = clear.unbind(1)
    pale = (red * 0.299 + green * 0.587 + blue * 0.114).mul_(1.5).add_(0.5).unsqueeze(1)
    mixed = weight * clear + torch.maximum(clear, pale).mul_(1 - weight)
    return truncated(mixed.double().add_(white).add_(white.flip(2, 3)))


def frost(images: Tensor, strength: Strength, rng: Stream, index: Tensor, *, shrink: int = SHRINK) -> Tensor:
    """The images behind ice, uint8 (B, 3, H, W): a random crop of one of five photographs is added."""
    batch, _, height, width = images.shape
    everything, sizes, starts = ice(shrink, height, width, images.device)
    which = rng.at("photograph").integers(index, len(sizes), 1).squeeze(1)
    room = sizes[which] - torch.tensor([height, width], device=images.device)
    # Like the published draw, the last possible row and column are never used.
    corner = (rng.at("corner").uniform(index, 2).double() * room).to(torch.int64)
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)[None, :]
    line = sizes[which, 1].view(-1, 1, 1)
    place = (starts[which].view(-1, 1, 1) + (corner[:, :1, None] + row) * line) + corner[:, 1:, None] + column
    crop = everything.gather(1, place.flatten().expand(3, -1)).view(3, batch, height, width).transpose(0, 1)
    mixed = images.double().mul_(strength[0]) + crop.double().mul_(strength[1])
    return mixed.clamp_(0, 255).to(torch.uint8)


def plasma(noise: Tensor, decay: float, side: int) -> Tensor:
    """Fractal landscapes on a torus by the diamond-square algorithm, scaled to 0..1; float64 (side, side, B).

    Args:
        noise: float64 (side * side - 1, B) in -1..1: what the corner, the only point of the first scale, does not use.
        decay: factor by which the roughness falls with every halving of the scale.
        side: a power of two.
    """
    field = torch.zeros(side, side, noise.shape[1], dtype=torch.float64, device=noise.device)
    wobble, used, step = 100.0, 0, side
    while step >= 2:
        half = step // 2
        count = (side // step) ** 2
        draws = noise[used : used + 3 * count].view(3, side // step, side // step, -1) * (wobble * wobble)
        corners = field[::step, ::step]
        square = corners + corners.roll(-1, 0)
        square = square + square.roll(-1, 1)
        field[half::step, half::step] = square.div_(4).add_(draws[0])
        centres = field[half::step, half::step]
        above = centres + centres.roll(1, 0) + (corners + corners.roll(-1, 1))
        field[::step, half::step] = above.div_(4).add_(draws[1])
        left = centres + centres.roll(1, 1) + (corners + corners.roll(-1, 0))
        field[half::step, ::step] = left.div_(4).add_(draws[2])
        used, step, wobble = used + 3 * count, half, wobble / decay
    field -= field.amin((0, 1))
    return field.div_(field.amax((0, 1)))


def fog(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images in fog of uneven density, uint8 (B, 3, H, W), cut out of a square of the next power of two."""
    amount, decay = strength
    height, width = images.shape[2:]
    side = 1 << (max(height, width) - 1).bit_length()
    noise = rng.at("plasma").uniform(index, side * side - 1).double().mul_(2).sub_(1)
    haze = plasma(noise.t().contiguous(), decay, side)[:height, :width].permute(2, 0, 1).unsqueeze(1)
    bright = images.amax((1, 2, 3), keepdim=True).double().div_(255)
    foggy = images.double().div_(255).add_(haze.contiguous().mul_(amount))
    return truncated(foggy.mul_(bright).div_(bright + amount))


def brightness(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images with more light, uint8 (B, 3, H, W): an addition to the value of HSV."""
    return rescale(images, value=(1, strength[0]))
