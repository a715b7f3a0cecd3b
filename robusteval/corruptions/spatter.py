"""Spatter: splashes of water with a bright rim, or of mud. The steps are OpenCV's, on batches of small layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robusteval.corruptions.filters import gaussian, planes, truncated, unplanes
from robusteval.corruptions.strengths import Strength
from robusteval.randomness import Stream

_WATER = (175, 238, 238)
_MUD = (63, 42, 20)
_RELIEF = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
_FAR = 20
"""Distances from an edge count up to this many pixels."""

_DISTANCES = {(0, 1): 65536, (1, 1): 91750, (1, 2): 143976}
"""1, 1.4 and 2.1969 in units of 2**-16: the step lengths of a 5 x 5 distance transform (Borgefors, 1986)."""


def _wide(layers: Tensor, amount: int, mode: str = "constant", value: int = 0) -> Tensor:
    """The layers (B, H, W), padded on all sides."""
    if mode == "constant":
        return F.pad(layers, (amount,) * 4, value=value)
    return F.pad(layers.double().unsqueeze(1), (amount,) * 4, mode=mode).squeeze(1).to(layers.dtype)


def _shifted(wide: Tensor, down: int, right: int, amount: int) -> Tensor:
    """The part of padded layers that lies below and right of the layers themselves, of their size."""
    height, width = wide.shape[1] - 2 * amount, wide.shape[2] - 2 * amount
    return wide[:, amount + down : amount + down + height, amount + right : amount + right + width]


def canny(layers: Tensor, low: int, high: int) -> Tensor:
    """The edges by Canny's method (Canny, 1986), bool (B, H, W), with a 3 x 3 gradient in the L1 norm.

    Args:
        layers: int32 (B, H, W) in 0..255.
        low: least gradient of a ridge that may be an edge.
        high: gradient that makes a ridge an edge, and with it all ridges that hang together with it.
    """
    wide = _wide(layers, 1, "replicate")
    at = {(y, x): _shifted(wide, y, x, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    across = (at[-1, 1] + 2 * at[0, 1] + at[1, 1]) - (at[-1, -1] + 2 * at[0, -1] + at[1, -1])
    down = (at[1, -1] + 2 * at[1, 0] + at[1, 1]) - (at[-1, -1] + 2 * at[-1, 0] + at[-1, 1])
    size = across.abs() + down.abs()
    wide = _wide(size, 1)
    near = {(y, x): _shifted(wide, y, x, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    # tan(22.5 degrees) in units of 2**-15, and tan(67.5) = tan(22.5) + 2, in whole numbers as in OpenCV.
    flat, tall = across.abs().long(), down.abs().long() << 15
    horizontal = tall < flat * 13573
    vertical = tall > flat * (13573 + (2 << 15))
    falling = (across ^ down) >= 0
    along = (size > near[0, -1]) & (size >= near[0, 1])
    over = (size > near[-1, 0]) & (size >= near[1, 0])
    diagonal = (size > near[-1, -1]) & (size > near[1, 1])
    other = (size > near[-1, 1]) & (size > near[1, -1])
    oblique = (falling & diagonal) | (~falling & other)
    ridge = (horizontal & along) | (vertical & over) | (~horizontal & ~vertical & oblique)
    ridge &= size > low
    edge = ridge & (size > high)
    while True:
        grown = F.max_pool2d(edge.float().unsqueeze(1), 3, stride=1, padding=1).squeeze(1).bool() & ridge
        if torch.equal(grown, edge):
            return edge
        edge = grown


def distance(edges: Tensor) -> Tensor:
    """The distance of every pixel to the nearest edge, at most 20, int32 (B, H, W) in units of 2**-16 pixels.

    A path is made of the steps in `_DISTANCES`; the shortest is found by relaxing until nothing changes.
    """
    steps = {}
    for (small, large), length in _DISTANCES.items():
        for y, x in {(small, large), (large, small)}:
            steps.update({(sy * y, sx * x): length for sy in (-1, 1) for sx in (-1, 1)})
    far = _FAR << 16
    shortest = far * (~edges).to(torch.int32)
    while True:
        wide = _wide(shortest, 2, value=far)
        better = shortest
        for (y, x), length in steps.items():
            better = torch.minimum(better, _shifted(wide, y, x, 2) + length)
        if torch.equal(better, shortest):
            return shortest
        shortest = better


def _box(layers: Tensor) -> Tensor:
    """The sums over 3 x 3 pixels, mirrored at the border, of the layers' type."""
    wide = _wide(layers, 1, "reflect")
    total = torch.zeros_like(layers)
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            total += _shifted(wide, y, x, 1)
    return total


def _equalized(layers: Tensor) -> Tensor:
    """The layers, int64 (B, H, W) in 0..20, stretched to 0..255 so that every level is equally frequent."""
    flat = layers.flatten(1)
    counts = torch.zeros(len(flat), _FAR + 1, dtype=torch.int64, device=flat.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    lowest = flat.amin(1, keepdim=True)
    first = counts.gather(1, lowest)
    rest = flat.shape[1] - first
    share = (counts.cumsum(1) - first).float() * (255 / rest.clamp(min=1).float())
    table = share.clamp(min=0).round().long()
    # A layer of one level stays as it is.
    return (table.gather(1, flat) * (rest > 0) + flat * (rest == 0)).view_as(layers)


def relief(liquid: Tensor) -> Tensor:
    """How bright the water is: a rim lit from one side; float32 (B, H, W) for liquid int32 (B, H, W) in 0..255."""
    apart = distance(canny(liquid, 50, 150))
    level = (_box(apart.double() / 65536) * (1 / 9)).float().long()
    wide = _wide(_equalized(level), 1, "reflect")
    lit = torch.zeros_like(level)
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            lit += _RELIEF[y + 1][x + 1] * _shifted(wide, y, x, 1)
    smooth = (2 * _box(lit.clamp_(0, 255)) + 9) // 18
    return liquid.float() * smooth.float()


def spatter(images: Tensor, strength: Strength, rng: Stream, index: Tensor) -> Tensor:
    """The images behind splashes of water or mud, uint8 (B, 3, H, W)."""
    mean, deviation, sigma, threshold, amount, mud = strength
    noise = rng.at("liquid").normal(index, 1, *images.shape[2:]).double().mul_(deviation).add_(mean)
    layer = unplanes(gaussian(planes(noise), sigma), 1)
    values = images.float().div_(255)
    if mud:
        covered = (layer > threshold).double()
        opaque = unplanes(gaussian(planes(covered), amount), 1).float()
        opaque *= opaque >= 0.8
        colour = torch.tensor(_MUD, dtype=torch.float32, device=images.device).view(1, 3, 1, 1) / 255
        return truncated((values * (1 - opaque)).add_(colour * opaque))
    layer *= layer >= threshold
    # A value above 1 wraps round, as it does in the published code's conversion to bytes.
    bright = relief((layer * 255).to(torch.int32).squeeze(1) & 255).unsqueeze(1)
    # Where no drop is lit, nothing is added; the published code divides zero by zero and blackens the image.
    bright = bright.div_(bright.amax((2, 3), keepdim=True).clamp(min=1)).mul_(amount)
    colour = torch.tensor(_WATER, dtype=torch.float32, device=images.device).view(1, 3, 1, 1) / 255
    return truncated(values.add_(bright * colour))
