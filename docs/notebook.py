"""The notebook, executed cell by cell in this process, and as a page."""

from __future__ import annotations

import ast
import io
import json
import os
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib import pyplot as plt


class Cell(NamedTuple):
    """A cell and what it printed.

    Attributes:
        code: whether it is Python; else it is Markdown.
        source: its text.
        printed: what it wrote to standard output, and the value of its last line.
        figures: numbers of the figures it drew.
    """

    code: bool
    source: str
    printed: str
    figures: tuple[int, ...]


class Shown(NamedTuple):
    """An executed notebook; the figures are SVG."""

    cells: list[Cell]
    figures: list[str]


def executed(path: Path) -> Shown:
    """The notebook's cells with what they print and draw, executed in order in an empty folder.

    Raises:
        Exception: whatever a cell raises, with the cell's number in a note.
    """
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "84"  # of the tables that rich prints
    try:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            return _executed(json.loads(path.read_text(encoding="utf-8"))["cells"])
    finally:
        plt.close("all")
        matplotlib.use(backend)
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def _executed(cells: list[dict[str, Any]]) -> Shown:
    space: dict[str, Any] = {"__name__": "tour"}
    done: list[Cell] = []
    figures: list[str] = []
    for number, cell in enumerate(cells):
        source, code = "".join(cell["source"]), cell["cell_type"] == "code"
        printed = io.StringIO()
        if code:
            try:
                with redirect_stdout(printed):
                    _run(source, space)
            except Exception as error:
                error.add_note(f"in cell {number} of the notebook")
                raise
        first = len(figures)
        figures += _drawn()
        done.append(Cell(code, source, printed.getvalue(), tuple(range(first, len(figures)))))
    return Shown(done, figures)


def _run(source: str, space: dict[str, Any]) -> None:
    """Executes a cell; an expression at its end is printed, as a notebook would show it."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), space)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), space)
        if value is not None and not source.rstrip().endswith(";"):
            print(value)  # noqa: T201 - into the cell's output


def _drawn() -> list[str]:
    """The open figures as SVG, which are closed then."""
    drawn = []
    for number in plt.get_fignums():
        written = io.StringIO()
        plt.figure(number).savefig(written, format="svg", bbox_inches="tight")
        drawn.append(written.getvalue())
    plt.close("all")
    return drawn


def page(shown: Shown, *, plots: str) -> str:
    """The notebook as Markdown, with links to the figures in a folder."""
    parts = ["[Download this page as a notebook](tour.ipynb)"]
    for cell in shown.cells:
        parts.append(f"```python\n{cell.source}\n```" if cell.code else cell.source)
        if cell.printed.strip():
            parts.append(f"```text\n{cell.printed.rstrip()}\n```")
        parts += [f"![What the cell above draws]({plots}/{number}.svg)" for number in cell.figures]
    title, *rest = parts[1:]
    return "\n\n".join([title, parts[0], *rest])
