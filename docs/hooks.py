"""What the builder of the site calls: adds the pages that come from the package and from the notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import generated
import notebook
from properdocs.structure.files import File

PLOTS = "tour-figures"
"""The folder of the notebook's figures in the site."""


def on_files(files: Any, config: Any) -> Any:
    """The files of the site, with those that are made here."""
    shown = notebook.executed(Path(config.docs_dir) / "tour.ipynb")
    pages = generated.generated() | {"tour.md": notebook.page(shown, plots=PLOTS)}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for number, figure in enumerate(shown.figures):
        files.append(File.generated(config, f"{PLOTS}/{number}.svg", content=figure))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page's Markdown with the tables of options that it asks for."""
    return generated.filled(markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """A page's HTML; blocks of code, which scroll sideways, can be reached with the keyboard."""
    return html.replace("<pre>", '<pre tabindex="0">')


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The whole page; the theme's bar at the top is a landmark, by which readers of the screen find it."""
    return output.replace('<div class="navbar fixed-top', '<div role="navigation" class="navbar fixed-top')
