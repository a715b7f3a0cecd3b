"""How figures look, and figures as bytes: the same figure gives the same bytes.

Colours are Okabe and Ito's, which people with any colour vision tell apart; a marker says the same again.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b1f24", "#666e79", "#e2e5e9", "#ffffff"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
SIZE = (5.2, 4.1)
"""Inches; a width at which the text is readable both in a page column and on a telephone."""

_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 20,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "robusteval",
}

_FONT = "'DejaVu Sans'"


@contextmanager
def drawing() -> Iterator[None]:
    """A context in which figures are made: the house style, whatever the user's matplotlib is set to."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        # Names may be in any script; a box in a figure is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def new_figure(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    """An empty figure with a canvas that can measure text."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def svg(figure: Figure) -> str:
    """The figure as an SVG document, without date or version."""
    file = io.StringIO()
    with drawing():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    # Where DejaVu is not installed Verdana is the nearest in width.
    return re.sub(
        r"<text style=[^>]*>", lambda tag: tag[0].replace(_FONT, f"{_FONT}, Verdana, sans-serif"), file.getvalue()
    )


def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as PNG, without date or version."""
    file = io.BytesIO()
    with drawing():
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", PAPER: "paper"} | {
    colour: f"c{index}" for index, colour in enumerate(PALETTE) if colour != INK
}
"""Colour -> the page's variable for it."""


def inline(document: str, prefix: str, title: str, description: str = "") -> str:
    """An SVG document as an element of a page: its own ids, the page's fonts, colours that follow light and dark.

    Args:
        document: from `svg`; the title in it is not trusted.
        prefix: makes its ids differ from those of other figures; letters, digits and hyphens.
        title: escaped already, what a screen reader says.
        description: escaped already, what it says then.
    """
    element = re.sub(r"<metadata>.*?</metadata>", "", document[document.index("<svg") :], flags=re.DOTALL)
    # Only inside tags: a name in a text node may look like a colour or an id.
    head, body = re.sub(r"<[^>]*>", lambda tag: _adapted(tag[0], prefix), element).split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    ids = f"{prefix}-title" + (f" {prefix}-desc" if description else "")
    words = f'<title id="{prefix}-title">{title}</title>'
    words += f'<desc id="{prefix}-desc">{description}</desc>' if description else ""
    return f'{head} role="img" aria-labelledby="{ids}">{words}{body}'


def _adapted(tag: str, prefix: str) -> str:
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    tag = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", tag)
    tag = tag.replace(f"{_FONT}, Verdana, sans-serif", "var(--sans)")
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour, f"var(--{variable})")
    return tag


def title(axes: Axes, heading: str, *, x: str, y: str) -> None:
    """Writes the heading and the names of both axes; that of the y axis lies under the heading, to be read level."""
    axes.set_title(heading)
    axes.set_xlabel(x)
    axes.set_ylabel(y, rotation=0, horizontalalignment="left", verticalalignment="bottom", color=MUTED)
    axes.yaxis.set_label_coords(0.0, 1.02)
