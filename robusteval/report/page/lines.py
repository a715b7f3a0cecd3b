"""The lines of a leaderboard as HTML: a body of the table per group, a cell per column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from markupsafe import Markup

from robusteval.report.board.columns import Column
from robusteval.report.board.costs import CostLine, trained
from robusteval.report.board.rows import Group, Row, judged_on
from robusteval.report.board.scores import Score
from robusteval.report.figures.plots import Look
from robusteval.report.figures.style import VARIABLES
from robusteval.report.page.markup import breaks, interval, text
from robusteval.report.page.sections import Rank, Section, ranks
from robusteval.report.text import MISSING, duration, factor, mebibytes, number, percent, scaled

WORDS = {"best": "best", "tied": "tied with the best"}
FIRST = 60
"""So many bodies are laid out at once; the script, which has the same number, shows others when somebody comes near."""
VERDICTS = {"ok": "✓ checked", "flagged": "⚑ doubtful", "unchecked": "unchecked"}


def lines(section: Section, anchors: Mapping[int, str]) -> Markup:
    """The bodies of a data set's table.

    Args:
        section: the data set.
        anchors: identity of a run -> the id of its details.
    """
    places = ranks(section)
    several = len({group.head.stored.run.architecture for group in section.groups}) > 1
    found = ("".join(_group(section, group, places, anchors, several)) for group in section.groups)
    heads = ("<tbody>" if place < FIRST else '<tbody class="far">' for place in range(len(section.groups)))
    return Markup("".join(f"{head}{body}</tbody>" for head, body in zip(heads, found, strict=True)))


def marker(look: Look) -> Markup:
    """The sign of a group, as in the figures."""
    shape = "u" if look.marker == "^" else look.marker
    head = f'<svg viewBox="-5 -5 10 10" aria-hidden="true" class="{VARIABLES[look.colour]}">'
    return Markup(f'{head}<use href="#m-{shape}"/></svg>')


def _group(
    section: Section, group: Group, places: Mapping[int, Rank], anchors: Mapping[int, str], several: bool
) -> Iterator[str]:
    marks = section.part.ranking.marks
    for row in group.lines:
        head = row is group.lines[0]
        if head:
            yield f"<tr><td></td>{_rank(places.get(id(row)))}{_name(section, row, anchors, several)}"
        elif group.head.kind == "mean" and row.kind == "run":
            yield f'<tr class="sub"><td></td><td></td><th scope="row">seed {row.stored.run.seed}{_status(row)}</th>'
        else:
            yield '<tr class="sub other"><td></td><td></td>'
            yield f'<th scope="row">{text(row.branch, 16)} branch<small>not deployed</small></th>'
        for column in section.part.columns:
            mark = marks.get((id(row), column.key), "") if head else ""
            yield _score(row.scores.get(column.key), column, mark)
        yield _cost(row)
        yield f"{_trust(row)}</tr>"


def _rank(place: Rank | None) -> str:
    if place is None:
        return _absent("not compared image by image")
    among = f"<small>{place.best}{MISSING}{place.worst}</small>" if place.worst > place.best else ""
    among += f"<small>of {place.of}</small>" if place.of else ""
    return f'<td data-v="{place.best + place.worst / 10000}">{place.text}{among}</td>'


def _name(section: Section, row: Row, anchors: Mapping[int, str], several: bool) -> str:
    run, look = row.stored.run, section.looks[id(row.stored)]
    words = f"{text(run.architecture, 20)}, " if several else ""
    words += f"mean of {len(row.seeds)} seeds" if row.kind == "mean" else f"seed {run.seed}"
    words += f", {text(row.branch, 16)} branch" if len(run.branches) > 1 else ""
    link = f'<a href="#{anchors[id(row.stored)]}"><bdi>{breaks(look.name)}</bdi></a>'
    head = f'<th scope="row" data-v="{text(look.name)}">{marker(look)}{link}'
    return f"{head}<small>{words}{_status(row)}</small></th>"


def _status(row: Row) -> str:
    status = row.stored.run.status
    return f'<span class="flag">, {status}</span>' if status != "done" else ""


def _absent(why: str) -> str:
    told = f": {text(why)}" if why else ""
    title = f' title="{text(why)}"' if why else ""
    return f'<td class="absent" data-v=""{title}>{MISSING}<span class="sr"> missing{told}</span></td>'


def _score(score: Score | None, column: Column, mark: str) -> str:
    if score is None or score.value is None:
        return _absent(score.note if score is not None and score.note else "not measured")
    shown, small = percent(score.value), interval(score.low, score.high)
    if mark:
        shown = f'<b>{shown}</b><span class="sr"> {WORDS[mark]}</span>'
    if score.seeds > 1:
        ends = small.removeprefix("<small>").removesuffix("</small>")
        small = f"<small>{ends}{'<br>' if ends else ''}sd {percent(score.sd)}, n {score.seeds}</small>"
    head = f'<td class="{mark}"' if mark else "<td"
    return f'{head} data-v="{score.value:.6g}">{shown}{_verdict(score, column)}{small}</td>'


def _verdict(score: Score, column: Column) -> str:
    if score.trust == "flagged":
        why = text("; ".join(map(str, score.reasons)))
        return f' <i class="flag" title="{why}">⚑<span class="sr"> doubtful: {why}</span></i>'
    if score.trust == "ok":
        return ' <i role="img" aria-label="checked">✓</i>'
    return ' <i role="img" aria-label="unchecked">?</i>' if column.kind == "attack" else ""


def _cost(row: Row) -> str:
    """The seven cells of what training cost, the last of them the number of parameters."""
    if not row.deployed:
        return "<td></td>" * 7
    run, cost = row.stored.run, row.cost
    size = _value(run.parameters, scaled(run.parameters, ""), plain=str(run.parameters))
    if cost is None or not trained(run):
        return 6 * _absent("") + size
    seconds = [cost.wall_s.get(phase) for phase in ("train", "attack", "data")]
    apart = "<br>+ ".join(f"{number(passes)} {text(branch, 10)}" for branch, passes in cost.backward.items())
    return "".join(
        (
            _value(cost.backward_total, number(cost.backward_total), apart if len(cost.backward) > 1 else ""),
            _value(cost.flops_relative, factor(cost.flops_relative) + _taught(cost), scaled(cost.flops, "FLOP")),
            _value(seconds[0], duration(seconds[0]), "" if cost.wall_relative is None else factor(cost.wall_relative)),
            *(_value(one, duration(one)) for one in seconds[1:]),
            _value(cost.peak_memory_bytes, mebibytes(cost.peak_memory_bytes)),
            size,
        )
    )


def _value(value: float | None, shown: str, small: str = "", *, plain: str = "") -> str:
    order = plain or ("" if value is None else f"{value:.6g}")
    return f'<td data-v="{order}">{shown}{f"<small>{small}</small>" if small else ""}</td>'


def _taught(cost: CostLine) -> str:
    told = '<span class="sr"> without its teacher\N{RIGHT SINGLE QUOTATION MARK}s training</span>'
    return f'<sup aria-hidden="true">†</sup>{told}' if cost.teacher else ""


def _trust(row: Row) -> str:
    if not row.deployed:
        return "<td></td>"
    if not row.scores:
        return f'<td><span class="absent">{MISSING}<span class="sr"> nothing was measured</span></span></td>'
    verified = row.stored.run.train_data.verified and all(test.verified for test in judged_on(row.stored))
    shown = VERDICTS[row.trust]
    if row.trust == "flagged":
        shown = f'<span class="flag">{shown}</span>'
    return f"<td>{shown}<small>{'known' if verified else 'unverified'} images</small></td>"
