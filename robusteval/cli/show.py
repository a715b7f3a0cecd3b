"""``show``: one thing in full."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from robusteval.cli.arguments import RESULTS, Out
from robusteval.cli.cards import write_card
from robusteval.cli.explain import explain
from robusteval.cli.output import in_threads, line, table
from robusteval.cli.summary import skipped
from robusteval.config import shipped
from robusteval.errors import UserError, unknown
from robusteval.records import Measurement
from robusteval.store import StoredRun, find_runs
from robusteval.wording import as_row

Page = Callable[[], None]


def show(name: str, /, *, out: Out = RESULTS) -> int:
    """Show a run with its numbers, or what `ls` lists: a method or task with its options, a model, a data set, ...

    Args:
        name: Id of a run in `--out` (its beginning will do), name of a method, task, model, data set, corruption or
            suite, or `training` for the options of training.
    """
    damaged: list[tuple[Path, UserError]] = []
    runs = {stored.run.id: stored for stored in find_runs(out, skip=lambda *found: damaged.append(found))}
    pages = _pages(name)
    if name not in runs and pages:
        for position, page in enumerate(pages):
            if position:
                line("")
            page()
        return 0
    matching = [name] if name in runs else [run_id for run_id in runs if run_id.startswith(name)]
    if len(matching) > 1:
        raise UserError(f"show (runs in {out}): several runs begin so: {', '.join(matching)}")
    if not matching:
        for folder, error in damaged:
            if folder.name.startswith(name):
                raise error
        raise unknown(f"show (runs in {out})", "run or name", name, [*runs, *_known()])
    _show_run(runs[matching[0]])
    return skipped([error for _, error in damaged])


def _known() -> list[str]:
    """All names but those of runs, each once."""
    from robusteval.corruptions import NAMES, adapter
    from robusteval.data import DATASETS
    from robusteval.methods import METHODS
    from robusteval.models import MODELS
    from robusteval.tasks import TASKS

    names = ["training", *METHODS, *TASKS, *MODELS, *DATASETS, *NAMES, *adapter.NAMES, *shipped()]
    return list(dict.fromkeys(names))


def _pages(name: str) -> list[Page]:
    """How to show what has that name; a data set and a suite may share one."""
    from robusteval.corruptions import NAMES, adapter
    from robusteval.data import DATASETS
    from robusteval.methods import METHODS
    from robusteval.models import MODELS
    from robusteval.tasks import TASKS
    from robusteval.training import Training

    kinds: list[tuple[Mapping[str, object], Page]] = [
        ({"training": Training}, lambda: explain(Training)),
        (METHODS, partial(_method, name)),
        (TASKS, lambda: explain(TASKS[name])),
        (MODELS, partial(_model, name)),
        (DATASETS, partial(_dataset, name)),
        (dict.fromkeys([*NAMES, *adapter.NAMES]), partial(_corruption, name)),
        (shipped(), partial(_suite, name)),
    ]
    return [page for names, page in kinds if name in names]


def _facts(facts: Mapping[str, object]) -> None:
    """Writes names and values in two columns; what is None is left out."""
    for key, value in facts.items():
        if value is not None:
            line(f"{key + ':':13}{value}")


def _method(name: str) -> None:
    from robusteval.methods import METHODS

    write_card(name)
    line("")
    explain(METHODS[name])


def _model(name: str) -> None:
    from robusteval.models import MODELS

    info = MODELS[name]
    _facts({"model": name, "description": info.description, "paper": info.paper})


def _dataset(name: str) -> None:
    from robusteval.data import DATASETS

    info = DATASETS[name]
    _facts(
        {
            "data set": name,
            "description": info.description,
            "images": ", ".join(f"{size} {split}" for split, size in info.sizes.items()),
            "classes": f"{len(info.classes)}: {', '.join(info.classes)}",
            "mean": info.mean,
            "std": info.std,
            "digests": ", ".join(f"{split} {digest}" for split, digest in info.digests.items()),
            "citation": info.citation,
        }
    )


def _corruption(name: str) -> None:
    from robusteval.corruptions import CBAR, CORRUPTIONS, TABLES, adapter, strength
    from robusteval.corruptions.published import DETERMINISTIC

    if name in adapter.NAMES:
        made = f"one image at a time by {adapter.generator()}"
        _facts({"corruption": name, "role": "other", "severities": "1 (weak) to 5", "images": made})
        line(f"note: {adapter.NOTE}")
        return
    held_out = "one of CIFAR-10-C-bar" if name in CBAR else "held out: beside the benchmark's 15"
    role = "one of the benchmark's 15" if name in CORRUPTIONS else held_out
    if name in DETERMINISTIC:
        images = "equal byte for byte to the published files of CIFAR-10-C and CIFAR-100-C (table cifar)"
    elif name in CBAR:
        images = "not compared byte for byte: no files of CIFAR-10-C-bar are published"
    else:
        images = "other draws than in the published files, which were made without a seed: not equal byte for byte"
    _facts({"corruption": name, "role": role, "severities": "1 (weak) to 5", "images": images})
    line("")
    tables = [kind for kind in TABLES if name in TABLES[kind]]
    rows = [
        (str(severity), *(" ".join(f"{x:.4g}" for x in strength(kind, name, severity)) for kind in tables))
        for severity in (1, 2, 3, 4, 5)
    ]
    table(("severity", *tables), rows)


def _suite(name: str) -> None:
    path = shipped()[name]
    _facts({"suite": name, "file": path})
    line("")
    line(path.read_text(encoding="utf-8").rstrip())


def _show_run(stored: StoredRun) -> None:
    run = stored.run
    facts: dict[str, object] = {
        "run": run.id,
        "folder": stored.folder,
        "status": run.status,
        "error": run.error,
        "method": run.method,
        "options": _options(run.options),
        "training": _options(run.training),
        "branches": f"{' '.join(run.branches)}, deployed: {run.deployed}",
        "teacher": run.teacher,
        "snapshots": " ".join(f"epoch {one.epoch}" for one in run.snapshots) or None,
        "parameters": f"{run.parameters:,}",
        "trained on": f"{run.train_data.name}, {run.train_data.n} images, "
        f"{'verified' if run.train_data.verified else 'unverified'}",
        "device": f"{run.provenance.device}, {in_threads(run.provenance.threads)}, {run.provenance.precision}",
        "made": f"{run.provenance.created} by robusteval {run.provenance.robusteval}",
        "commit": run.provenance.commit,
    }
    if run.cost:
        facts["cost"] = f"{run.cost.flops:.3e} FLOPs; seconds: {_options(run.cost.wall_s, '.1f')}"
        facts["passes"] = f"forward {_options(run.cost.forward)}; backward {_options(run.cost.backward)}"
    if stored.history:
        last = stored.history[-1]
        facts["last epoch"] = f"{last.epoch}: {_options(last.logs, '.4f')}"
    _facts(facts)
    rows = [_row(m, task.epoch) for task in (*stored.tasks, *stored.on_the_way) for m in task.measurements]
    if rows:
        line("")
        table(("task", "metric", "value", "low", "high", "n", "trust", "where"), rows)


def _row(measurement: Measurement, epoch: int | None) -> tuple[str, ...]:
    """The measurement in cells; of weights kept on the way, with their epoch at the front of where."""
    *cells, where = as_row(measurement)
    shown = where if epoch is None else f"epoch={epoch} {where}".rstrip()
    return (*cells, measurement.trust, shown)


def _options(values: Mapping[str, object], spec: str = ".6g") -> str:
    """Options or numbers in one line."""
    return " ".join(
        f"{key}={value:{spec}}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )
