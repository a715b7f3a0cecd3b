"""``run --dry-run``: what a run would do and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robusteval.cli.output import document, in_threads, line, table

if TYPE_CHECKING:
    from robusteval.planning import Job
    from robusteval.runtime import Runtime


def forecast(jobs: Sequence[Job], runtime: Runtime, *, as_json: bool) -> None:
    """Prints what a run would do and cost."""
    from robusteval.estimate import estimate

    costs = estimate(jobs, runtime)
    if as_json:
        document(
            [
                {"run": job.folder.name, "label": job.cell.label, "state": job.state, **cost._asdict()}
                for job, cost in zip(jobs, costs, strict=True)
            ]
        )
        return
    rows: list[tuple[str, ...]] = [
        (job.folder.name, job.cell.label, job.state, f"{cost.flops:.2e}", f"{cost.seconds / 60:.1f}")
        for job, cost in zip(jobs, costs, strict=True)
    ]
    flops, seconds = sum(cost.flops for cost in costs), sum(cost.seconds for cost in costs)
    rows.append(("total", "", "", f"{flops:.2e}", f"{seconds / 60:.1f}"))
    table(("cell", "method", "state", "FLOPs", "minutes"), rows)
    if all(job.state == "done" for job in jobs):
        line("all cells are done: nothing is left to compute")
        return
    line(
        f"minutes: from a few steps of each training and task, timed just now on {runtime.device} with "
        f"{in_threads(runtime.threads)}; a half-done training counts in full"
    )
