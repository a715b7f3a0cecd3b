"""Suites: which methods are trained on what and judged how, read from TOML without importing torch.

A suite keeps the options of methods, training and tasks as tables; `robusteval.cells` resolves them against
the registries.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from robusteval.errors import UserError, unknown
from robusteval.options import Whole, build, options

Table = dict[str, Any]
Name = Annotated[str, Field(min_length=1, max_length=100)]


@options
class MethodTable:
    """One ``[[methods]]`` table.

    Attributes:
        name: the registry name.
        label: what reports call it; `""` = made from the name and, where a suite has it twice, the options.
        options: the other keys: hyper-parameters.
        training: overrides of the suite's ``[training]``.
    """

    name: Name
    label: str = ""
    options: Table = Field(default_factory=dict)
    training: Table = Field(default_factory=dict)


@options
class TaskTable:
    """One ``[[tasks]]`` table: a registry name and the task's options."""

    name: Name
    options: Table = Field(default_factory=dict)


JUDGED_BY = ("clean", "corruption", "pgd")
"""The tasks, with their defaults, of a suite that says nothing about tasks."""


@options
class Suite:
    """A suite: every data set x architecture x method x seed is a cell, and every task judges every cell.

    Attributes:
        name: what it is called.
        description: one sentence for listings.
        datasets, architectures, seeds: the axes beside the methods.
        training: the ``[training]`` table.
        methods, tasks: the ``[[methods]]`` and ``[[tasks]]`` tables. A suite without the key ``tasks`` is judged by
            clean, corruption and pgd with their defaults; ``tasks = []`` trains only.
        source: what it was read from, for errors; no key of a file.
    """

    name: Name
    description: str = ""
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)] = ("cifar10-sample",)
    architectures: Annotated[tuple[Name, ...], Field(min_length=1)] = ("resnet8",)
    seeds: Annotated[tuple[Whole, ...], Field(min_length=1)] = (0,)
    training: Table = Field(default_factory=dict)
    methods: Annotated[tuple[MethodTable, ...], Field(min_length=1)]
    tasks: tuple[TaskTable, ...] = tuple(TaskTable(name=name) for name in JUDGED_BY)
    source: str = field(default="suite", compare=False)


def shipped() -> Mapping[str, Path]:
    """The suites that come with robusteval, by name (an installed package holds a copy of ``benchmarks/*.toml``)."""
    package = Path(__file__).parent
    installed = package / "suites"
    folder = installed if installed.is_dir() else package.parent / "benchmarks"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_suite(source: str, settings: Iterable[str] = ()) -> Suite:
    """The suite of a TOML file or of the name of a shipped one.

    Args:
        source: a path that ends with ``.toml``, or a name.
        settings: ``key=value`` changes, see `change`.

    Raises:
        UserError: it is not there, is not TOML, or holds something wrong.
    """
    path = Path(source) if source.endswith(".toml") else shipped().get(source)
    if path is None:
        raise unknown("suite", "suite", source, [*shipped(), "a path ending with .toml"])
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: not valid TOML: {error}") from error
    table.setdefault("tasks", _default_tasks())  # before the settings, which may change their options
    for setting in settings:
        change(table, setting)
    return parse_suite(table, source)


def _default_tasks() -> list[Table]:
    """The ``[[tasks]]`` tables of a suite that has none."""
    return [{"name": name} for name in JUDGED_BY]


def parse_suite(table: Mapping[str, Any], where: str) -> Suite:
    """The suite that a TOML table describes; ``where`` names it in errors."""
    if "source" in table:
        raise unknown(where, "key", "source", Suite.__dataclass_fields__.keys() - {"source"})
    table = {"tasks": _default_tasks(), **table}
    methods = tuple(
        build(MethodTable, _apart(entry, {"name", "label", "training"}), f"{where}: methods[{position}]")
        for position, entry in enumerate(_tables(table, "methods", where))
    )
    tasks = tuple(
        build(TaskTable, _apart(entry, {"name"}), f"{where}: tasks[{position}]")
        for position, entry in enumerate(_tables(table, "tasks", where))
    )
    return build(Suite, {**table, "methods": methods, "tasks": tasks, "source": where}, where)


def _tables(table: Mapping[str, Any], key: str, where: str) -> list[Table]:
    """The tables of an array of tables."""
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise UserError(f"{where}: {key}: must be an array of tables: write [[{key}]] and name = ... under it")
    return value


def _apart(entry: Table, reserved: set[str]) -> Table:
    """A table whose keys beyond the reserved ones are moved under ``options``."""
    options = {key: value for key, value in entry.items() if key not in reserved}
    return {key: value for key, value in entry.items() if key in reserved} | {"options": options}


def change(table: Table, setting: str) -> None:
    """Applies ``key=value`` to a suite's table, in place.

    The key is dotted: ``seeds``, ``training.epochs``, ``methods.entprop.k``, ``methods.entprop.training.epochs``,
    ``tasks.pgd.steps``; a method is meant by its label or name, and all that match are changed. The value is TOML;
    what is not TOML is text, so that ``tasks.pgd.epsilon=8/255`` needs no quotes.

    >>> table = {"methods": [{"name": "entprop"}]}
    >>> change(table, "methods.entprop.k=0.4"); change(table, "training.schedule=step"); table
    {'methods': [{'name': 'entprop', 'k': 0.4}], 'training': {'schedule': 'step'}}
    """
    key, equals, text = setting.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise UserError(f"--set {setting}: not of the form key=value, e.g. training.epochs=2")
    places = [table]
    if parts[0] in ("methods", "tasks"):
        if len(parts) < 3:
            raise UserError(f"--set {setting}: say which and what: {parts[0]}.NAME.KEY=value")
        kind, name, *parts = parts
        entries = _tables(table, kind, "suite")
        places = [entry for entry in entries if name in (entry.get("label"), entry.get("name"))]
        if not places:
            raise unknown(f"--set {setting}", kind.removesuffix("s"), name, {str(e.get("name")) for e in entries})
    for place in places:
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {setting}: {part} is a value, not a table")
        place[parts[-1]] = toml_value(text.strip())


def toml_value(text: str) -> Any:
    """What a TOML value stands for; text that is none stands for itself.

    >>> toml_value("0.5"), toml_value("[1, 2]"), toml_value("true"), toml_value("8/255")
    (0.5, [1, 2], True, '8/255')
    """
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def narrowed(suite: Suite, *, only: Iterable[str] = (), seeds: Iterable[int] = ()) -> Suite:
    """The suite with some of its methods (by label or name) and other seeds; nothing given changes nothing."""
    only, seeds = tuple(only), tuple(seeds)
    for name in only:
        known = {name for table in suite.methods for name in (table.name, table.label) if name}
        if name not in known:
            raise unknown("--only", "method", name, known)
    methods = tuple(table for table in suite.methods if not only or {table.name, table.label} & set(only))
    return replace(suite, methods=methods, seeds=seeds or suite.seeds)
