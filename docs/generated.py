"""Pages and tables made from the package itself while the site is built, so that they cannot go stale.

Methods' and tasks' pages come from cards, options and docstrings; tables of a command's options from the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from robusteval.cli import app
from robusteval.cli.cards import markdown_table
from robusteval.cli.explain import allowed, as_toml, explained, meanings
from robusteval.cli.listings import tasks as listed_tasks
from robusteval.cli.pages import pages
from robusteval.methods import METHODS
from robusteval.tasks import TASKS
from robusteval.training import Training


def generated() -> dict[str, str]:
    """Path in the site's sources to Markdown, for every page that is in no file."""
    made = {"methods/index.md": _methods(), "tasks/index.md": _tasks(), "training.md": _training()}
    made["decisions/index.md"] = _decisions()
    made |= {f"methods/{name}.md": _method(name) for name in METHODS}
    return made | {f"tasks/{name}.md": _task(name) for name in TASKS}


def filled(markdown: str) -> str:
    """A page with a table in place of each ``<!-- options: COMMAND -->``.

    Raises:
        KeyError: there is no such command.
    """
    return re.sub(r"<!-- options: ([a-z ]+) -->", lambda found: command_table(found[1]), markdown)


def command_table(name: str) -> str:
    """What a command takes, as its ``--help`` tells it, e.g. of ``run`` or ``data get``."""
    command = app
    for word in name.split():
        command = command[word]
    rows = []
    for argument in command.assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True):
        first, *others = argument.names
        metavar = _metavar(argument.hint, argument.parameter.metavar) if first.startswith("-") else ""
        names = ", ".join([f"`{first} {metavar}`".replace(" `", "`"), *(f"`{other}`" for other in others)])
        rows.append((names, _default(argument), _text(argument.parameter.help or "")))
    return _table(("option", "default", "meaning"), rows)


def _metavar(hint: Any, given: str | None) -> str:
    """What stands for the value of an option; nothing for one without."""
    if given is not None:
        return given
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    parts = [part for part in get_args(hint) if part is not type(None) and part is not Ellipsis]
    if parts and not isinstance(hint, type):
        return _metavar(parts[0], None)
    return {bool: "", int: "N", float: "NUMBER", Path: "PATH"}.get(hint, "TEXT")


def _default(argument: Any) -> str:
    """The default of an option, empty where there is none worth telling."""
    if argument.required:
        return "*required*"
    shown, default = argument.parameter.show_default, argument.field_info.default
    if isinstance(shown, str):
        return _text(shown)
    return "" if shown is False or default in (None, "", (), False) else f"`{default}`"


def _methods() -> str:
    """The page that lists methods."""
    table = re.sub(r"^\| `(\w+)`", r"| [`\1`](\1.md)", markdown_table(), flags=re.MULTILINE)
    return (
        "# Methods\n\nTwenty ways to train, each with its paper's options as defaults. "
        "Passes are those with gradients, per training image; FLOPs are multiples of `standard`. "
        "Of several branches the one in bold is deployed. A page tells what a method does, what it costs, every "
        "option, each choice the paper leaves open and the numbers it published.\n\n"
    ).replace("Twenty", str(len(METHODS))) + table


def _method(name: str) -> str:
    """The page of a method."""
    method, told = METHODS[name](), _told(name, "method")
    card, passes = told["card"], told["passes"]
    branches = list(dict.fromkeys(branch for law in passes.values() for branch in law))
    teacher = told["teacher"]
    lines = [
        f"# `{name}`",
        f"[{_text(card['title'])}]({card['url']})  \n{_text(card['authors'])}, {_text(card['venue'])} {card['year']}",
        _text(card["summary"]),
        f"Branches: {', '.join(f'`{branch}`' for branch in method.branches)}; deployed: `{method.deployed}`. "
        f"Reference code: {_text(card['reference'])}.",
        "## What training costs",
        "Passes for one training image with the default options; a test holds the counted ones against them.",
        _table(
            ("branch", "to learn", "to attack", "forward only"),
            [(f"`{one}`", *(f"{law.get(one, 0):g}" for law in passes.values())) for one in branches],
        ),
        f"FLOPs: {told['flops']:.2f} times those of [`standard`](standard.md)."
        + (
            f" The network it learns from is trained first, by [`{teacher['method']}`]({teacher['method']}.md)"
            f" ({teacher['flops']:.2f} times), once for all its students."
            if teacher
            else ""
        ),
        "## Options",
        _options(METHODS[name]),
        "## What the paper leaves open, or what differs from it",
        "\n".join(f"- {_text(one)}" for one in card["deviations"]) or "Nothing.",
        "## Published numbers",
        _published(METHODS[name]),
    ]
    return "\n\n".join(lines)


