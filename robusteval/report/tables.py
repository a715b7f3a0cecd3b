"""The leaderboard as CSV and for the terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

from robusteval.records import Run
from robusteval.report.costs import trained
from robusteval.report.notes import notes
from robusteval.report.rows import Row, board, failures
from robusteval.report.scores import Score
from robusteval.report.text import MISSING, clean, duration, factor, number, percent, span
from robusteval.store import StoredRun

TAUGHT = "\N{DAGGER}"
"""The mark on a cost that leaves out a teacher's."""


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as CSV: full precision, empty where missing, texts guarded against spreadsheets that compute them."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_cell(name) for name in frame.columns])
    plain = frame.astype(object).itertuples(index=False, name=None)
    writer.writerows([_cell(value) for value in line] for line in plain)
    return file.getvalue()


def _cell(value: object) -> str:
    """A value as a CSV cell; a text that a spreadsheet would take for a formula gets an apostrophe in front.

    >>> _cell("=cmd()"), _cell(-0.5), _cell(None), _cell(True)
    ("'=cmd()", '-0.5', '', 'true')
    """
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = clean(value)  # no tab or line break survives it, so only spaces can hide the first character
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text


def terminal_table(runs: Sequence[StoredRun]) -> Table:
    """The leaderboard for a terminal: percent, the interval under it; failures and notes below the table.

    Of several seeds only their mean is shown, with its standard deviation.
    """
    shown_board = board(runs)
    places = {(group.head.stored.run.dataset, group.head.stored.run.architecture) for group in shown_board.groups}
    shown = [column for column in shown_board.columns if column.kind != "error"]
    shorts = Counter(column.short for column in shown)
    title = Text("Leaderboard", style="bold")
    if len(places) == 1:
        title.append(f"  {' / '.join(clean(part, 40) for part in next(iter(places)))}", style="not bold dim")
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, padding=(0, 2, 0, 0))
    table.pad_edge = False
    names = [column.short if shorts[column.short] == 1 else column.label for column in shown]
    high = any(" " in name for name in names)
    table.add_column(_heading("Method", high=high), overflow="fold", min_width=8)
    for name in (*names, "Passes", "FLOPs", "Training"):
        table.add_column(_heading(name, high=high), justify="right", no_wrap=True)
    for group in shown_board.groups:
        for row in group.speakers:
            scores = [_score(row.scores.get(one.key), attack=one.kind == "attack") for one in shown]
            table.add_row(_name(row, placed=len(places) > 1), *scores, *_cost(row), style="" if row.deployed else "dim")
    taught = any(row.cost is not None and row.cost.teacher is not None for row in shown_board.rows)
    table.caption = _caption(runs, taught=taught)
    return table


def _heading(name: str, *, high: bool) -> Text:
    """A heading on two lines, or on the lower one of two; the cells below it stand at the top of theirs."""
    return Text(name.replace(" ", "\n", 1) if " " in name or not high else f"\n{name}")


def _name(row: Row, *, placed: bool) -> Text:
    run = row.stored.run
    if not row.deployed:
        return Text(f"  {clean(row.branch, 16)}")
    name = Text(clean(run.label, 24), style="bold")
    if placed:
        name.append(f" {clean(run.dataset, 16)} {clean(run.architecture, 16)}", style="not bold dim")
    if row.kind == "mean":
        name.append(f" {len(row.seeds)} seeds", style="not bold dim")
    if run.status != "done":
        name.append(f" {run.status}", style="not bold red")
    return name


def _score(score: Score | None, *, attack: bool) -> Text:
    if score is None:
        return Text(MISSING)
    spread = span(score.low, score.high) if score.sd is None else f"sd {percent(score.sd)}"
    shown = Text(percent(score.value), justify="right")
    if score.trust == "flagged":
        shown.append("!", style="bold red")
    elif attack and score.value is not None:
        shown.append({"ok": "\N{CHECK MARK}", "unchecked": "?"}[score.trust], style="dim")
    return shown.append(f"\n{spread}", style="dim") if spread else shown


def _cost(row: Row) -> list[Text]:
    if not row.deployed:
        return [Text("")] * 3
    if row.cost is None or not trained(row.stored.run):
        return [Text(MISSING)] * 3
    cost = row.cost
    flops = factor(cost.flops_relative) + (TAUGHT if cost.teacher else "")
    texts = (number(cost.backward_total), flops, duration(cost.wall_s.get("train")))
    return [Text(text) for text in texts]


def _caption(runs: Sequence[StoredRun], *, taught: bool) -> Text:
    lines = [
        "Percent; under it the 95 % interval, or the standard deviation (sd) over seeds. Indented: branches that "
        "are not deployed. Passes: backward, per training image. FLOPs: relative to standard. Attacks: \N{CHECK MARK} "
        "checked, ! doubtful, ? unchecked."
    ]
    if taught:
        lines.append(f"{TAUGHT} Its own cost: it learns from a teacher, whose training is not in this row.")
    lines += [f"{stored.run.status}: {_who(stored.run)}: {clean(reason, 300)}" for stored, reason in failures(runs)]
    lines += [f"{note.topic}: {note.text}" for note in notes(runs)]
    return Text("\n".join(lines), style="dim not italic")


def _who(run: Run) -> str:
    return f"{clean(run.label, 40)}, seed {run.seed}"
