"""The strengths of every corruption, severities 1 to 5: the tables that make a benchmark what it is.

Source of every row: the generators published with CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich, 2019,
arXiv:1903.12261; ``ImageNet-C/create_c/make_cifar_c.py`` and ``make_imagenet_c.py`` of hendrycks/robustness,
Apache-2.0). `CIFAR` is made for images of 32 x 32 pixels, `IMAGENET` for 224 x 224. The second is much harsher
under the same names: numbers made with one table say nothing about the other. Ten others have theirs in `bar`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from robusteval.corruptions.bar import CBAR, CIFAR_BAR, IMAGENET_BAR
from robusteval.errors import UserError, unknown

Table = Literal["cifar", "imagenet"]
TableChoice = Literal["auto", "cifar", "imagenet"]
Strength = tuple[float, ...]
Row = tuple[Strength, Strength, Strength, Strength, Strength]

CORRUPTIONS: tuple[str, ...] = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The fifteen of the benchmark, in the order of its publication."""

HELD_OUT: tuple[str, ...] = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Four more for tuning, never part of a corruption score."""

GENERATOR_VERSION = "1"
"""Of the images made here, which records call cifar10-c-gen (only the published files are CIFAR-10-C).

It changes whenever any generated pixel changes.
"""

CIFAR: Mapping[str, Row] = MappingProxyType(
    {
        # standard deviation, on a scale of 0 to 1
        "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
        # photons at full brightness: fewer is worse
        "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
        # share of the values that become 0 or 255
        "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
        # standard deviation relative to the value
        "speckle_noise": ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
        # radius of the disk in pixels, sigma of the 3 x 3 blur that smooths its edge
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        # sigma of the blur before and after, largest displacement, passes
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        # radius (the kernel has 2 * radius + 1 taps), sigma
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        # end of the range of zoom factors, its step
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        # sigma
        "gaussian_blur": ((0.4,), (0.6,), (0.7,), (0.8,), (1,)),
        # mean and standard deviation of the flakes, zoom, threshold, motion radius and sigma, weight of the image
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        # weight of the image, weight of the photograph of ice
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        # weight of the fog, decay of its roughness per scale
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        # added to the value of HSV
        "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
        # mean and standard deviation of the liquid, sigma of its blur, threshold,
        # strength of water or sigma of mud, water (0) or mud (1)
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        # factor of the distance from the channel's mean: less is worse
        "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
        # displacement, sigma of its smoothing, shift of the affine map's three points: shares of the image's side
        "elastic_transform": (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        # factor of the side length
        "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
        # quality of the JPEG file: less is worse
        "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
        # factor of and addition to the saturation of HSV
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    }
)
"""Corruption -> the strengths of severities 1 to 5."""

_ODD = 244 / 224
"""The published code writes 244 where the side is 224."""

IMAGENET: Mapping[str, Row] = MappingProxyType(
    {
        "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
        "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
        "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
        "speckle_noise": ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,)),
        # from a radius of more than 8, the edge is smoothed with 5 x 5 taps
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "gaussian_blur": ((1,), (2,), (3,), (4,), (6,)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        # the photographs are not shrunk
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
        "spatter": (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
        "elastic_transform": (
            (2 * _ODD, 0.7 * _ODD, 0.1 * _ODD),
            (2 * _ODD, 0.08 * _ODD, 0.2 * _ODD),
            (0.05 * _ODD, 0.01 * _ODD, 0.02 * _ODD),
            (0.07 * _ODD, 0.01 * _ODD, 0.02 * _ODD),
            (0.12 * _ODD, 0.01 * _ODD, 0.02 * _ODD),
        ),
        "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
        "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    }
)
"""The same for ImageNet-C; what the numbers mean is said at `CIFAR`.

The two published generators are one recipe. What differs besides the numbers:

- frost: photographs of full size; CIFAR's are shrunk to a fifth.
- defocus_blur: 5 x 5 instead of 3 x 3 taps on disks of a radius above 8.
- glass_blur: displacements of up to 4 pixels, so that a walk meets pixels that it has already changed.
- ImageNet-C is cut to 224 x 224 before, and stored as JPEG files of quality 85 after; neither is done here.

