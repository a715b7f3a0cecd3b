"""CIFAR-10-C-bar: ten more corruptions and their strengths, severities 1 to 5.

Source: Mintun, Kirillov and Xie (2021, arXiv:2102.11273), who chose them out of thirty to be unlike those of CIFAR-10-C
and of ImageNet-C; ``imagenet_c_bar/cifar10_c_bar.csv`` and ``imagenet_c_bar.csv`` of
facebookresearch/augmentation-corruption (MIT). A strength is one number, as published: a level on a scale from 0 to 10.
What a level means in pixels and grey levels is said where the corruption is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robusteval.corruptions.strengths import Row

CBAR: tuple[str, ...] = (
    "blue_noise_sample",
    "checkerboard_cutout",
    "inverse_sparkles",
    "pinch_and_twirl",
    "ripple",
    "brownish_noise",
    "circular_motion_blur",
    "lines",
    "sparkles",
    "transverse_chromatic_abberation",  # spelt as published
)
"""The ten, in the order of their publication; none is among the fifteen of the benchmark or the four held out."""

CIFAR_BAR: Mapping[str, Row] = MappingProxyType(
    {
        # threshold of the noise: 0.3 of the level, less 2.5; pixels below become black
        "blue_noise_sample": ((0.7,), (1.4,), (2.1,), (3.5,), (4.2,)),
        # share of the black squares of a board that become grey: a tenth of the level
        "checkerboard_cutout": ((1,), (2,), (3,), (4,), (5,)),
        # exponent of the light's fall from its middle: 0.13 of the level
        "inverse_sparkles": ((1,), (1.5,), (2.5,), (4.5,), (5,)),
        # twirl of 9 degrees, and pinch of 0.04 beyond 0.1, for every level
        "pinch_and_twirl": ((5.5,), (6,), (6.5,), (8.5,), (10,)),
        # amplitude: 1/400 of the side for every level
        "ripple": ((5.5,), (6,), (6.5,), (7.5,), (8,)),
        # standard deviation: 6.4 grey levels for every level
        "brownish_noise": ((2.5,), (4,), (5.5,), (6.5,), (7,)),
        # largest angle: 1.5 degrees for every level
        "circular_motion_blur": ((2.8,), (3.6,), (4.4,), (5.2,), (6,)),
        # lines: a tenth of the side's pixels for every level, cut off
        "lines": ((0.5,), (1,), (1.5,), (2,), (2.5,)),
        # radius of five lights: 1/100 of the side for every level
        "sparkles": ((0.7,), (3.5,), (5.6,), (6.3,), (7,)),
        # enlargement of one channel: 0.05 for every level, of another half of that
        "transverse_chromatic_abberation": ((1,), (2,), (5,), (9,), (10,)),
    }
)
"""Corruption -> the levels of severities 1 to 5."""

IMAGENET_BAR: Mapping[str, Row] = MappingProxyType(
    {
        "blue_noise_sample": ((0.8,), (1.6,), (2.4,), (4,), (5.6,)),
        "checkerboard_cutout": ((2,), (3,), (4,), (5,), (6,)),
        "inverse_sparkles": ((1,), (2,), (4,), (9,), (10,)),
        "brownish_noise": ((1,), (2,), (3,), (4,), (5,)),
        "sparkles": ((1,), (2,), (3,), (5,), (6,)),
    }
)
"""The same for ImageNet-C-bar, which has these five and five that CIFAR-10-C-bar has not."""
