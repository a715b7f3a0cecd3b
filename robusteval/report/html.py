"""The report on disk: one page that needs nothing else, tables as CSV, figures as SVG and PNG."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from robusteval.manifest import replace
from robusteval.report import text
from robusteval.report.costs import trained
from robusteval.report.details import charts, flat, link, transfers
from robusteval.report.diagnostics import diagnostics
from robusteval.report.frame import long_table, wide_table
from robusteval.report.page import Section, sections, shade
from robusteval.report.plots import Plot
from robusteval.report.published import Cards
from robusteval.report.rows import Board, Row, board, judged_on
from robusteval.report.style import VARIABLES, drawing, inline, png, svg
from robusteval.report.tables import csv_text
from robusteval.store import StoredRun


def write_report(out: Path, runs: Sequence[StoredRun], *, cards: Cards | None = None) -> Path:
    """The path of ``leaderboard.html``, written with its CSV files and figures into ``out``.

    The same records give the same bytes. Each file appears whole or not at all; the page comes last.

    Args:
        out: the folder; made when missing. Files of the same names are replaced.
        runs: any number of runs.
        cards: what is known about the methods, as plain data.

    Raises:
        UserError: the folder cannot be written.
    """
    shown = board(runs)
    parts, drawn = _drawn(shown, cards or {})
    for part in parts:
        for plot in part.files:
            replace(out / "plots" / f"{plot.name}.svg", drawn[plot.name].encode())
            replace(out / "plots" / f"{plot.name}.png", png(plot.figure))
    replace(out / "leaderboard.csv", csv_text(wide_table(shown)).encode())
    replace(out / "leaderboard-long.csv", csv_text(long_table(runs)).encode())
    page = out / "leaderboard.html"
    replace(page, _page(shown, parts, drawn, cards or {}).encode())
    return page


def page_text(runs: Sequence[StoredRun], *, cards: Cards | None = None) -> str:
    """The page alone; see `write_report`."""
    shown = board(runs)
    return _page(shown, *_drawn(shown, cards or {}), cards or {})


def _drawn(shown: Board, cards: Cards) -> tuple[list[Section], dict[str, str]]:
    """The sections, and their figures as SVG by file name."""
    with drawing():
        parts = sections(shown, cards)
    return parts, {plot.name: svg(plot.figure) for part in parts for plot in part.files}


def _page(shown: Board, parts: Sequence[Section], drawn: Mapping[str, str], cards: Cards) -> str:
    environment = _environment()
    script = _template_text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    runs = [row.stored for row in shown.rows if row.kind == "run" and row.deployed]
    branches: dict[int, list[Row]] = defaultdict(list)
    for row in shown.rows:
        if row.kind == "run":
            branches[id(row.stored)].append(row)

    def figure(part: Section, plot: Plot) -> Markup:
        prefix = f"f{parts.index(part)}-{part.files.index(plot)}"
        words = [str(escape(text.clean(part, limit))) for part, limit in ((plot.title, 100), (plot.description, None))]
        return Markup(inline(drawn[plot.name], prefix, *words))

    return environment.get_template("leaderboard.html").render(
        board=shown,
        sections=parts,
        figure=figure,
        runs=runs,
        rows={key: rows[0] for key, rows in branches.items()},
        branches=branches,
        anchors={id(stored): f"run-{number}" for number, stored in enumerate(runs, 1)},
        cards=cards,
        created=sorted(stored.run.provenance.created[:10] for stored in runs),
        versions=list(dict.fromkeys(stored.run.provenance.robusteval for stored in runs)),
        style=Markup(_template_text("page.css")),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'",
    )


def _template_text(name: str) -> str:
    return (files("robusteval.report") / "templates" / name).read_text("utf-8")


def _environment() -> Environment:
    """Everything is escaped; texts lose the characters that act instead of show."""
    environment = Environment(
        loader=PackageLoader("robusteval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= {
        "short": lambda value, limit=40: text.clean(value, limit),
        "reasons": lambda value: text.clean("; ".join(map(str, value))),
        "percent": text.percent,
        "number": text.number,
        "factor": text.factor,
        "scaled": text.scaled,
        "mebibytes": text.mebibytes,
        "points": text.points,
        "duration": text.duration,
        "flat": flat,
        "ident": id,
        "verified": lambda row: row.stored.run.train_data.verified and all(t.verified for t in judged_on(row.stored)),
    }
    environment.globals |= {
        "span": text.span,
        "quantity": text.quantity,
        "diagnostics": diagnostics,
        "charts": charts,
        "transfers": transfers,
        "shade": shade,
        "link": link,
        "missing": text.MISSING,
        "trained": trained,
        "tests": judged_on,
        "variable": lambda look: VARIABLES[look.colour],
    }
    return environment
