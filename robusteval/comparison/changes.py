"""What differs between two sides before any number: options, data, tasks, environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robusteval.comparison.readings import record
from robusteval.comparison.sides import Side
from robusteval.options import flattened
from robusteval.records import Provenance, Run, TaskRecord
from robusteval.report.board.columns import identity
from robusteval.report.board.rows import Row


@dataclass(frozen=True)
class Change:
    """One thing that differs.

    Attributes:
        name: of the option or fact.
        first, second: A's and B's values, each once, in the order of the runs; empty where there is none.
    """

    name: str
    first: tuple[Any, ...]
    second: tuple[Any, ...]


@dataclass(frozen=True)
class Section:
    """What differs in one respect; at least one thing."""

    title: str
    changes: tuple[Change, ...]


Facts = Mapping[str, tuple[Any, ...]]
"""The values of each name, each once."""


def changes(first: Side, second: Side, rows: tuple[Sequence[Row], Sequence[Row]]) -> tuple[Section, ...]:
    """What differs, in sections; what is equal is left out.

    Args:
        first: A.
        second: B.
        rows: their rows with the scores that are compared: only the tasks behind those count, and of them those that
            judged both sides. What judged one alone is missing in the scores of the other.
    """
    runs = [[stored.run for stored in side.runs] for side in (first, second)]
    judges = [_judges(side) for side in rows]
    both = {task.task for task in judges[0]} & {task.task for task in judges[1]}
    tasks = [[task for task in side if task.task in both] for side in judges]
    parts: tuple[tuple[str, Callable[[int], Facts]], ...] = (
        ("Configuration", lambda side: _facts(map(_configuration, runs[side]))),
        ("Options", lambda side: _facts(flattened(run.options) for run in runs[side])),
        ("Training", lambda side: _facts(flattened(run.training) for run in runs[side])),
        ("Training data", lambda side: _facts(run.train_data.model_dump(exclude={"split"}) for run in runs[side])),
        ("Tasks", lambda side: _facts(map(_task, tasks[side]))),
        ("Environment of training", lambda side: _facts(_environment(run.provenance) for run in runs[side])),
        ("Environment of evaluation", lambda side: _facts(_environment(task.provenance) for task in tasks[side])),
    )
    found = []
    for title, facts in parts:
        differing = _differing(facts(0), facts(1))
        if differing:
            found.append(Section(title, differing))
    return tuple(found)


def _facts(tables: Iterable[Mapping[str, Any]]) -> Facts:
    """The distinct values of each name over some tables."""
    found: dict[str, list[Any]] = {}
    for table in tables:
        for name, value in table.items():
            if value not in found.setdefault(name, []):
                found[name].append(value)
    return {name: tuple(values) for name, values in found.items()}


def _differing(first: Facts, second: Facts) -> tuple[Change, ...]:
    """The names whose values are not the same; their order does not matter."""
    return tuple(
        Change(name, first.get(name, ()), second.get(name, ()))
        for name in dict.fromkeys([*first, *second])
        if sorted(map(repr, first.get(name, ()))) != sorted(map(repr, second.get(name, ())))
    )


def _configuration(run: Run) -> dict[str, Any]:
    kept = ("dataset", "architecture", "method", "label", "seed", "status", "deployed", "teacher", "parameters")
    facts: dict[str, Any] = {key: value for key in kept if (value := getattr(run, key)) is not None}
    return facts | {"branches": " ".join(run.branches), "schema_version": run.schema_version}


def _judges(rows: Sequence[Row]) -> list[TaskRecord]:
    """The records behind the scores, each once."""
    found: dict[tuple[str, str], TaskRecord] = {}
    for row in rows:
        for score in row.scores.values():
            if score.task_key:
                found[str(row.stored.folder), score.task_key] = record(row, score)
    return sorted(found.values(), key=lambda task: (task.task, task.key))


def _task(task: TaskRecord) -> dict[str, Any]:
    """A task's options, its images, and where they come from."""
    facts: dict[str, Any] = {"version": task.version, **flattened(task.options)}
    facts |= {f"test_data.{key}": value for key, value in task.test_data.model_dump(exclude={"split"}).items()}
    for m in task.measurements:
        where = dict(identity(m)[2]) if m.metric in ("mean_accuracy", "robust_accuracy") else {}
        facts |= {f"images.{key}": where[key] for key in ("source", "generator", "table", "package") if key in where}
    return {f"{task.task}.{key}": value for key, value in facts.items()}


def _environment(provenance: Provenance) -> dict[str, Any]:
    """Versions and machine; not when, and by which command."""
    return flattened(provenance.model_dump(exclude={"created", "command"}))


def common(sections: Sequence[tuple[Section, ...]]) -> tuple[Section, ...]:
    """The changes that all pairs share, in sections; empty for fewer than two pairs."""
    if len(sections) < 2:
        return ()
    found = []
    for section in sections[0]:
        others = [{one for part in pair if part.title == section.title for one in _keys(part)} for pair in sections[1:]]
        shared = tuple(
            one for one, key in zip(section.changes, _keys(section), strict=True) if all(key in o for o in others)
        )
        if shared:
            found.append(Section(section.title, shared))
    return tuple(found)


def without(sections: Sequence[Section], shared: Sequence[Section]) -> tuple[Section, ...]:
    """The sections without the changes that are in ``shared``."""
    known = {(section.title, key) for section in shared for key in _keys(section)}
    found = []
    for section in sections:
        own = zip(section.changes, _keys(section), strict=True)
        kept = tuple(one for one, key in own if (section.title, key) not in known)
        if kept:
            found.append(Section(section.title, kept))
    return tuple(found)


def _keys(section: Section) -> list[str]:
    """The changes as what can be looked up: values may be lists."""
    return [repr(change) for change in section.changes]
