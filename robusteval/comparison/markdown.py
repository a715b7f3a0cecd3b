"""A comparison as Markdown, for a comment on a pull request. Names cannot act: no markup, link or mention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from robusteval.comparison import cautions, words
from robusteval.comparison.cautions import Caution
from robusteval.comparison.changes import Section, common, without
from robusteval.comparison.compared import Comparison, Pair
from robusteval.comparison.lines import ScoreLine
from robusteval.report.escaping import code, escaped

MARKS = {"better": "\N{WHITE HEAVY CHECK MARK} ", "worse": "\N{CROSS MARK} "}


def as_markdown(comparison: Comparison) -> str:
    """The comparison in GitHub's Markdown; what is long is folded."""
    shared = common([pair.changes for pair in comparison.pairs])
    everywhere = cautions.shared([pair.cautions for pair in comparison.pairs])
    quiet = words.quiet(comparison)
    blocks = ["### Comparison", *_summary(comparison), *map(_caution, everywhere)]
    if quiet:
        blocks.append(f"The same weights, the same numbers: {', '.join(code(words.heading(pair)) for pair in quiet)}")
    for pair in comparison.pairs:
        if len(comparison.pairs) == 1:
            blocks += [f"#### {code(words.heading(pair))}", *_pair(pair, shared, everywhere)]
        elif pair not in quiet:
            blocks += _folded(code(words.heading(pair)), [*_pair(pair, shared, everywhere)])
    if shared:
        blocks += [*_folded("What changed in every pair", _changes(shared))]
    return "\n\n".join([*blocks, words.legend(comparison)]) + "\n"


def _table(head: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; ``align`` has l or r for each column. Cells are escaped already."""
    rule = ["---:" if one == "r" else "---" for one in align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _summary(comparison: Comparison) -> Iterator[str]:
    deployed, others = words.tallies(comparison)
    pairs = f"{len(comparison.pairs)} pair{'' if len(comparison.pairs) == 1 else 's'}"
    beside = f" Scores of B's other branches: **{others}**." if others else ""
    yield f"{pairs}; scores of B: **{deployed}**.{beside}"
    for name, runs in words.alone(comparison):
        yield f"Only in {name}: {', '.join(map(code, runs))}"
    head, rows = words.overview(comparison)
    if rows and len(comparison.pairs) > 1:
        cells = ([code(name), *map(escaped, found)] for name, *found in rows)
        yield _table([escaped(name) for name in head], "l" + "r" * (len(head) - 1), cells)


def _caution(one: Caution) -> str:
    scores = f" Not compared: {', '.join(code(label) for label in one.scores)}." if one.scores else ""
    return f"\N{WARNING SIGN} **{one.topic}**: {code(one.text)}{scores}"


def _pair(pair: Pair, shared: Sequence[Section], everywhere: Sequence[Caution]) -> Iterator[str]:
    """The pair, but for what it shares with all others."""
    yield "; ".join(f"{name}: {code(which)}" for name, which in words.runs(pair).items())
    if words.sameness(pair):
        yield f"{words.sameness(pair).capitalize()}."
    yield from (_caution(one) for one in pair.cautions if one not in everywhere)
    if not pair.scores:
        yield "Neither was judged."
    else:
        if words.deployed(pair):
            yield f"**{escaped(words.deployed(pair))}**"
        yield _scores(pair.scores)
    for facing in pair.others:
        name = f"Branch {code(facing.name)}"
        if facing.both:
            yield from (name, _scores(facing.scores))
        else:
            yield f"{name}, only {'B' if facing.first is None else 'A'}: {escaped(words.values_alone(facing))}."
    if not pair.same_runs:
        yield from _folded("Cost", [_costs(pair)])
    yield from _folded("What changed", _changes(without(pair.changes, shared)))


def _costs(pair: Pair) -> str:
    costs = (
        (
            one.name,
            *(words.amount(value, one.amount) for value in (one.first, one.second)),
            words.ratio(one.ratio),
            one.reason,
        )
        for one in pair.costs
    )
    return _table(("", "A", "B", "B / A", ""), "lrrrl", ([escaped(cell) for cell in row] for row in costs))


def _scores(lines: Sequence[ScoreLine]) -> str:
    head = ("Score", "A", "B", "B \N{MINUS SIGN} A", "Interval", "p", "Only A / B", "Verdict")
    return _table(head, "lrrrrrrl", map(_score, lines))


def _score(line: ScoreLine) -> list[str]:
    only = "" if line.first_only is None else f"{line.first_only} / {line.second_only}"
    numbers = (*words.values(line), words.difference(line), words.interval(line), words.probability(line.p_holm), only)
    verdict = MARKS.get(line.verdict, "") + escaped(words.verdict(line))
    remark = f" ({escaped(words.remark(line))})" if words.remark(line) else ""
    return [code(line.label) + remark, *map(escaped, numbers), verdict]


def _changes(sections: Iterable[Section]) -> list[str]:
    return [
        _table(
            (section.title, "A", "B"),
            "lll",
            (
                [code(text) for text in (one.name, words.changed(one.first), words.changed(one.second))]
                for one in section.changes
            ),
        )
        for section in sections
    ]


def _folded(title: str, blocks: Sequence[str]) -> Iterator[str]:
    """Blocks under a line that unfolds them."""
    if blocks:
        yield from (f"<details><summary>{title}</summary>", *blocks, "</details>")