def _published(kind: Any) -> str:
    rows = [
        (
            f"`{one.dataset}`",
            f"`{one.architecture}`",
            " ".join(f"`{key}={value}`" for key, value in one.options.items()) or "default",
            _text(one.metric),
            f"{100 * one.value:.2f}" + ("" if one.sd is None else f" ± {100 * one.sd:.2f}"),
            _text(one.source),
        )
        for one in kind.card.published
    ]
    if not rows:
        return "None that could be compared with runs of this package."
    table = _table(("data set", "network", "options", "metric", "%", "source"), rows)
    return f"After ±: the standard deviation over runs, where it is reported.\n\n{table}"


def _tasks() -> str:
    """The page that lists tasks."""
    told = {entry["task"]: entry["measures"] for entry in listed_tasks().entries}
    rows = [(f"[`{name}`]({name}.md)", _text(told[name])) for name in TASKS]
    return (
        "# Tasks\n\nWhat networks are measured by: `--tasks` of [`eval`](../guide/eval.md), `[[tasks]]` of a suite.\n\n"
        + _table(("task", "what it measures"), rows)
    )


def _task(name: str) -> str:
    """The page of a task."""
    return f"# `{name}`\n\n{_summary(TASKS[name])}\n\n## Options\n\n{_options(TASKS[name])}"


def _training() -> str:
    """The page of the options of training."""
    return (
        f"# Options of training\n\n{_summary(Training)}\n\nIn a suite they stand in `[training]`, or for one method in "
        "`[methods.training]`; on the command line they are `--set training.epochs=2`.\n\n" + _options(Training)
    )


def _decisions() -> str:
    """The page that lists decisions, by their titles."""
    lines = ["# Decisions", "Questions that had more than one good answer, what was chosen, and what it costs."]
    items = []
    for path in sorted((Path(__file__).parent / "decisions").glob("*.md")):
        number, title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").split(" ", 1)
        items.append(f"- {number.rstrip(':')} [{title}]({path.name})")
    return "\n\n".join([*lines, "\n".join(items)])


def _told(name: str, kind: str) -> Any:
    """What ``robusteval show --json`` tells of that name."""
    return next(page for page in pages(name) if page.kind == kind).data()


def _summary(kind: type) -> str:
    """What a class is for, in paragraphs."""
    return "\n\n".join(_text(line) for line in explained(kind)["summary"].splitlines())


def _options(kind: type) -> str:
    """A table of the options, with defaults as a suite would write them."""
    default, hints, meant = kind(), get_type_hints(kind, include_extras=True), meanings(kind)
    rows = [
        (
            f"`{one.name}`",
            f"`{as_toml(getattr(default, one.name), hints[one.name])}`",
            _text(allowed(hints[one.name])),
            _text(meant[one.name]),
        )
        for one in fields(kind)
    ]
    return _table(("option", "default", "allowed", "meaning"), rows) if rows else "None."


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(plain: str) -> str:
    """A docstring's or card's text for a cell of Markdown: code stays code, nothing else means anything."""
    return "".join(_spans(" ".join(plain.replace("``", "`").split())))


def _spans(text: str) -> Iterator[str]:
    for part in re.split(r"(`[^`]+`)", text):
        code = part.startswith("`")
        yield part.replace("|", "\\|") if code else re.sub(r"([\\*_\[\]<>|`#])", r"\\\1", part)
