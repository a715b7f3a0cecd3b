r"""The leaderboard as LaTeX tables for papers, one for each data set; they need the package booktabs alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from robusteval.report.board.columns import Column
from robusteval.report.board.leaderboard import Leaderboard, Part, doubt, ranks
from robusteval.report.board.rows import Row
from robusteval.report.text import MISSING, TIMES, clean, factor, percent, span

_WRITTEN: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    MISSING: "--",
    "\N{EM DASH}": "---",
    "\N{MINUS SIGN}": r"\ensuremath{-}",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    TIMES: r"\ensuremath{\times}",
    "\N{GREEK SMALL LETTER ALPHA}": r"\ensuremath{\alpha}",
    "\N{GREEK SMALL LETTER BETA}": r"\ensuremath{\beta}",
    "\N{GREEK SMALL LETTER GAMMA}": r"\ensuremath{\gamma}",
    "\N{GREEK SMALL LETTER EPSILON}": r"\ensuremath{\epsilon}",
    "\N{GREEK SMALL LETTER LAMDA}": r"\ensuremath{\lambda}",
    "\N{GREEK SMALL LETTER SIGMA}": r"\ensuremath{\sigma}",
}
_ACCENTS: Mapping[str, str] = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}


def latex(found: Leaderboard) -> str:
    r"""The tables as LaTeX source, in ASCII; ``\input`` it where booktabs is loaded."""
    head = ["% Made by robusteval. Needs: \\usepackage{booktabs}"]
    return (
        "\n".join(head + [line for number, part in enumerate(found.parts, 1) for line in _table(part, number)]) + "\n"
    )


def escaped(text: object, limit: int = 60) -> str:
    r"""A hostile text as LaTeX that shows it; a character that plain LaTeX cannot set shows as ``?``.

    >>> print(escaped("a_b {50%} \\foo"), escaped("é–中"))
    a\_b \{50\%\} \textbackslash{}foo \'{e}--?
    """
    shown = clean(text, limit).strip() or "(no name)"
    # Hyphens in a row would become a dash.
    pairs = zip(shown, shown[1:] + " ", strict=True)
    return "".join("-{}" if pair == ("-", "-") else _written(pair[0]) for pair in pairs)


def _written(character: str) -> str:
    if character in _WRITTEN:
        return _WRITTEN[character]
    if character.isascii():
        return character
    letter, accent = unicodedata.normalize("NFD", character)[:1], unicodedata.normalize("NFD", character)[1:]
    return rf"\{_ACCENTS[accent]}{{{letter}}}" if accent in _ACCENTS and letter.isascii() else "?"


def _table(part: Part, number: int) -> list[str]:
    shown = [column for column in part.columns if column.kind != "error"]
    several = len({group.head.stored.run.architecture for group in part.groups}) > 1
    head = ["Rank", "Method", *["Network"] * several, *(_heading(column.short) for column in shown), "FLOPs"]
    places = {id(group.head): ranks(part.ranking.place(group.head)) for group in part.groups}
    lines = ["", r"\begin{table}", r"\centering", rf"\caption{{{_caption(part, shown)}}}"]
    lines += [rf"\label{{tab:leaderboard-{number}}}", r"\small"]
    lines += [rf"\begin{{tabular}}{{rl{'l' * several}{'r' * (len(shown) + 1)}}}", r"\toprule", _line(head), r"\midrule"]
    for group in part.groups:
        for row in group.speakers:
            cells = [escaped(places.get(id(row), "")) if row.deployed else "", _name(row)]
            cells += [escaped(row.stored.run.architecture, 24)] * several
            cells += [_score(part, row, column) for column in shown]
            flops = factor(row.cost.flops_relative) if row.cost else MISSING * row.deployed
            lines.append(_line([*cells, escaped(flops) if flops else ""]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    for stored, reason in part.failures:
        text = f"{stored.run.status}: {escaped(stored.run.label)}, seed {stored.run.seed}: {escaped(reason, 300)}"
        lines += ["", rf"\smallskip{{\footnotesize {text}}}"]
    return [*lines, r"\end{table}"]


def _line(cells: Sequence[str]) -> str:
    # A row that begins with a bracket or a star would be read as an argument of the line break before it.
    return " & ".join([cells[0] or "{}", *cells[1:]]) + r" \\"


def _heading(short: str) -> str:
    return re.sub(r"\bLinf\b", r"$\\ell_\\infty$", re.sub(r"\bL2\b", r"$\\ell_2$", escaped(short)))


def _name(row: Row) -> str:
    run = row.stored.run
    if not row.deployed:
        return rf"\quad {escaped(row.branch, 24)}"
    seeds = f" ({len(row.seeds)} seeds)" if row.kind == "mean" else ""
    return escaped(run.label) + seeds + (rf" \emph{{{run.status}}}" if run.status != "done" else "")


def _score(part: Part, row: Row, column: Column) -> str:
    score = row.scores.get(column.key)
    if score is None or score.value is None:
        return "--"
    mark = part.ranking.marks.get((id(row), column.key), "")
    value = {"best": r"\textbf{%s}", "tied": r"\underline{%s}", "": "%s"}[mark] % percent(score.value)
    if (sign := doubt(score, column)) != "":
        value += rf"\textsuperscript{{{sign}}}"
    spread = span(score.low, score.high) if score.sd is None or score.low is not None else f"sd {percent(score.sd)}"
    return value + (rf" {{\scriptsize {escaped(spread)}}}" if spread else "")


def _caption(part: Part, shown: Sequence[Column]) -> str:
    counts = {part.images(column) for column in shown} - {""}
    n = f" ({next(iter(counts))})" if len(counts) == 1 else ""
    if len(counts) > 1:
        n = " (" + "; ".join(f"{_heading(one.short)}: {part.images(one)}" for one in shown if part.images(one)) + ")"
    ranked = part.ranked_by
    by = f" Rank: by {escaped(ranked.short)}, as far as paired tests bear (Holm, 95\\,\\%)." if ranked else ""
    return (
        rf"{escaped(part.dataset)}: per cent of test images{n} with 95\,\% intervals (sd: standard deviation of seeds, "
        rf"where they are not known). \textbf{{Bold}}: the best; \underline{{underlined}}: not "
        rf"significantly worse than any.{by} FLOPs: of training, relative to standard training. "
        r"\textsuperscript{?} unchecked, \textsuperscript{!} doubtful."
    )
