"""The options that several commands share, each with its one help text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from robusteval.errors import UserError

T = TypeVar("T")


def whole(hint: Any, tokens: Sequence[Token]) -> Any:
    """The whole number that was given, or a tuple of them where ``hint`` is one; cyclopts would round 2.5.

    Raises:
        ValueError: something else was given.
    """
    values = []
    for token in tokens:
        try:
            values.append(int(token.value))
        except ValueError:
            raise ValueError(f"{token.value!r} is not a whole number") from None
    return tuple(values) if get_origin(hint) is tuple else values[0]


RESULTS = Path("results")
"""Where runs and reports go when nothing is said."""

Settings = Annotated[tuple[str, ...], Parameter(name="--set", metavar="KEY=VALUE", show_default=False)]
Out = Annotated[Path, Parameter(help="Folder of runs and reports.")]
DataDir = Annotated[Path | None, Parameter(help="Folder with data sets; else ROBUSTEVAL_DATA, else the user's cache.")]
Device = Annotated[str, Parameter(help="auto (a GPU if there is one), cpu, cuda or cuda:N.")]
Threads = Annotated[
    int | None,
    Parameter(converter=whole, validator=Number(gte=1), help="CPU threads; results depend on it in rounding."),
]
Limit = Annotated[
    int | None,
    Parameter(
        converter=whole,
        validator=Number(gte=1),
        help="Use only the first N images of each split, to try things out; for training N must be at least "
        "training.batch_size.",
    ),
]
Flag = Annotated[bool, Parameter(show_default=False)]
Download = Annotated[bool, Parameter(show_default=False, help="Download the data set where it is missing.")]
Seed = Annotated[int, Parameter(converter=whole, validator=Number(gte=0))]
Json = Annotated[
    bool, Parameter(name="--json", show_default=False, help="Print one JSON document: fractions, null where missing.")
]
Quiet = Annotated[
    bool, Parameter(name=("--quiet", "-q"), show_default=False, help="Tell only what fails, and the result.")
]
Verbose = Annotated[
    bool,
    Parameter(name=("--verbose", "-v"), show_default=False, help="Tell each epoch's logs and each number as well."),
]
Track = Annotated[
    tuple[Literal["tensorboard", "wandb"], ...],
    Parameter(
        name="--track",
        show_default=False,
        help="Also send logs and numbers to this tracker (packages of the extras of the same names); may be repeated. "
        "Nothing that a tracker does changes a result or stops a run.",
    ),
]

Level = Literal["quiet", "normal", "verbose"]
"""How much is told."""


def level(*, quiet: bool, verbose: bool) -> Level:
    """What two options come to.

    Raises:
        UserError: both are given.
    """
    if quiet and verbose:
        raise UserError("--quiet, --verbose: they ask for different things; allowed: one of them")
    return "quiet" if quiet else "verbose" if verbose else "normal"


def with_settings(make: Callable[[tuple[str, ...]], T], settings: tuple[str, ...]) -> T:
    """What ``make`` makes of ``--set`` settings; an error that a setting brought names it.

    Raises:
        UserError: of ``make``; where it succeeds without the last settings, the first that is one too many is named.
    """
    try:
        return make(settings)
    except UserError as error:
        if not settings or str(error).startswith("--set"):
            raise
        with_settings(make, settings[:-1])
        raise UserError(f"--set {settings[-1]}: {error}") from None
