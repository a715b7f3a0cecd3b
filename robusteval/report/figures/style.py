"""How figures look, and figures as bytes: the same figure gives the same bytes.

Colours are Okabe and Ito's, which people with any colour vision tell apart; a marker says the same again.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robusteval.report.figures.compact import compacted

INK, MUTED, GRID, PAPER = "#1b1f24", "#666e79", "#e2e5e9", "#ffffff"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


class Medium(NamedTuple):
    """What a figure is drawn for.

    Attributes:
        width: of a figure, inches.
        scale: of margins and heights that suit the text; 1 for the page.
        text, small: sizes of names and of tick labels, points.
        titled: whether figures have headings; in a paper the caption is one.
        named: so many names are written beside points; more would hide the data.
    """

    width: float
    scale: float
    text: float
    small: float
    titled: bool
    named: int


PAGE = Medium(5.2, 1.0, 8.5, 8.0, titled=True, named=40)
"""A width at which the text is readable both in a page column and on a telephone."""
COLUMN = Medium(3.25, 0.84, 7.2, 7.0, titled=False, named=10)
"""A column of the field's two-column papers (6.75 inches of text), whose smallest type is about 7 points."""

_MEDIUM: ContextVar[Medium] = ContextVar("medium", default=PAGE)


def medium() -> Medium:
    """What figures are drawn for at the moment: see `drawing`."""
    return _MEDIUM.get()


def _style(on: Medium) -> dict[Any, Any]:
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": on.text,
        "axes.labelsize": on.text,
        "axes.titlesize": on.text + 1,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 20,
        "xtick.labelsize": on.small,
        "ytick.labelsize": on.small,
        "legend.fontsize": on.small,
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
        "pdf.fonttype": 42,  # TrueType: what conferences ask for, and text that can be searched
    }


_FONT = "'DejaVu Sans'"


@contextmanager
def drawing(on: Medium = PAGE) -> Iterator[None]:
    """A context in which figures are made: the house style, whatever the user's matplotlib is set to."""
    token = _MEDIUM.set(on)
    try:
        with mpl.rc_context(), warnings.catch_warnings():
            mpl.rcdefaults()
            mpl.rcParams.update(_style(on))
            # Names may be in any script; a box in a figure is no reason to fail.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
            yield
    finally:
        _MEDIUM.reset(token)


def new_figure(width: float | None = None, height: float = 4.1) -> Figure:
    """An empty figure with a canvas that can measure text; in inches, as wide as the medium unless told."""
    figure = Figure(figsize=(width or medium().width, height))
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


def pdf(figure: Figure) -> bytes:
    """The figure as PDF, without date or version, its fonts embedded as TrueType."""
    file = io.BytesIO()
    with drawing():
        figure.savefig(
            file, format="pdf", metadata={"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}
        )
    return file.getvalue()


VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", PAPER: "paper"} | {
    colour: f"c{index}" for index, colour in enumerate(PALETTE) if colour != INK
}
"""Colour -> the page's variable for it."""


def inline(document: str, prefix: str, title: str, description: str = "") -> str:
    """An SVG document as a small element of a page: the page's fonts, colours that follow light and dark.

    Args:
        document: from `svg`; the title in it is not trusted.
        prefix: makes its ids and its styles differ from those of other figures; letters, digits and hyphens, first a
            letter.
        title: escaped already, what a screen reader says.
        description: escaped already, what it says then.
    """
    return compacted(document, prefix, _themed, title=title, description=description)


def _themed(style: str) -> str:
    """A style that follows the page's theme."""
    style = style.replace(f"{_FONT}, Verdana, sans-serif", "var(--sans)")
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, f"var(--{variable})")
    return style


Better = Literal["higher", "lower", ""]


def title(axes: Axes, heading: str, *, x: str, y: str, better: tuple[Better, Better] = ("", "")) -> None:
    """Writes the heading and the names of both axes; that of the y axis lies under the heading, to be read level.

    Args:
        axes: what they are written on.
        heading: of the figure; left out where the medium has none.
        x: what the axis shows, with its unit.
        y: likewise.
        better: which values are, along x and along y.
    """
    if medium().titled:
        axes.set_title(heading)
        x, y = (name + (f" ({what} is better)" if what else "") for name, what in zip((x, y), better, strict=True))
    axes.set_xlabel(x)
    axes.set_ylabel(y, rotation=0, horizontalalignment="left", verticalalignment="bottom", color=MUTED)
    axes.yaxis.set_label_coords(0.0, 1.02)
