"""What `show` shows of a run: as text and as an object for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from robusteval.cli.output import in_threads, line, table
from robusteval.cli.pages import facts, wrapped
from robusteval.records import Measurement, Reason
from robusteval.report.page.details import shown as option
from robusteval.store import StoredRun
from robusteval.tags import Label
from robusteval.wording import as_row, clean, verdict


def run_data(stored: StoredRun, label: Label) -> object:
    """The records of a run folder in one object."""
    return {
        "run": stored.run.model_dump(),
        "folder": str(stored.folder),
        "tags": label.tags,
        "note": label.note,
        "history": [epoch.model_dump() for epoch in stored.history],
        "tasks": [task.model_dump() for task in (*stored.tasks, *stored.on_the_way)],
    }


def write_run(stored: StoredRun, label: Label) -> None:
    """Writes a run with its numbers."""
    run = stored.run
    named: dict[str, object] = {
        "run": run.id,
        "folder": stored.folder,
        "status": run.status,
        "error": run.error,
        "tags": ", ".join(label.tags) or None,
        "note": label.note or None,
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
        named["cost"] = f"{run.cost.flops:.3e} FLOPs; seconds: {_options(run.cost.wall_s, '.1f')}"
        named["passes"] = f"forward {_options(run.cost.forward)}; backward {_options(run.cost.backward)}"
    if stored.history:
        last = stored.history[-1]
        named["last epoch"] = f"{last.epoch}: {_options(last.logs, '.4f')}"
    facts(named)
    rows = [_row(m, task.epoch) for task in (*stored.tasks, *stored.on_the_way) for m in task.measurements]
    if rows:
        line("")
        table(("task", "metric", "value", "low", "high", "n", "trust", "where"), rows)
    for text, indent in _trust(stored):
        line(wrapped(text, indent=indent))


def _trust(stored: StoredRun) -> Iterator[tuple[str, int]]:
    """What the checks say: a count of the verdicts, then the reasons, doubts last. Lines and the indent of their rest.

    Numbers of a task that share their reasons are named together, by what their places have in common.
    """
    groups: dict[tuple[bool, str, str, str, tuple[Reason, ...]], list[str]] = {}
    verdicts: Counter[str] = Counter()
    for task in (*stored.tasks, *stored.on_the_way):
        for m in task.measurements:
            if m.trust != "plain":
                verdicts[m.trust] += 1
            if m.reasons:
                early = f"after epoch {task.epoch}" if task.epoch else ""
                key = (m.trust == "flagged", f"{m.task} {m.metric}", early, m.trust, m.reasons)
                groups.setdefault(key, []).append(as_row(m)[-1])
    if verdicts:
        counts = ", ".join(f"{verdicts[one]} {one}" for one in ("ok", "flagged", "unchecked"))
        yield f"\ntrust in the {verdicts.total()} numbers that attacks made: {counts}; see docs/robust-numbers.md", 0
    for (_, name, early, trust, reasons), places in sorted(groups.items(), key=lambda group: group[0][0]):
        several = f"{len(places)} numbers" if len(places) > 1 else ""
        common = " ".join(word for word in places[0].split() if all(word in place.split() for place in places))
        yield f"\n{name} ({clean(', '.join(filter(None, (several, early, common))))}): {trust}", 4
        for reason in reasons:
            yield f"  {reason.level} {clean(reason)}. {clean(reason.text)}", 4


def _row(measurement: Measurement, epoch: int | None) -> tuple[str, ...]:
    """The measurement in cells; of weights kept on the way, with their epoch at the front of where."""
    *cells, where = as_row(measurement)
    shown = where if epoch is None else f"epoch={epoch} {where}".rstrip()
    return (*cells, verdict(measurement), shown)


def _options(values: Mapping[str, object], spec: str = "") -> str:
    """Options as suites write them, or numbers in a format, in one line."""
    shown = {
        key: f"{value:{spec}}" if spec and isinstance(value, float) else option(value) for key, value in values.items()
    }
    return " ".join(f"{key}={value}" for key, value in shown.items())
