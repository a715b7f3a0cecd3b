"""``check``: the regression gate."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from robusteval.cli.arguments import (
    RESULTS,
    DataDir,
    Device,
    Download,
    Flag,
    Json,
    Limit,
    Quiet,
    Settings,
    Threads,
    Verbose,
    level,
    whole,
    with_settings,
)
from robusteval.cli.cautions import caution
from robusteval.cli.output import note
from robusteval.cli.verdict import leave, renew, tell
from robusteval.cli.work import INTERRUPTED, work
from robusteval.config import Suite, load_suite, narrowed
from robusteval.errors import UserError
from robusteval.store import StoredRun, find_runs, load_run

if TYPE_CHECKING:
    from robusteval.check import Baseline
    from robusteval.check.rules import Tolerances

BASELINES = Path("benchmarks/baselines")
UPDATED = 5
"""Seeds of a baseline: with fewer the noise of training is known too badly to tell a drop from it."""

Fraction = Annotated[float | None, Parameter(validator=Number(gt=0, lt=0.5), show_default=False)]


def check(
    *,
    suite: str = "smoke",
    baseline: Annotated[Path | None, Parameter(show_default="benchmarks/baselines/SUITE.json")] = None,
    runs: Annotated[tuple[Path, ...], Parameter(show_default=False, consume_multiple=True)] = (),
    seeds: Annotated[int | None, Parameter(converter=whole, validator=Number(gte=1))] = None,
    tolerance: Annotated[tuple[str, ...], Parameter(metavar="[NUMBER=]FRACTION", show_default=False)] = (),
    false_alarms: Fraction = None,
    slow_fails: Flag = False,
    update: Flag = False,
    junit: Path | None = None,
    summary: Annotated[Path | None, Parameter(show_default="GITHUB_STEP_SUMMARY where GITHUB_ACTIONS is set")] = None,
    settings: Settings = (),
    out: Annotated[Path | None, Parameter(show_default="results/check-CODE")] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    limit: Limit = None,
    download: Download = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Compare a suite's numbers and costs with a baseline; fail only if one fell beyond chance and tolerance.

    The suite is trained and judged as by `run`, and what is done already is not done again unless robusteval's code
    changed since. A number fails if the interval of its drop, which allows for other seeds and other test images, lies
    wholly beyond the tolerance. Passes and FLOPs fail on any rise. What is missing or was measured in another way is an
    error. The exit code is 0 where all is well, 1 where it is not, 2 for a mistake in what was asked.

    Args:
        suite: Name of a shipped suite (`robusteval ls suites`) or path of a TOML file.
        baseline: The file to compare with.
        runs: Folders with runs to look at, instead of training the suite.
        seeds: Train this many seeds, from 0, instead of the suite's; with `--update` 5 unless said otherwise.
        tolerance: A drop that nobody minds, e.g. `0.02` for all numbers, `attack=0.03` for a kind (clean, corruption,
            attack) or `clean_accuracy=0.01` for one number; may be repeated. Else what the baseline says: a point.
        false_alarms: How often, at most, a call may fail over code that is as good as before; else what the baseline
            says: 0.01.
        slow_fails: Fail where training got slower, measured in units of a calibration loop; else only warn.
        update: Write the baseline, and show what differs from the former.
        junit: Write JUnit XML to this file.
        summary: Append Markdown to this file.
        settings: A changed option, as in `run`; may be repeated.
        out: Folder of the trained suite. By default one for each state of robusteval's code.
    """
    from robusteval.check import tolerances

    told = level(quiet=quiet, verbose=verbose)
    if update and (junit or summary or slow_fails):
        raise UserError("--update: nothing is judged; not allowed with it: --junit, --summary, --slow-fails")
    allowed = tolerances(tolerance)
    path = baseline or BASELINES / f"{Path(suite).stem}.json"
    former = _former(path, allowed, false_alarms, update=update)
    if runs:
        if seeds is not None or settings or out is not None:
            raise UserError("--runs: these are looked at as they are; not allowed with it: --seeds, --set, --out")
        stored = _found(runs)
    else:
        chosen = _gated(with_settings(lambda settings: load_suite(suite, settings), settings))
        count = seeds or (UPDATED if update else None)
        chosen = narrowed(chosen, seeds=range(count) if count else ())
        from robusteval.check.calibration import Stopwatch
        from robusteval.check.sources import code_digest
        from robusteval.planning import plan
        from robusteval.runtime import prepare

        runtime = prepare(device, threads)
        folder = out or RESULTS / f"check-{code_digest()[:12]}"
        jobs = plan(chosen, folder, data_dir=data_dir, limit=limit, download=download)
        caution(task for job in jobs for task in job.missing)
        watch = Stopwatch({job.folder.name: job.folder for job in jobs if job.state == "new"}, runtime)
        if work(jobs, runtime, level=told, observers=[watch]) == INTERRUPTED:
            return INTERRUPTED
        stored = [load_run(job.folder) for job in jobs]
    _other_code(stored)
    from robusteval.check import collect, judge, ruled

    now = collect(stored, suite=Path(suite).stem)
    if former is None:
        return renew(path, None, ruled(now, allowed, false_alarms), as_json=as_json)
    if update:
        return renew(path, former, now, as_json=as_json)
    if not runs and former.suite != now.suite:
        note(f"{path}: the baseline is of the suite {former.suite}, not of {now.suite}")
    gate = judge(former, now, slow_fails=slow_fails)
    tell(gate, former.suite, as_json=as_json, every=not quiet)
    leave(gate, former.suite, junit=junit, summary=summary, as_json=as_json)
    return 1 if gate.red else 0


def _former(path: Path, allowed: Tolerances, false_alarms: float | None, *, update: bool) -> Baseline | None:
    """The baseline that is there, with the rules that were asked for; None if the first one is to be made."""
    from robusteval.check import read, ruled

    return None if update and not path.exists() else ruled(read(path), allowed, false_alarms)


def _gated(suite: Suite) -> Suite:
    """The suite, checked, without the tasks that make no number of the leaderboard: the gate would not look at them.

    Raises:
        UserError: something is wrong in it, or none of its tasks is left.
    """
    from robusteval.cells import check as check_suite
    from robusteval.report.board.columns import DIAGNOSTICS

    check_suite(suite)
    tasks = tuple(table for table in suite.tasks if table.name not in DIAGNOSTICS)
    if not tasks:
        raise UserError(f"{suite.source}: tasks: none that the gate compares; allowed: clean, corruption and attacks")
    return replace(suite, tasks=tasks)


def _found(folders: Sequence[Path]) -> list[StoredRun]:
    """The runs of some folders, each once."""
    found = {run.folder.resolve(): run for folder in folders for run in find_runs(folder)}
    if not found:
        raise UserError(f"--runs {', '.join(map(str, folders))}: no runs here; `robusteval run --out DIR` makes some")
    return list(found.values())


def _other_code(runs: Sequence[StoredRun]) -> None:
    """Says that runs were made by another commit, if they were."""
    from robusteval.provenance import commit

    others = {run.run.provenance.commit for run in runs} - {commit()}
    if others:
        made = ", ".join(sorted(_short(one) for one in others))
        note(f"runs made by {made} are taken as they are; the code here is of {_short(commit())}")


def _short(commit: str | None) -> str:
    """A commit by its beginning, and whether files were changed since (`robusteval.provenance.commit`)."""
    name, plus, changes = (commit or "").partition("+")
    return f"{name[:12]}{plus}{changes}" or "an unknown commit"
