"""A comparison as Markdown, for a comment on a pull request. Names cannot act: no markup, link or mention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from robusteval.comparison import cautions, words
from robusteval.comparison.cautions import Caution
from robusteval.comparison.changes import Section, common, without
from robusteval.comparison.compared import Comparison, Pair
from robusteval.comparison.lines import ScoreLine
from robusteval.report.text import clean

MARKS = {"better": "\N{WHITE HEAVY CHECK MARK} ", "worse": "\N{CROSS MARK} "}


def as_markdown(comparison: Comparison) -> str:
    """The comparison in GitHub's Markdown; what is long is folded."""
    shared = common([pair.changes for pair in comparison.pairs])
    everywhere = cautions.shared([pair.cautions for pair in comparison.pairs])
    quiet = words.quiet(comparison)
    blocks = ["### Comparison", *_summary(comparison), *map(_caution, everywhere)]
    if quiet:
        blocks.append(f"The same weights, the same numbers: {', '.join(_code(words.heading(pair)) for pair in quiet)}")
    for pair in comparison.pairs:
        if len(comparison.pairs) == 1:
            blocks += [f"#### {_code(words.heading(pair))}", *_pair(pair, shared, everywhere)]
        elif pair not in quiet:
            blocks += _folded(_code(words.heading(pair)), [*_pair(pair, shared, everywhere)])
    if shared:
        blocks += [*_folded("What changed in every pair", _changes(shared))]
    return "\n\n".join([*blocks, words.legend(comparison)]) + "\n"


def escaped(text: str) -> str:
    r"""The text such that Markdown and HTML show it as it is.

    >>> escaped("a_b|<b>"), escaped("pgd-20, 8/255")
    ('a&#95;b&#124;&#60;b&#62;', 'pgd-20, 8/255')
    """
    shown = re.sub(r"(?<!\d)\.|\.(?!\d)", "&#46;", re.sub(r"[^\w\s.,;/()%+=<>-]|[_<>]", _entity, clean(text)))
    return shown.replace("<", "&#60;").replace(">", "&#62;")


def _entity(found: re.Match[str]) -> str:
    character = found[0]
    return character if ord(character) > 127 else f"&#{ord(character)};"


def _code(text: str) -> str:
    """A name: inside of code nothing is taken for a mention, an issue or a commit."""
    return f"<code>{escaped(text)}</code>"


def _table(head: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; ``align`` has l or r for each column. Cells are escaped already."""
    rule = ["---:" if one == "r" else "---" for one in align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _summary(comparison: Comparison) -> Iterator[str]:
    told = words.tally(line for pair in comparison.pairs for line in pair.scores)
    pairs = f"{len(comparison.pairs)} pair{'' if len(comparison.pairs) == 1 else 's'}"
    yield f"{pairs}; scores of B: **{told}**."
    for name, runs in words.alone(comparison):
        yield f"Only in {name}: {', '.join(map(_code, runs))}"
    if len(comparison.pairs) > 1:
        head, rows = words.overview(comparison)
        cells = ([_code(name), *map(escaped, found)] for name, *found in rows)
        yield _table([escaped(name) for name in head], "l" + "r" * (len(head) - 1), cells)


def _caution(one: Caution) -> str:
    scores = f" Not compared: {', '.join(_code(label) for label in one.scores)}." if one.scores else ""
    return f"\N{WARNING SIGN} **{one.topic}**: {_code(one.text)}{scores}"


def _pair(pair: Pair, shared: Sequence[Section], everywhere: Sequence[Caution]) -> Iterator[str]:
    """The pair, but for what it shares with all others."""
    yield "; ".join(f"{name}: {_code(which)}" for name, which in zip("AB", words.runs(pair), strict=True))
    if pair.same_weights:
        yield f"The same weights{', the same numbers' if pair.same else ''}."
    yield from (_caution(one) for one in pair.cautions if one not in everywhere)
    if not pair.scores:
        yield "Neither was judged."
    else:
        yield _table(
            ("Score", "A", "B", "B \N{MINUS SIGN} A", "Interval", "p", "Only A / B", "Verdict"),
            "lrrrrrrl",
            map(_score, pair.scores),
        )
    costs = (
        (
            one.name,
            *(words.amount(value, one.amount) for value in (one.first, one.second)),
            words.ratio(one.ratio),
            one.reason,
        )
        for one in pair.costs
    )
    yield from _folded(
        "Cost", [_table(("", "A", "B", "B / A", ""), "lrrrl", ([escaped(cell) for cell in row] for row in costs))]
    )
    yield from _folded("What changed", _changes(without(pair.changes, shared)))


def _score(line: ScoreLine) -> list[str]:
    only = "" if line.first_only is None else f"{line.first_only} / {line.second_only}"
    numbers = (*words.values(line), words.difference(line), words.interval(line), words.probability(line.p_holm), only)
    verdict = MARKS.get(line.verdict, "") + escaped(words.verdict(line))
    remark = f" ({escaped(words.remark(line))})" if words.remark(line) else ""
    return [_code(line.label) + remark, *map(escaped, numbers), verdict]


def _changes(sections: Iterable[Section]) -> list[str]:
    return [
        _table(
            (section.title, "A", "B"),
            "lll",
            (
                [_code(text) for text in (one.name, words.changed(one.first), words.changed(one.second))]
                for one in section.changes
            ),
        )
        for section in sections
    ]


def _folded(title: str, blocks: Sequence[str]) -> Iterator[str]:
    """Blocks under a line that unfolds them."""
    if blocks:
        yield from (f"<details><summary>{title}</summary>", *blocks, "</details>")
