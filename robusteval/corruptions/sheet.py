"""Contact sheets: one photograph under every corruption at every severity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from robusteval.corruptions import adapter
from robusteval.corruptions.contents import generated_name
from robusteval.corruptions.generate import corrupt
from robusteval.corruptions.published import SEVERITIES
from robusteval.corruptions.strengths import GENERATOR_VERSION, HELD_OUT
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.report.figures.style import INK, MUTED, drawing, new_figure

_SIDE = 0.56
"""Inches of a photograph, with its share of the gaps."""

_TALL = 10
"""More rows than these stand side by side in two halves."""

_ENLARGED = 4
"""Pixels across a pixel, so that no viewer smooths them."""


def sheet(images: ImageSet, names: Sequence[str], *, image: int, seed: int) -> Figure:
    """A figure with a row for each corruption: the clean photograph, then severities 1 to 5.

    Args:
        images: the clean images.
        names: corruptions, from the top.
        image: the photograph's place in the set.
        seed: of all draws.

    Raises:
        UserError: no such image.
    """
    if not 0 <= image < len(images.labels):
        raise UserError(f"--image: {image}; allowed: 0 to {len(images.labels) - 1}, the images of {images.name}")
    clean, index = images.images[image : image + 1], torch.tensor([image])
    rows = [
        [clean, *(corrupt(clean, name, severity, seed=seed, index=index) for severity in SEVERITIES)] for name in names
    ]
    halves = 1 if len(names) <= _TALL else 2
    tall = -(-len(names) // halves)
    foreign = any(name in adapter.NAMES for name in names)
    label, top, bottom = max(1.2, 0.065 * max(map(len, names)) + 0.09), 0.62, 0.7 if foreign else 0.3
    block = label + _SIDE * (1 + len(SEVERITIES))
    with drawing():
        figure = new_figure(width=halves * block + 0.25, height=top + bottom + tall * _SIDE)
        width, height = figure.get_size_inches()
        for half in range(halves):
            part = slice(half * tall, (half + 1) * tall)
            high = len(rows[part]) * _SIDE
            place = (half * block + label, height - top - high, block - label, high)
            axes = figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
            _draw(axes, names[part], rows[part])
        what = images.classes[int(images.labels[image])].replace("_", " ")
        figure.text(
            0.1 / width,
            1 - 0.13 / height,
            f"{' and '.join(_titles(images.name, names))}: corruption by severity",
            color=INK,
            va="top",
            weight="bold",
            fontsize=9.5,
        )
        note = f"Image {image} of {images.name} {images.split} ({what}), generator {GENERATOR_VERSION}, seed {seed}."
        if {*names} & {*HELD_OUT}:
            note += " Grey names: held out, never part of a score."
        if foreign:
            warning = f"{adapter.NOTE} ({adapter.generator()}).".replace(": ", ":\n")
            figure.text(0.1 / width, 0.3 / height, warning, color=INK, va="bottom", fontsize=6.5)
        figure.text(0.1 / width, 0.1 / height, note, color=MUTED, va="bottom", fontsize=7.5)
    return figure


def _titles(dataset: str, names: Sequence[str]) -> list[str]:
    """What the images are called, each name once."""
    called = [adapter.PREFIX.strip(":") if name in adapter.NAMES else generated_name(dataset, [name]) for name in names]
    return list(dict.fromkeys(called))


def _draw(axes: Axes, names: Sequence[str], rows: Sequence[Sequence[Tensor]]) -> None:
    """Draws one block of photographs with the names of its rows and columns."""
    axes.imshow(_mosaic(rows), interpolation="none", extent=(0, 1 + len(SEVERITIES), len(names), 0), aspect="auto")
    axes.set_yticks([row + 0.5 for row in range(len(names))], [name.replace("_", " ") for name in names])
    axes.set_xticks([column + 0.5 for column in range(1 + len(SEVERITIES))], ["clean", *map(str, SEVERITIES)])
    axes.tick_params(length=0, labelcolor=INK, labeltop=True, labelbottom=False, labelsize=8)
    for name, label in zip(names, axes.get_yticklabels(), strict=True):
        label.set_color(MUTED if name in HELD_OUT else INK)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _mosaic(rows: Sequence[Sequence[Tensor]]) -> NDArray[np.uint8]:
    """All photographs in one picture, white between them."""
    lines = []
    for row in rows:
        large = [one[0].permute(1, 2, 0).numpy().repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1) for one in row]
        gap = max(large[0].shape[0] // 32, 1)
        framed = [np.pad(one, ((gap, gap), (gap, gap), (0, 0)), constant_values=255) for one in large]
        lines.append(np.concatenate(framed, axis=1))
    return np.concatenate(lines, axis=0)
