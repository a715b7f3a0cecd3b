"""The leaderboard as CSV and for the terminal."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from textwrap import wrap
from typing import Any, Literal, NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from robusteval.records import Run
from robusteval.report.board.columns import Column
from robusteval.report.board.costs import trained
from robusteval.report.board.leaderboard import Leaderboard, doubt, leaderboard, ranks
from robusteval.report.board.pairs import Place
from robusteval.report.board.ranking import Mark
from robusteval.report.board.rows import Row
from robusteval.report.board.scores import Score
from robusteval.report.text import MISSING, clean, duration, factor, number, percent, span
from robusteval.store import StoredRun

TAUGHT = "\N{DAGGER}"
"""The mark on a cost that leaves out a teacher's."""

COSTS = ("Passes", "FLOPs", "Training")
GAP = 2
"""Spaces between columns of the terminal's table."""
NAME = 12
"""Names of methods that are longer are folded before a score has no room."""
HEADING = 10
"""So wide may a heading be in a terminal; names of ensembles go on in further lines."""


def csv_text(table: Mapping[str, Sequence[Any]]) -> str:
    """The columns as CSV: full precision, empty where missing, texts guarded against spreadsheets that compute them.

    Args:
        table: columns by name; one of integers and other numbers is all written as the latter.
    """
    written = io.StringIO(newline="")
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(map(_cell, table))
    lines.writerows(zip(*map(_cells, table.values()), strict=True))
    return written.getvalue()


def _cells(column: Sequence[Any]) -> Sequence[object]:
    """A column's values as the module csv is to have them; it writes numbers in full and None as nothing."""
    kinds = set(map(type, column)) - {type(None)}
    if kinds == {int, float}:
        return [value if value is None else float(value) for value in column]
    if kinds <= {int, float}:
        return column
    if len(kinds) > 1:
        return list(map(_cell, column))
    known = {value: _cell(value) for value in set(column)}  # most texts are repeated
    return list(map(known.__getitem__, column))


