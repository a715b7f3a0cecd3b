"""The tables behind the CSV files: one line per measurement (long), one line per leaderboard row (wide).

Column names are in snake case. Fractions in full precision; what is missing is None, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from robusteval.records import Measurement, TaskRecord
from robusteval.report.board.columns import Column
from robusteval.report.board.leaderboard import Leaderboard
from robusteval.report.board.pairs import Place
from robusteval.report.board.rows import Row, age, judged_on
from robusteval.report.board.scores import Score
from robusteval.store import StoredRun

Line = dict[str, Any]
Table = dict[str, list[Any]]
"""The columns by their names, all of one length."""

SCORE_PARTS = ("low", "high", "sd", "n", "trust", "note")
"""What the wide table tells of a score beside its value, in columns of its name and theirs."""

_FIELDS = ("metric", "value", "n", "unit", "low", "high", "trust", "note", "outcomes", "passes")
"""What the long table tells of a measurement as it was recorded."""


def long_table(runs: Sequence[StoredRun]) -> Table:
    """One line per measurement, with its run; the entries of ``where`` are columns of their own.

    Those of weights kept on the way have an ``epoch``; it is missing for those of the final weights, which come first.
    Columns that only some measurements have come last, in alphabetical order, named ``where_<entry>``.
    """
    # Column by column, since there are tens of thousands of lines, and whole tasks agree in most of the columns.
    found: Table = {}
    measured: list[Measurement] = []
    for stored in sorted(runs, key=age):
        tasks = (*stored.tasks, *stored.on_the_way)
        for task in sorted(tasks, key=lambda task: (task.epoch is not None, task.epoch or 0, task.task, task.key)):
            measured += task.measurements
            for key, value in (_run_columns(stored) | _task_columns(task)).items():
                found.setdefault(key, []).extend([value] * len(task.measurements))
    for field in _FIELDS:
        found[field] = list(map(attrgetter(field), measured))
    found["reasons"] = ["; ".join(map(str, m.reasons)) for m in measured]
    places = [m.where for m in measured]
    for key in sorted({key for place in places for key in place}):
        found[f"where_{key}"] = [place.get(key) for place in places]
    return {name: found[key] for key, name in column_names(list(found)).items()} if measured else {}


def _task_columns(task: TaskRecord) -> Line:
    return {
        "test_data": task.test_data.name,
        "test_digest": task.test_data.digest,
        "verified": task.test_data.verified,
        "task": task.task,
        "task_version": task.version,
        "task_key": task.key,
        "epoch": task.epoch,
    }


def wide_table(found: Leaderboard) -> Table:
    """One line per leaderboard row: runs, their other branches (``deployed`` false) and means over seeds."""
    lines = wide_lines(found)
    return {name: [line.get(key) for line in lines] for key, name in column_names(all_keys(lines)).items()}


def wide_lines(found: Leaderboard) -> list[Line]:
    """The lines of the wide table; the keys are those of the columns, not yet their names (`column_names`)."""
    places = {id(one.head): part.ranking.place(one.head) for part in found.parts for one in part.groups}
    return [_wide_line(found.board.columns, row, places.get(id(row))) for row in found.board.rows]


def all_keys(lines: Sequence[Line]) -> list[str]:
    """The keys of all lines, each once, in the order in which they come."""
    return list(dict.fromkeys(key for line in lines for key in line))


def column_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> column name in snake case, each name once.

    >>> column_names(["clean_accuracy", "PGD-20 Linf 8/255_low", "where_a b", "where_a-b"])
    {'clean_accuracy': 'clean_accuracy', 'PGD-20 Linf 8/255_low': 'pgd_20_linf_8_255_low', \
'where_a b': 'where_a_b', 'where_a-b': 'where_a_b_2'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        base = re.sub(r"[\W_]+", "_", key).strip("_").lower() or "unnamed"
        tries = (base, *(f"{base}_{number}" for number in range(2, len(keys) + 2)))
        found[key] = next(one for one in tries if one not in taken)
        taken.add(found[key])
    return found


def _run_columns(stored: StoredRun) -> Line:
    run = stored.run
    return {
        "run": run.id,
        "dataset": run.dataset,
        "architecture": run.architecture,
        "method": run.method,
        "label": run.label,
        "seed": run.seed,
        "status": run.status,
        "deployed_branch": run.deployed,
    }


def _wide_line(columns: Sequence[Column], row: Row, place: Place | None) -> Line:
    run, tests = row.stored.run, judged_on(row.stored)
    line: Line = {"row": row.kind} | _run_columns(row.stored)
    line |= {
        "rank": place and place.best,
        "rank_worst": place and place.worst,
        "ranked_of": place and place.of,
        "run": run.id if row.kind == "run" else None,
        "seed": run.seed if row.kind == "run" else None,
        "seeds": len(row.seeds),
        "branch": row.branch,
        "deployed": row.deployed,
        "error": run.error,
        "trust": row.trust,
        "verified": run.train_data.verified and all(test.verified for test in tests),
        "train_images": run.train_data.n,
        "train_digest": run.train_data.digest,
        "test_data": "; ".join(dict.fromkeys(test.name for test in tests)) or None,
        "test_digest": "; ".join(dict.fromkeys(test.digest for test in tests)) or None,
        "parameters": run.parameters,
    }
    for column in columns:
        line |= _score_cells(column.key, row.scores.get(column.key))
    return line | _cost_cells(row) | _teacher_cells(row)


def _score_cells(key: str, score: Score | None) -> Line:
    cells: Mapping[str, Any] = {} if score is None else vars(score)
    return {key: cells.get("value")} | {f"{key}_{part}": cells.get(part) for part in SCORE_PARTS}


def _cost_cells(row: Row) -> Line:
    cost, run = row.cost, row.stored.run
    cells: Line = {
        "training_images_seen": cost and cost.images,
        "forward_passes": cost and cost.forward_total,
        "backward_passes": cost and cost.backward_total,
        "train_flops": cost and cost.flops,
        "flops_relative": cost and cost.flops_relative,
        "wall_relative": cost and cost.wall_relative,
        "peak_memory_bytes": cost and cost.peak_memory_bytes,
        "device": run.provenance.device,
        "threads": run.provenance.threads,
        "precision": run.provenance.precision,
        "reference": cost and cost.reference,
        "robusteval": run.provenance.robusteval,
        "commit": run.provenance.commit,
        "weights_sha256": run.weights_sha256 if row.kind == "run" else None,
    }
    if cost is not None:
        cells |= {f"wall_{phase}_s": seconds for phase, seconds in sorted(cost.wall_s.items())}
        cells |= {f"forward_passes_{branch}": passes for branch, passes in sorted(cost.forward.items())}
        cells |= {f"backward_passes_{branch}": passes for branch, passes in sorted(cost.backward.items())}
    return cells


def _teacher_cells(row: Row) -> Line:
    """What the teacher's training cost; no columns where nobody has one."""
    teacher = row.cost and row.cost.teacher
    if not teacher:
        return {}
    return {
        "teacher": "; ".join(teacher.ids),
        "teacher_flops": teacher.flops,
        "teacher_wall_train_s": teacher.wall_s,
        "teacher_students": teacher.students,
    }
