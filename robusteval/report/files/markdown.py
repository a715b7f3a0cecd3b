"""The leaderboard as GitHub Markdown, a table for each data set."""

from __future__ import annotations

from collections.abc import Sequence

from robusteval.report.board.columns import Column
from robusteval.report.board.leaderboard import Leaderboard, Part, doubt, ranks
from robusteval.report.board.rows import Row
from robusteval.report.escaping import escaped
from robusteval.report.text import MISSING, clean, factor, percent, span

LEGEND = (
    "Percent. In parentheses the 95 % interval, over test images and, where there are several, seeds (sd: standard "
    "deviation over seeds). **Bold**: the best of those on the same images; *italic*: not significantly worse than "
    "any. Attacks: ? unchecked, ! doubtful, otherwise checked. Indented: branches that are not deployed."
)


def markdown(found: Leaderboard) -> str:
    """The leaderboard as Markdown; names show as they are, whatever they hold."""
    return "\n".join(["# Leaderboard", *(line for part in found.parts for line in _part(part))]) + "\n"


def _shown(text: object, limit: int = 60) -> str:
    """A hostile text as it is, cut to ``limit`` characters."""
    return escaped(clean(text, limit)) or "(no name)"


def _part(part: Part) -> list[str]:
    shown = [column for column in part.columns if column.kind != "error"]
    several = len({group.head.stored.run.architecture for group in part.groups}) > 1
    head = ["Rank", "Method", *["Network"] * several]
    head += [f"{_shown(one.label)}<br>{part.images(one) or MISSING}" for one in shown] + ["FLOPs"]
    places = {id(group.head): ranks(part.ranking.place(group.head)) for group in part.groups}
    lines = ["", f"## {_shown(part.dataset)}", "", f"{_shown(part.tests, 400)}. {LEGEND}", ""]
    lines += [_line(head), _line(["---:", ":---", *[":---"] * several, *["---:"] * (len(shown) + 1)])]
    for group in part.groups:
        for row in group.speakers:
            cells = [places.get(id(row), "") if row.deployed else "", _name(row)]
            cells += [_shown(row.stored.run.architecture, 24)] * several
            cells += [_score(part, row, column) for column in shown]
            lines.append(_line([*cells, factor(row.cost.flops_relative) if row.cost else MISSING * row.deployed]))
    return [*lines, *_remarks(part, shown)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _name(row: Row) -> str:
    run = row.stored.run
    if not row.deployed:
        return f"&emsp;{_shown(row.branch, 24)}"
    seeds = f" ({len(row.seeds)} seeds)" if row.kind == "mean" else ""
    return _shown(run.label) + seeds + (f" **{run.status}**" if run.status != "done" else "")


def _score(part: Part, row: Row, column: Column) -> str:
    score = row.scores.get(column.key)
    if score is None or score.value is None:
        return MISSING
    value = percent(score.value) + doubt(score, column)
    around = {"best": "**", "tied": "*"}.get(part.ranking.marks.get((id(row), column.key), ""), "")
    spread = [span(score.low, score.high), "" if score.sd is None else f"sd {percent(score.sd)}"]
    shown = ", ".join(one for one in spread if one)
    return f"{around}{value}{around}" + (f" ({shown})" if shown else "")


def _remarks(part: Part, shown: Sequence[Column]) -> list[str]:
    """What stands below the table: what did not finish, cautions, definitions."""
    ranked = part.ranked_by
    lines = [
        f"- {stored.run.status}: {_shown(stored.run.label)}, seed {stored.run.seed}: {_shown(reason, 300)}"
        for stored, reason in part.failures
    ]
    lines += [f"- {note.topic}: {_shown(note.text, 1000)}" for note in part.notes]
    if ranked is not None:
        lines.append(
            f"- Rank: by {_shown(ranked.label)}; the ranks that paired tests leave open, which hold for all rows "
            "together with a probability of 95 % (Holm)."
        )
    lines += [f"- {_shown(column.label)}: {_shown(column.definition, 1000)}" for column in shown]
    lines.append("- FLOPs: of training, relative to standard training.")
    return ["", *lines]