def _cell(value: object) -> str:
    """A value as a CSV cell; a text that a spreadsheet would take for a formula gets an apostrophe in front.

    >>> _cell("=cmd()"), _cell(-0.5), _cell(True), _cell(None)
    ("'=cmd()", '-0.5', 'true', '')
    >>> _cell(chr(0xFEFF) + "=1")[0], _cell(chr(0xFF1D) + "1")[0]
    ("'", "'")
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(float(value) if isinstance(value, float) else value)  # also a NumPy scalar as a plain number
    text = clean(str(value))  # no tab or line break survives it, so only what is invisible can hide the first character
    first = next((one for one in text if unicodedata.category(one) not in ("Zs", "Cf")), "")
    return f"'{text}" if unicodedata.normalize("NFKC", first) in ("=", "+", "-", "@") else text


class _Strip(NamedTuple):
    """A column of the terminal's table: its heading's lines, and a cell for each row."""

    heading: tuple[str, ...]
    cells: list[Text]

    @property
    def width(self) -> int:
        """Characters, with the gap to the next column."""
        lines = [*self.heading, *(line for cell in self.cells for line in cell.plain.split("\n"))]
        return GAP + max(map(cell_len, lines))


def terminal_table(runs: Sequence[StoredRun] | Leaderboard, *, width: int = 80) -> Table:
    """The leaderboard for a terminal: percent, the interval under it; failures and notes below the table.

    Under a method's name are the ranks that it may have. Of several seeds only their mean is shown, with its standard
    deviation.

    Args:
        runs: any number of runs, or their leaderboard.
        width: of the terminal, in characters; scores for which it has no room are named below the table.
    """
    found = leaderboard(runs)
    shown_board, parts = found.board, found.parts
    ranked = {id(one.head): part.ranking.place(one.head) for part in parts for one in part.groups}
    marks = {cell: mark for part in parts for cell, mark in part.ranking.marks.items()}
    places = {(group.head.stored.run.dataset, group.head.stored.run.architecture) for group in shown_board.groups}
    shown = [column for column in shown_board.columns if column.kind != "error"]
    shorts = Counter(column.short for column in shown)
    title = Text("Leaderboard", style="bold")
    if len(places) == 1:
        title.append(f"  {' / '.join(clean(part, 40) for part in next(iter(places)))}", style="not bold dim")
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, padding=(0, GAP, 0, 0))
    table.pad_edge = False
    names = [column.short if shorts[column.short] == 1 else column.label for column in shown]
    rows = [row for group in shown_board.groups for row in group.speakers]
    who = _Strip(("Method",), [_name(row, ranked.get(id(row)), placed=len(places) > 1) for row in rows])
    scores = [
        _Strip(
            tuple(wrap(clean(name), HEADING)),
            [_score(row.scores.get(one.key), one, marks.get((id(row), one.key))) for row in rows],
        )
        for name, one in zip(names, shown, strict=True)
    ]
    costs = [_Strip((name,), [_cost(row)[name] for row in rows]) for name in COSTS]
    used = accumulate(
        (strip.width for strip in scores), initial=min(who.width, NAME) + sum(strip.width for strip in costs)
    )
    fitting = max(sum(end <= width + GAP for end in used) - 1, 1)
    strips = [who, *scores[:fitting], *costs]
    high = max(len(strip.heading) for strip in strips)
    for strip in strips:
        lines = "\n" * (high - len(strip.heading)) + "\n".join(strip.heading)
        justify: Literal["left", "right"] = "left" if strip is who else "right"
        table.add_column(Text(lines), justify=justify, no_wrap=strip is not who, overflow="fold")
    for row, *cells in zip(rows, *(strip.cells for strip in strips), strict=True):
        table.add_row(*cells, style="" if row.deployed else "dim")
    taught = any(row.cost is not None and row.cost.teacher is not None for row in shown_board.rows)
    table.caption = _caption(found, names[fitting:], taught=taught)
    return table


def _name(row: Row, rank: Place | None, *, placed: bool) -> Text:
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
    if rank is not None:
        name.append(f"\nrank {ranks(rank)}", style="not bold dim")
    return name


def _score(score: Score | None, column: Column, mark: Mark | None) -> Text:
    if score is None:
        return Text(MISSING)
    spread = [span(score.low, score.high), "" if score.sd is None else f"sd {percent(score.sd)}"]
    shown = Text(justify="right").append(
        percent(score.value), style={"best": "bold", "tied": "underline"}.get(mark or "")
    )
    if (sign := doubt(score, column)) != "":
        shown.append(sign, style="bold red" if sign == "!" else "dim")
    elif column.kind == "attack" and score.value is not None:
        shown.append("\N{CHECK MARK}", style="dim")
    for one in spread:
        shown.append(f"\n{one}" if one else "", style="dim")
    return shown


def _cost(row: Row) -> dict[str, Text]:
    if not row.deployed:
        return dict.fromkeys(COSTS, Text(""))
    if row.cost is None or not trained(row.stored.run):
        return dict.fromkeys(COSTS, Text(MISSING))
    cost = row.cost
    flops = factor(cost.flops_relative) + (TAUGHT if cost.teacher else "")
    texts = (number(cost.backward_total), flops, duration(cost.wall_s.get("train")))
    return dict(zip(COSTS, map(Text, texts), strict=True))


def _caption(found: Leaderboard, left_out: Sequence[str], *, taught: bool) -> Text:
    lines = [
        "Percent; under it the 95 % interval, and the standard deviation (sd) over seeds. Indented: branches that "
        "are not deployed. Passes: backward, per training image. FLOPs: relative to standard. Attacks: \N{CHECK MARK} "
        "checked, ! doubtful, ? unchecked."
    ]
    if left_out:
        lines.append(f"No room for {', '.join(map(clean, left_out))}: in a wider terminal, or in the report.")
    ranked = {part.ranked_by.label: None for part in found.parts if part.ranked_by and part.ranking.places}
    if ranked:
        lines.append(
            f"Rank: by {' and '.join(map(clean, ranked))}, as far as paired tests bear (Holm, 95 %). Bold: the best "
            "of those on the same images; underlined: not significantly worse than any."
        )
    if taught:
        lines.append(f"{TAUGHT} Its own cost: it learns from a teacher, whose training is not in this row.")
    failed = [one for part in found.parts for one in part.failures]
    lines += [f"{stored.run.status}: {_who(stored.run)}: {clean(reason, 300)}" for stored, reason in failed]
    lines += dict.fromkeys(f"{note.topic}: {note.text}" for part in found.parts for note in part.notes)
    return Text("\n".join(lines), style="dim not italic")


def _who(run: Run) -> str:
    return f"{clean(run.label, 40)}, seed {run.seed}"
