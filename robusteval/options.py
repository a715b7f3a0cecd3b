"""Typed, range-checked options: the fields of methods, tasks and training tables.

A class decorated with `options` is a frozen dataclass whose values are checked when it is made,
from Python or from a TOML table; `build` turns the checker's complaints into one clear error.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from robusteval.errors import UserError, unknown

T = TypeVar("T")

_FRACTION = re.compile(r"\s*([0-9.]+(?:[eE]-?[0-9]+)?)\s*/\s*([0-9.]+(?:[eE]-?[0-9]+)?)\s*")


def fraction(value: object) -> object:
    """The number that a string such as ``"8/255"`` stands for; anything else unchanged.

    >>> fraction("8/255") == 8 / 255, fraction(0.5)
    (True, 0.5)
    """
    if isinstance(value, str):
        match = _FRACTION.fullmatch(value)
        try:
            return float(match[1]) / float(match[2]) if match else float(value)
        except (ValueError, ZeroDivisionError):
            return value
    return value


def written(value: float) -> str:
    """A radius the way the field writes it: ``8/255`` where that is exact, else the plain number.

    >>> written(8 / 255), written(0.5), written(0.0)
    ('8/255', '0.5', '0')
    """
    for numerator in range(1, 256):
        if value == numerator / 255:
            return f"{numerator}/255" if numerator < 255 else "1"
    return f"{value:.6g}"


def flattened(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their name, those of tables within by their path.

    >>> flattened({"lr": 0.1, "awp": {"gamma": 0.01}})
    {'lr': 0.1, 'awp.gamma': 0.01}
    """
    found: dict[str, Any] = {}
    for key, value in options.items():
        found |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


Norm = Literal["Linf", "L2"]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Radius = Annotated[float, BeforeValidator(fraction), Field(ge=0, allow_inf_nan=False)]
"""A perturbation size or step; a fraction such as ``"8/255"`` is accepted."""
Step = Annotated[float, BeforeValidator(fraction), Field(gt=0, allow_inf_nan=False)]
"""The length of an attack's step; a fraction is accepted."""


def in_pixel_units(norm: Norm, **radii: float) -> None:
    """Refuses a radius or step that is more than the whole pixel range in the Linf norm: a mistake of units.

    Raises:
        ValueError: with the name of the first one.
    """
    for name, value in radii.items():
        if norm == "Linf" and value > 1:
            raise ValueError(
                f"{name}: {written(value)} is more than the whole pixel range; "
                'allowed for Linf: 0 to 1, for example "8/255"'
            )


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(cls: type[T]) -> type[T]:
    """The class as a frozen, keyword-only dataclass that checks types and ranges and refuses unknown keys."""
    config = ConfigDict(extra="forbid", strict=True)
    checked: type[T] = dataclass(frozen=True, kw_only=True, config=config)(cls)  # type: ignore[assignment]  # pydantic's own type for it
    return checked


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """The options object made from a table of values.

    Args:
        cls: a class decorated with `options`.
        values: the table, e.g. from TOML.
        where: what the table is, for the error message.

    Raises:
        UserError: an unknown key, a wrong type or a value out of range, with what is allowed.
    """
    allowed = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # T is a dataclass, but is not typed as one
    for key in values:
        if key not in allowed:
            raise unknown(where, "key", key, allowed)
    try:
        return cls(**{key: _frozen(value) for key, value in values.items()})
    except ValidationError as error:
        raise from_validation(error, where) from None


def _frozen(value: object) -> object:
    """A TOML list as the tuple that options hold; anything else unchanged."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def from_validation(error: ValidationError, where: str) -> UserError:
    """One line for the first thing that a pydantic validation found wrong."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    if first["type"] == "tuple_type":
        example = f", e.g. {json.dumps([given])}" if isinstance(given, str | int | float) else ""
        message = f"should be a list{example}"
    if first["type"] == "literal_error" and isinstance(given, str):
        nearest = difflib.get_close_matches(given, re.findall("'([^']*)'", first["ctx"]["expected"]), n=1)
        message += f"; did you mean {nearest[0]!r}?" if nearest else ""
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | list | tuple) else ""
    return UserError(f"{where}: {place + ': ' if place else ''}{message[0].lower() + message[1:]}{shown}")
