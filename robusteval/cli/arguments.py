"""The options that several commands share, each with its one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

RESULTS = Path("results")
"""Where runs and reports go when nothing is said."""

Settings = Annotated[tuple[str, ...], Parameter(name="--set", metavar="KEY=VALUE", show_default=False)]
Out = Annotated[Path, Parameter(help="Folder of runs and reports.")]
DataDir = Annotated[Path | None, Parameter(help="Folder with data sets; else ROBUSTEVAL_DATA, else the user's cache.")]
Device = Annotated[str, Parameter(help="auto (a GPU if there is one), cpu, cuda or cuda:N.")]
Threads = Annotated[
    int | None, Parameter(validator=Number(gte=1), help="CPU threads; results depend on it in rounding.")
]
Limit = Annotated[
    int | None, Parameter(validator=Number(gte=1), help="Use only the first N images of each split, to try things out.")
]
Flag = Annotated[bool, Parameter(show_default=False)]
Seed = Annotated[int, Parameter(validator=Number(gte=0))]