The package imagecorruptions has the numbers of this table, but in places another recipe: snow keeps the upper left of
an enlargement instead of its middle, and is rounded where the published code cuts off; frost draws from six
photographs, all enlarged by a tenth; motion_blur does not round a sum of 16 bits before it cuts off to 8;
elastic_transform has no affine map and strengths of its own; jpeg_compression has another library's colours; pixelate
enlarges to the nearest pixel, which at 224 pixels is the same and at other sizes need not be. The rest is the same:
zoom_blur too, because its enlargements have at most one row too many, which both cut off below.
"""

TABLES: Mapping[Table, Mapping[str, Row]] = MappingProxyType(
    {
        "cifar": MappingProxyType({**CIFAR, **CIFAR_BAR}),
        "imagenet": MappingProxyType({**IMAGENET, **IMAGENET_BAR}),
    }
)
"""The tables by the names that options use, with the ten of the other benchmark."""

NAMES: tuple[str, ...] = tuple(TABLES["cifar"])
"""Every corruption that is made here."""

_WHOLE: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"glass_blur": (1, 2), "spatter": (5,), "jpeg_compression": (0,)}
)
"""Which numbers of a strength are whole: pixels, passes, a kind, a quality."""


def table_for(table: str, height: int, width: int) -> Table:
    """The table that ``auto`` stands for: CIFAR's for images of up to 32 pixels a side, else ImageNet's.

    A table that is named is taken for every size: sizes in pixels stay what they are, shares of a side grow with it.

    >>> table_for("auto", 32, 32), table_for("auto", 32, 33), table_for("cifar", 224, 224)
    ('cifar', 'imagenet', 'cifar')

    Raises:
        UserError: there is no such table.
    """
    if table == "auto":
        return "cifar" if max(height, width) <= 32 else "imagenet"
    for name in TABLES:
        if table == name:
            return name
    raise unknown("corrupt", "table", table, ("auto", *TABLES))


def parts(name: str) -> tuple[str, ...]:
    """The corruptions that a name stands for, in the order of their application.

    >>> parts("fog"), parts("defocus_blur+gaussian_noise")
    (('fog',), ('defocus_blur', 'gaussian_noise'))

    Raises:
        UserError: one is unknown, or comes twice.
    """
    found = tuple(name.split("+"))
    for part in found:
        if part not in NAMES:
            raise unknown("corrupt", "corruption", part, NAMES)
    if len(set(found)) < len(found):
        raise UserError(f"corrupt: {name!r} has a corruption twice; allowed: each once, applied from left to right")
    return found


def sources(table: str, name: str) -> str:
    """What a record says of where a corruption's strengths come from.

    >>> sources("cifar", "fog"), sources("cifar", "ripple"), sources("cifar", "ripple+fog")
    ('cifar', 'cifar-bar', 'cifar+cifar-bar')
    """
    return "+".join(sorted({f"{table}-bar" if part in CBAR else table for part in parts(name)}))


def strength(table: Table, name: str, severity: float) -> Strength:
    """The numbers for one corruption at one severity.

    Severities between the published five are ours: every number lies on the line between its neighbours', and whole
    ones (pixels, passes, the kind of spatter, a quality) are rounded to the nearest, halves upwards.

    >>> strength("cifar", "fog", 3), strength("cifar", "fog", 3.5), strength("cifar", "jpeg_compression", 1.5)
    ((0.75, 2.5), (0.875, 2.25), (73,))

    Args:
        table: which table.
        name: one corruption, not a compound.
        severity: 1 (least) to 5.

    Raises:
        UserError: the severity is outside 1 to 5 or no number; the table does not have the corruption.
    """
    if isinstance(severity, bool) or not isinstance(severity, int | float) or not 1 <= severity <= 5:
        raise UserError(f"corrupt: severity {severity!r} is not one of 1, 2, 3, 4, 5, nor between them")
    if name not in TABLES[table]:
        raise UserError(
            f"corrupt: no strengths of {name} are published for large images (table {table!r}); allowed: table='cifar'"
        )
    row, below = TABLES[table][name], int(severity)
    if severity == below:
        return row[below - 1]
    part = severity - below
    between = [low + (high - low) * part for low, high in zip(row[below - 1], row[below], strict=True)]
    for place in _WHOLE.get(name, ()):
        between[place] = math.floor(between[place] + 0.5)
    return tuple(between)
