"""A comparison for a terminal, readable from 80 columns on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robusteval.comparison import cautions, words
from robusteval.comparison.cautions import Caution
from robusteval.comparison.changes import Section, common, without
from robusteval.comparison.compared import Comparison, Pair
from robusteval.comparison.expenses import Expense
from robusteval.comparison.lines import ScoreLine
from robusteval.report.text import clean

COLOURS = {"better": "bold green", "worse": "bold red", "not comparable": "yellow", "not tested": "yellow"}
"""Of verdicts; the word says the same."""


def as_terminal(comparison: Comparison) -> RenderableType:
    """The comparison as text that `rich.console.Console.print` takes. Nothing in it is read as markup."""
    shared = common([pair.changes for pair in comparison.pairs])
    everywhere = cautions.shared([pair.cautions for pair in comparison.pairs])
    parts: list[RenderableType] = [*_summary(comparison), *_cautions(everywhere)]
    quiet = words.quiet(comparison)
    if quiet:
        names = words.listed([words.heading(pair) for pair in quiet])
        parts.append(Text(f"\nThe same weights, the same numbers: {names}"))
    for pair in comparison.pairs:
        if pair not in quiet:
            parts += [*_pair(pair, shared, everywhere, alone=len(comparison.pairs) == 1)]
    if shared:
        parts += [Text("\nEvery pair", style="bold"), *_changes(shared)]
    return Group(*parts, Text(f"\n{words.legend(comparison)}", style="dim"))


def _summary(comparison: Comparison) -> Iterator[RenderableType]:
    if len(comparison.pairs) > 1:
        deployed, others = words.tallies(comparison)
        yield Text(f"{len(comparison.pairs)} pairs; scores of B: {deployed}")
        if others:
            yield Text(f"Scores of B's other branches: {others}")
    for name, runs in words.alone(comparison):
        yield Text(f"Only in {name}: {', '.join(runs)}", style="yellow")
    head, rows = words.overview(comparison)
    if rows and len(comparison.pairs) > 1:
        longest = max((len(word) for name, *_ in rows for word in name.split()), default=0)
        table = _grid(*head, min_width=min(longest, 24))
        for column in table.columns[1:]:
            column.no_wrap, column.overflow = False, "fold"
        for row in rows:
            table.add_row(*map(Text, row))
        yield from (Text(""), table)


def _pair(
    pair: Pair, shared: Sequence[Section], everywhere: Sequence[Caution], *, alone: bool
) -> Iterator[RenderableType]:
    """The pair in full, but for what it shares with all others."""
    heading = Text(f"{'' if alone else chr(10)}{words.heading(pair)}", style="bold")
    if words.sameness(pair):
        heading.append(f": {words.sameness(pair)}", style="not bold")
    yield heading
    for name, which in words.runs(pair).items():
        yield Text(f"{name}: {which}", style="dim")
    yield from _cautions(one for one in pair.cautions if one not in everywhere)
    yield Text("")
    yield _scores(pair) if pair.scores else Text("Neither was judged.")
    yield from _alone(pair)
    if not pair.same_runs:
        yield from (Text(""), _costs(pair.costs))
    yield from _changes(without(pair.changes, shared))


def _cautions(found: Iterable[Caution]) -> Iterator[Text]:
    for one in found:
        text = Text("WARNING ", style="bold yellow").append(f"{one.topic}: {one.text}", style="not bold")
        if one.scores:
            text.append(f" Not compared: {', '.join(clean(label, 60) for label in one.scores)}.", style="not bold")
        yield text


def _grid(*headings: str, left: Sequence[int] = (0,), min_width: int = 10, gap: int = 2) -> Table:
    """An empty table without lines; the columns ``left`` begin at the left and are folded, the others never."""
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for place, heading in enumerate(headings):
        if place in left:
            table.add_column(Text(heading), overflow="fold", min_width=min_width, max_width=40)
        else:
            table.add_column(Text(heading), justify="right", no_wrap=True)
    return table


def _scores(pair: Pair) -> Table:
    table = _grid("Score", "A", "B", "B - A", "p", "Verdict", left=(0, 5), min_width=15, gap=1)
    if words.deployed(pair):
        table.add_row(Text(words.deployed(pair), style="bold"))
    _add_scores(table, pair.scores)
    for facing in pair.others:
        if facing.both:
            table.add_row("")
            table.add_row(Text(f"Branch {clean(facing.name, 60)}", style="bold"))
            _add_scores(table, facing.scores)
    return table


def _alone(pair: Pair) -> Iterator[Text]:
    """The branches that only one side has, and how to compare them all the same."""
    for facing in pair.others:
        if not facing.both:
            whose = "B" if facing.first is None else "A"
            text = Text(f"\nBranch {clean(facing.name, 60)}, only {whose}: ", style="bold")
            yield text.append(f"{words.values_alone(facing)}.", style="not bold")


def _add_scores(table: Table, lines: Sequence[ScoreLine]) -> None:
    for line in lines:
        values = [Text(value).append(f"\n{count}" if count else "", style="dim") for value, count in _values(line)]
        change = Text(words.difference(line))
        if words.interval(line):
            change.append(f"\n{words.interval(line)}", style="dim")
        label = Text(f"  {clean(line.label, 60)}" if line.corruption else clean(line.label, 200))
        if words.remark(line):
            label.append(f"\n{words.remark(line)}", style="dim")
        verdict = Text(words.verdict(line), style=COLOURS.get(line.verdict, ""))
        table.add_row(label, *values, change, Text(words.probability(line.p_holm)), verdict)


def _values(line: ScoreLine) -> list[tuple[str, str]]:
    return list(zip(words.values(line), words.only(line), strict=True))


def _costs(costs: Iterable[Expense]) -> Table:
    table = _grid("Cost", "A", "B", "B / A", "", left=(0, 4))
    for one in costs:
        amounts = (words.amount(value, one.amount) for value in (one.first, one.second))
        table.add_row(one.name, *amounts, words.ratio(one.ratio), Text(one.reason, style="yellow"))
    return table


def _changes(sections: Iterable[Section]) -> Iterator[RenderableType]:
    for section in sections:
        table = _grid(section.title, "A", "B", left=(0, 1, 2))
        for one in section.changes:
            table.add_row(*map(Text, (clean(one.name, 60), words.changed(one.first), words.changed(one.second))))
        yield from (Text(""), table)
