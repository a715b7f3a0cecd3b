"""Why two numbers are not comparable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from robusteval.comparison.readings import Basis, Reading
from robusteval.comparison.sides import Side
from robusteval.report.board.columns import Column
from robusteval.report.board.rows import failures
from robusteval.report.text import clean

NONE = "none"
"""What stands for an option that a side does not have."""


class Caution(NamedTuple):
    """Something to know before two numbers are held against each other.

    Attributes:
        topic: two or three words, the same for the same kind of caution.
        text: the sentence.
        scores: the labels of the numbers that are shown side by side for it, and not subtracted; empty where it is
            about no score in particular.
    """

    topic: str
    text: str
    scores: tuple[str, ...] = ()


def differences(first: Reading, second: Reading) -> list[Caution]:
    """Why the numbers of two sides may not be subtracted; empty if they may be.

    Args:
        first: A's.
        second: B's, of the same column, or of one that takes its place.
    """
    found = _quantities(first.column, second.column)
    # What all tasks have in common does not name one: it is then said once.
    parts: tuple[tuple[str, str, Callable[[Basis], object]], ...] = (
        ("Different images", "the test images differ (digest {told})", lambda basis: basis.digest),
        ("Different numbers of images", "the number of test images differs ({told})", lambda basis: basis.n),
        ("Different task version", "{task}: the task's version differs ({told})", lambda basis: basis.version),
    )
    ours, theirs = first.bases, second.bases
    if not found and len({basis.cells for basis in ours | theirs if basis.cells}) > 1:
        text = "the corruptions, severities or sources behind the means differ."
        found.append(Caution("Different corruptions", text))
    for task in sorted({basis.task for basis in ours | theirs}):
        for topic, text, part in parts:
            values = [{part(basis) for basis in side if basis.task == task} for side in (ours, theirs)]
            if all(values) and len(values[0] | values[1]) > 1:
                told = _versus(*(_listed(str(value)[:12] for value in side) for side in values))
                found.append(Caution(topic, f"{text.format(task=clean(task, 30), told=told)}."))
        found += _options(
            task, ours, theirs, known={key for side in (first, second) for key, _ in side.column.measured[2]}
        )
    return list(dict.fromkeys([*found, *doubts(first, second)]))


def doubts(first: Reading, second: Reading) -> list[Caution]:
    """What the checks of attacks found against the numbers of two sides."""
    return [
        Caution("Doubtful number", f"{name}: {clean(doubt, 300).rstrip('.')}.")
        for name, side in (("A", first), ("B", second))
        for doubt in side.flagged
    ]


def _quantities(first: Column, second: Column) -> list[Caution]:
    """The caution where the columns are not of the same quantity."""
    if first.measured == second.measured:
        return []
    ours, theirs = dict(first.measured[2]), dict(second.measured[2])
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key, NONE) != theirs.get(key, NONE)]
    told = "; ".join(f"{clean(key, 30)} {_versus(ours.get(key, NONE), theirs.get(key, NONE))}" for key in keys)
    topic = "Different corruptions" if first.measured[0] == "corruption" else "Different attacks"
    return [Caution(topic, f"{clean(first.measured[0], 30)}: {told}.")]


def _options(task: str, ours: Iterable[Basis], theirs: Iterable[Basis], *, known: set[str]) -> list[Caution]:
    """The cautions about options that both sides' records have, beside those that name the quantity."""
    sides = [[dict(basis.options) for basis in side if basis.task == task] for side in (ours, theirs)]
    found = []
    for key in sorted({key for side in sides for options in side for key in options} - known):
        values = [{options[key] for options in side if key in options} for side in sides]
        # A record without the option is older than the option: its task had what is now one of the choices.
        if all(values) and len(values[0] | values[1]) > 1:
            told = f"{clean(key, 30)} {_versus(*map(_listed, values))}"
            found.append(Caution("Different options", f"{clean(task, 30)}: {told}."))
    return found


def _versus(first: object, second: object) -> str:
    return f"A {clean(first, 60)}, B {clean(second, 60)}"


def _listed(values: Iterable[Any]) -> str:
    return " and ".join(sorted(map(str, values)))


def unfinished(first: Side, second: Side) -> list[Caution]:
    """The cautions about runs that did not finish."""
    return [
        Caution("Not finished", f"{name}, seed {stored.run.seed}: {stored.run.status}: {clean(reason, 300)}")
        for name, side in (("A", first), ("B", second))
        for stored, reason in failures(side.runs)
    ]


def shared(cautions: Sequence[tuple[Caution, ...]]) -> tuple[Caution, ...]:
    """The cautions that hold for all pairs; none for fewer than two."""
    return tuple(one for one in cautions[0] if all(one in others for others in cautions)) if len(cautions) > 1 else ()


def gathered(cautions: Iterable[Caution]) -> tuple[Caution, ...]:
    """Each caution once, with all scores that it is about."""
    scores: dict[tuple[str, str], dict[str, None]] = {}
    for one in cautions:
        scores.setdefault((one.topic, one.text), {}).update(dict.fromkeys(one.scores))
    return tuple(Caution(topic, text, tuple(labels)) for (topic, text), labels in scores.items())
