"""The report on disk: one page that needs nothing else, tables in several formats, figures as SVG, PNG and PDF."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from robusteval.collector import paused
from robusteval.manifest import replace
from robusteval.report import text
from robusteval.report.board.costs import trained
from robusteval.report.board.leaderboard import Leaderboard, leaderboard
from robusteval.report.board.published import Cards
from robusteval.report.board.rows import Board, Row
from robusteval.report.board.tagged import label
from robusteval.report.figures.plots import PRINTED, Plot, paper
from robusteval.report.figures.style import drawing, inline, png, svg
from robusteval.report.files.frame import long_table, wide_table
from robusteval.report.files.latex import latex
from robusteval.report.files.leftovers import renew
from robusteval.report.files.listing import listing
from robusteval.report.files.markdown import markdown
from robusteval.report.files.tables import csv_text
from robusteval.report.page.attacks import attacks
from robusteval.report.page.details import charts, flat, link, transfers
from robusteval.report.page.diagnostics import diagnostics
from robusteval.report.page.embedded import embedded
from robusteval.report.page.lines import lines
from robusteval.report.page.markup import facts, heat_cells, shade
from robusteval.report.page.sections import Section, sections
from robusteval.report.page.severities import severities
from robusteval.report.page.shared import own, settings, shared
from robusteval.store import StoredRun


@paused()
def write_report(out: Path, runs: Sequence[StoredRun] | Leaderboard, *, cards: Cards | None = None) -> Path:
    """The path of ``leaderboard.html``, written with its tables and figures into ``out``.

    The same records give the same bytes. Each file appears whole or not at all; the page comes last.

    Args:
        out: the folder; made when missing. Files of the same names are replaced; figures that an earlier report
            wrote there and this one lacks are removed.
        runs: any number of runs, or their leaderboard.
        cards: what is known about the methods, as plain data.

    Raises:
        UserError: the folder cannot be written.
    """
    found = leaderboard(runs)
    parts, drawn = _drawn(found, cards or {})
    renew(out / "plots", {name: data for part in parts for name, data in _files(part, drawn)})
    replace(out / "leaderboard.csv", csv_text(wide_table(found)).encode())
    replace(out / "leaderboard-long.csv", csv_text(long_table(found.runs)).encode())
    replace(out / "leaderboard.md", markdown(found).encode())
    replace(out / "leaderboard.tex", latex(found).encode())
    replace(out / "leaderboard.json", listing(found).encode())
    page = out / "leaderboard.html"
    replace(page, _page(found.board, parts, drawn, cards or {}).encode())
    return page


def page_text(runs: Sequence[StoredRun], *, cards: Cards | None = None) -> str:
    """The page alone; see `write_report`."""
    found = leaderboard(runs)
    return _page(found.board, *_drawn(found, cards or {}), cards or {})


def _files(part: Section, drawn: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The figures by file name, in every format; of a crowd, which no paper prints, in the page's only."""
    for plot in part.files:
        yield f"{plot.name}.svg", drawn[plot.name].encode()
        if len(part.groups) <= PRINTED:
            yield f"{plot.name}.png", png(plot.figure)
            yield f"{plot.name}.pdf", paper(plot)


def _drawn(found: Leaderboard, cards: Cards) -> tuple[list[Section], dict[str, str]]:
    """The sections, and their figures as SVG by file name."""
    with drawing():
        parts = sections(found, cards)
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

    found = [settings(stored) for stored in runs]
    common, checks = shared(found), _checks(runs)
    labels = {id(stored): label(stored) for stored in runs}

    def figure(part: Section, plot: Plot) -> Markup:
        prefix = f"f{parts.index(part)}-{part.files.index(plot)}"
        words = [str(escape(text.clean(part, limit))) for part, limit in ((plot.title, 100), (plot.description, None))]
        return Markup(inline(drawn[plot.name], prefix, *words))

    page = environment.get_template("leaderboard.html").render(
        board=shown,
        sections=parts,
        figure=figure,
        runs=runs,
        rows={key: rows[0] for key, rows in branches.items()},
        branches=branches,
        anchors={id(stored): f"run-{number}" for number, stored in enumerate(runs, 1)},
        cards=_cards(environment, runs, cards),
        data=Markup(embedded(parts, cards, labels)),
        labels=labels,
        settings={id(stored): own(one, common) for stored, one in zip(runs, found, strict=True)},
        common=common,
        checks={"names": list(checks), "texts": checks},
        created=sorted(stored.run.provenance.created[:10] for stored in runs),
        versions=list(dict.fromkeys(stored.run.provenance.robusteval for stored in runs)),
        style=Markup(_template_text("page.css")),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
    )
    body, mark, scripts = page.partition("<script")
    # A browser keeps white space between elements as elements of their own.
    return re.sub(r">\n\s*<", "><", body) + mark + scripts


def _checks(runs: Sequence[StoredRun]) -> dict[str, list[str]]:
    """Name -> why it matters, of every check that has something to say about a number."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for stored in runs:
        for task in stored.tasks:
            for m in task.measurements:
                for reason in m.reasons:
                    found[reason.name][reason.text] = None
    return {name: list(found[name]) for name in sorted(found)}


def _cards(environment: Environment, runs: Sequence[StoredRun], cards: Cards) -> dict[str, Markup]:
    """Method -> what the details of its runs say about it."""
    template = environment.get_template("card.html")
    methods = {stored.run.method for stored in runs}
    return {name: Markup(template.render(card=cards[name]) if name in cards else "") for name in methods}


def _template_text(name: str) -> str:
    return (files("robusteval.report.page") / "templates" / name).read_text("utf-8")


def _environment() -> Environment:
    """Everything is escaped; texts lose the characters that act instead of show."""
    environment = Environment(
        loader=PackageLoader("robusteval.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
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
    }
    environment.globals |= {
        "span": text.span,
        "quantity": text.quantity,
        "diagnostics": diagnostics,
        "charts": charts,
        "transfers": transfers,
        "shade": shade,
        "heat_cells": heat_cells,
        "attacks": attacks,
        "severities": severities,
        "lines": lines,
        "facts": facts,
        "link": link,
        "missing": text.MISSING,
        "trained": trained,
    }
    return environment
