"""``export``: a run in the files of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robusteval.cli.output import line, note
from robusteval.errors import UserError

Format = Annotated[Literal["robustbench", "safetensors", "torch"], Parameter(name="--format")]


def export(folder: Path, /, *, out: Path, kind: Format = "robustbench", branch: str = "", name: str = "") -> None:
    """Write a run in the files of other tools.

    Args:
        folder: Folder of the run.
        out: For robustbench the folder in which model_info/ is made or added to; else the file to write.
        kind: robustbench: model_info JSON and the table of single corruptions, with nothing but what RobustBench's own
            evaluation would have measured; safetensors or torch: one BatchNorm branch as an ordinary checkpoint.
        branch: BatchNorm branch; by default the one that the run deploys.
        name: Name of the model in RobustBench; by default author, year and word of the title, architecture and seed.
    """
    from robusteval.store import RUN, load_run, names

    if RUN not in names(folder):
        raise UserError(f"{folder}: is no run's folder; allowed: one of those under results/runs")
    if kind == "robustbench":
        from robusteval.export import robustbench

        exported = robustbench(load_run(folder), out, name=name or None, branch=branch or None)
        for text in exported.notes:
            note(text)
        for path in exported.paths:
            line(str(path))
        return
    from robusteval.plain import checkpoint

    if name:
        raise UserError("--name: is for --format robustbench")
    written = checkpoint(folder, out, kind=kind, branch=branch or None)
    line(f"{out}: branch {written}")
