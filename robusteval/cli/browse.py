"""``ls`` and ``show``: what there is, and one thing in full."""

# ruff: noqa: D417 - options that commands share carry their help in their type (arguments.py)

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from robusteval.cli.arguments import RESULTS, Out
from robusteval.cli.evaluate import as_row
from robusteval.cli.output import line, table
from robusteval.config import load_suite, shipped
from robusteval.errors import unknown
from robusteval.store import StoredRun, find_runs


def ls(
    what: Literal["methods", "datasets", "models", "corruptions", "suites", "runs"], /, *, out: Out = RESULTS
) -> None:
    """List methods, datasets, models, corruptions, suites or runs.

    Args:
        what: What to list; runs are those in `--out`.
    """
    listings: Mapping[str, Callable[[], None]] = {
        "methods": _methods,
        "datasets": _datasets,
        "models": _models,
        "corruptions": _corruptions,
        "suites": _suites,
        "runs": lambda: _runs(out),
    }
    listings[what]()


def _methods() -> None:
    from robusteval.methods import METHODS

    rows = []
    for name, method in METHODS.items():
        card = method.card
        flops = f"{method().passes().flops:.2f}"
        source = f"{card.title} ({card.authors.split(',')[0]} et al., {card.venue} {card.year})"
        rows.append((name, flops, " ".join(method.branches), method.deployed, source))
    table(("method", "flops", "branches", "deployed", "paper"), rows)
    line("flops: of training, with default options, as a multiple of standard")


def _datasets() -> None:
    from robusteval.data import DATASETS

    rows = [
        (name, str(info.sizes["train"]), str(info.sizes["test"]), str(len(info.classes)), info.description)
        for name, info in DATASETS.items()
    ]
    table(("data set", "train", "test", "classes", "description"), rows)


def _models() -> None:
    from robusteval.models import MODELS

    table(("model", "description", "paper"), [(name, info.description, info.paper) for name, info in MODELS.items()])


def _corruptions() -> None:
    from robusteval.corruptions import CORRUPTIONS, HELD_OUT

    rows = [(name, "one of the 15") for name in CORRUPTIONS] + [(name, "held out") for name in HELD_OUT]
    table(("corruption", "role"), rows)


def _suites() -> None:
    rows = []
    for name in shipped():
        suite = load_suite(name)
        cells = len(suite.datasets) * len(suite.architectures) * len(suite.methods) * len(suite.seeds)
        rows.append((name, str(cells), suite.description))
    table(("suite", "cells", "description"), rows)


def _runs(out: Path) -> None:
    rows = [
        (stored.run.id, stored.run.status, stored.run.label, " ".join(sorted({task.task for task in stored.tasks})))
        for stored in find_runs(out)
    ]
    table(("run", "status", "label", "judged by"), rows)


def show(name: str, /, *, out: Out = RESULTS) -> None:
    """Show a run with its numbers, or a method with its paper and options.

    Args:
        name: Id of a run in `--out` (its beginning will do), or name of a method.
    """
    runs = {stored.run.id: stored for stored in find_runs(out)}
    matching = [stored for run_id, stored in runs.items() if run_id.startswith(name)]
    if len(matching) == 1 or name in runs:
        _show_run(runs.get(name, matching[0]))
        return
    from robusteval.methods import METHODS

    if name not in METHODS:
        raise unknown(f"show (runs in {out})", "run or method", name, [*runs, *METHODS])
    _show_method(name)


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
        "parameters": f"{run.parameters:,}",
        "trained on": f"{run.train_data.name}, {run.train_data.n} images, "
        f"{'verified' if run.train_data.verified else 'unverified'}",
        "device": f"{run.provenance.device}, {run.provenance.threads} threads, {run.provenance.precision}",
        "made": f"{run.provenance.created} by robusteval {run.provenance.robusteval}",
        "commit": run.provenance.commit,
    }
    if run.cost:
        facts["cost"] = f"{run.cost.flops:.3e} FLOPs; seconds: {_options(run.cost.wall_s, '.1f')}"
        facts["passes"] = f"forward {_options(run.cost.forward)}; backward {_options(run.cost.backward)}"
    if stored.history:
        last = stored.history[-1]
        facts["last epoch"] = f"{last.epoch}: {_options(last.logs, '.4f')}"
    for key, value in facts.items():
        if value is not None:
            line(f"{key + ':':13}{value}")
    measurements = [measurement for task in stored.tasks for measurement in task.measurements]
    if measurements:
        line("")
        table(("task", "metric", "value", "low", "high", "n", "where"), [as_row(one) for one in measurements])


def _show_method(name: str) -> None:
    from dataclasses import fields

    from robusteval.methods import METHODS

    method = METHODS[name]
    card = method.card
    line(f"{name}: {card.title}")
    line(f"{card.authors}, {card.venue} {card.year}, {card.url}")
    line(card.summary)
    line(f"reference code: {card.reference}")
    for deviation in card.deviations:
        line(f"- {deviation}")
    line("")
    default = method()
    table(("option", "default"), [(field.name, str(getattr(default, field.name))) for field in fields(default)])  # type: ignore[arg-type]  # methods are dataclasses, their base class is not


def _options(values: Mapping[str, object], spec: str = ".6g") -> str:
    """Options or numbers in one line."""
    return " ".join(
        f"{key}={value:{spec}}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )
