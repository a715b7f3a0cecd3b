"""Options in words: each with its default, what is allowed, and the meaning from its class's docstring."""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from docstring_parser import parse
from docstring_parser.common import DocstringStyle
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from robusteval.cli.output import line
from robusteval.options import written

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_RADIUS = 'a number or a fraction such as "8/255"'


def explain(options: type) -> None:
    """Writes what an `options` class is for and each of its options, as a suite would write them."""
    described = parse(inspect.getdoc(options) or "", style=DocstringStyle.GOOGLE)
    for paragraph in (described.short_description, described.long_description):
        if paragraph:
            line(_told(paragraph))
    default, hints, meant = options(), get_type_hints(options, include_extras=True), meanings(options)
    for field in fields(options):
        line("")
        line(f"{field.name} = {as_toml(getattr(default, field.name), hints[field.name])}")
        line(textwrap.indent(f"allowed: {allowed(hints[field.name])}\n{_told(meant[field.name])}", "    "))


def explained(options: type) -> dict[str, Any]:
    """The same for programs: what the class is for, and the name, default, range and meaning of each option."""
    described = parse(inspect.getdoc(options) or "", style=DocstringStyle.GOOGLE)
    default, hints, meant = options(), get_type_hints(options, include_extras=True), meanings(options)
    about = (described.short_description, described.long_description)
    listed = [
        {
            "name": field.name,
            "default": getattr(default, field.name),
            "allowed": allowed(hints[field.name]),
            "meaning": _plain(meant[field.name]),
        }
        for field in fields(options)
    ]
    return {"summary": "\n".join(_plain(text) for text in about if text), "options": listed}


def _told(text: str) -> str:
    """A text of a docstring in lines of a terminal's width, without its markup."""
    return textwrap.fill(_plain(text), 100)


def _plain(text: str) -> str:
    """A text of a docstring on one line, without its markup."""
    return " ".join(text.replace("``", "").split())


def meanings(options: type) -> dict[str, str]:
    """What each option means, from the ``Attributes`` of the docstrings of the class and those it inherits from."""
    found: dict[str, str] = {}
    for cls in reversed(options.__mro__):
        for described in parse(cls.__dict__.get("__doc__") or "", style=DocstringStyle.GOOGLE).params:
            for name in described.arg_name.split(","):
                found[name.strip()] = described.description or ""
    return found


def as_toml(value: object, hint: object) -> str:
    """A default as a suite would write it; ``none`` where leaving the option out is the only way.

    >>> from robusteval.options import Radius
    >>> as_toml(1 / 255, Radius), as_toml(0.1, float), as_toml((1, 2), tuple[int, ...]), as_toml(None, None)
    ('"1/255"', '0.1', '[1, 2]', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, float) and _is_radius(hint):
        return json.dumps(text) if "/" in (text := written(value)) else text
    return json.dumps(value)


def _is_radius(hint: object) -> bool:
    """Whether fractions are accepted."""
    parts = (hint, *get_args(hint))
    return any(isinstance(extra, BeforeValidator) for part in parts for extra in getattr(part, "__metadata__", ()))


def allowed(hint: Any) -> str:
    """What an option of that type may be, in words.

    >>> from robusteval.options import Count, Probability
    >>> allowed(Literal["a", "b"]), allowed(Probability), allowed(tuple[Count, ...])
    ('"a" or "b"', 'a number from 0 to 1', 'a list, each a whole number from 1')
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if told := [extra.description for extra in parts[1:] if isinstance(extra, FieldInfo) and extra.description]:
            return told[0]
        return (_RADIUS + "," if _is_radius(hint) else allowed(parts[0])) + _range(parts[1:])
    if origin is Literal:
        return " or ".join(json.dumps(part) for part in parts)
    if origin in (Union, UnionType):
        words = [allowed(part) for part in parts if part is not NoneType]
        return " or ".join(words) + (", or left out" if NoneType in parts else "")
    if origin is tuple:
        return f"a list, each {allowed(parts[0])}"
    return _WORDS[hint]


def _range(extras: tuple[object, ...]) -> str:
    """The bounds among the extras of an annotated type."""
    rules = [rule for extra in extras if isinstance(extra, FieldInfo) for rule in extra.metadata]
    low = next((f" from {rule.ge}" for rule in rules if isinstance(rule, Ge)), "")
    low = next((f" above {rule.gt}" for rule in rules if isinstance(rule, Gt)), low)
    high = next((f" to {rule.le}" for rule in rules if isinstance(rule, Le)), "")
    high = next((f" to below {rule.lt}" for rule in rules if isinstance(rule, Lt)), high)
    return low + high
