"""The strengths of every corruption, severities 1 to 5: the table that makes a benchmark what it is.

Source of every row: the generator published with CIFAR-10-C (Hendrycks and Dietterich, 2019,
arXiv:1903.12261; ``ImageNet-C/create_c/make_cifar_c.py`` of hendrycks/robustness, Apache-2.0).
They are made for images of 32 x 32 pixels. ImageNet-C has other, much harsher strengths under the same
names: numbers made with one table say nothing about the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

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
