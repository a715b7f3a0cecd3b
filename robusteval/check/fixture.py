"""What the pytest fixture does: one network or run against its own cell of a baseline file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from robusteval.check.baseline import Baseline, read, write
from robusteval.check.collect import collect
from robusteval.check.gate import Gate, judge
from robusteval.check.rules import inherited, ruled
from robusteval.check.words import headline, sentence
from robusteval.errors import UserError, unknown
from robusteval.store import StoredRun, find_runs


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `robusteval.pytest_plugin.Check`."""

    name: str
    baseline: str | Path | None = None
    data: Any = "cifar10-sample"
    tasks: Any = "clean"
    tolerance: float | Mapping[str, float] | None = None
    false_alarms: float | None = None
    limit: int | None = None
    data_dir: str | Path | None = None
    device: str = "auto"
    threads: int | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Asked:
        """The arguments, all of which are known.

        Raises:
            UserError: one is not.
        """
        known = [one.name for one in fields(cls)]
        for key in arguments:
            if key not in known:
                raise unknown("robusteval_check", "argument", key, known)
        return cls(**arguments)


def fell(subject: Any, asked: Asked, folder: Path) -> tuple[Gate, str]:
    """The gate's findings, and what is to be told of them.

    Args:
        subject: networks or runs.
        asked: how they are compared.
        folder: what the baseline's path is relative to.
    """
    path = _path(asked, folder)
    if not path.exists():
        raise UserError(f"robusteval_check: {path}: no baseline; `pytest --robusteval-update` writes it")
    whole, now = read(path), _measured(subject, asked, path)
    known = {name: cell for name, cell in whole.cells.items() if name in now.cells}
    if not known:
        missing = ", ".join(now.cells)
        raise UserError(f"robusteval_check: {path}: no {missing}; `pytest --robusteval-update` adds it")
    gate = judge(_part(_ruled(whole, asked), known), now)
    return gate, "\n".join([*map(sentence, gate.errors), *gate.notes, headline(gate)])


def renewed(subject: Any, asked: Asked, folder: Path) -> str:
    """What is to be told after the numbers were written to the baseline, beside those of other tests."""
    path = _path(asked, folder)
    now = _measured(subject, asked, path)
    if path.exists():
        former = read(path)
        merged = {name: cell for name, cell in former.cells.items() if name not in now.cells}
        now = _merged(former, merged, now)
    write(path, now)
    return f"baseline written: {path}"


def _merged(former: Baseline, cells: Mapping[str, Any], now: Baseline) -> Baseline:
    """The baseline with the cells of other tests; what they measure is kept apart where it is not the same."""
    quantities = dict(_part(former, cells).quantities)
    keys: dict[str, str] = {}
    for key, quantity in now.quantities.items():
        number = 1
        while quantities.setdefault(keys.setdefault(key, key), quantity) != quantity:
            number += 1
            keys[key] = f"{key} #{number}"
    renamed = {
        name: cell.model_copy(
            update={
                "numbers": {
                    branch: {keys[key]: number for key, number in numbers.items()}
                    for branch, numbers in cell.numbers.items()
                }
            }
        )
        for name, cell in now.cells.items()
    }
    every = dict(sorted({**cells, **renamed}.items()))
    return inherited(now.model_copy(update={"quantities": quantities, "cells": every}), former)


def _part(whole: Baseline, cells: Mapping[str, Any]) -> Baseline:
    """The baseline with these cells alone, and what they measure."""
    keys = {key for cell in cells.values() for numbers in cell.numbers.values() for key in numbers}
    quantities = {key: quantity for key, quantity in whole.quantities.items() if key in keys}
    return whole.model_copy(update={"cells": dict(cells), "quantities": quantities})


def _ruled(whole: Baseline, asked: Asked) -> Baseline:
    """The baseline with the tolerances and the level that were asked for."""
    allowed: dict[str | None, float] = {}
    if isinstance(asked.tolerance, Mapping):
        allowed.update(dict(asked.tolerance.items()))
    elif asked.tolerance is not None:
        allowed[None] = asked.tolerance
    return ruled(whole, allowed, asked.false_alarms)


def _path(asked: Asked, folder: Path) -> Path:
    if asked.baseline is None:
        raise UserError(
            "robusteval_check: no baseline; say which file: baseline=PATH, here or in the marker robusteval"
        )
    return folder / asked.baseline


def _measured(subject: Any, asked: Asked, path: Path) -> Baseline:
    """The numbers of networks, judged now, or of runs."""
    runs = _runs(subject)
    if runs is None:
        from robusteval.check.judged import judged

        models = list(subject) if isinstance(subject, Sequence) else [subject]
        runs = judged(
            models,
            asked.data,
            asked.tasks,
            label=asked.name,
            limit=asked.limit,
            data_dir=asked.data_dir,
            device=asked.device,
            threads=asked.threads,
        )
    return collect(runs, suite=path.stem)


def _runs(subject: Any) -> list[StoredRun] | None:
    """The runs that are meant; None if networks are."""
    if isinstance(subject, StoredRun):
        return [subject]
    if not isinstance(subject, str | Path):
        return None
    found = find_runs(Path(subject))
    if not found:
        raise UserError(f"robusteval_check: {subject}: no runs here")
    return found
