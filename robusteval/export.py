"""A run as RobustBench's files: ``model_info`` JSON and the table of single corruptions.

RobustBench (Croce et al., 2021, arXiv:2010.09670) keeps, for each data set and threat model, a JSON file per model with
accuracies as strings in percent with two decimals, and a table with the accuracy in [0, 1] at each corruption and
severity under two header rows. Only what its own evaluation would have measured may stand there: all test images of a
verified data set, the standard AutoAttack, the published corrupted images. Anything less is left out and said.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robusteval.corruptions.strengths import CORRUPTIONS
from robusteval.data.registry import DATASETS
from robusteval.errors import UserError, unknown
from robusteval.manifest import replace
from robusteval.methods import METHODS
from robusteval.records import DataRef, Measurement
from robusteval.store import StoredRun

if TYPE_CHECKING:
    import pandas as pd

SETS = ("cifar10", "cifar100")
"""RobustBench's data sets among ours."""
CUSTOMARY = {"Linf": "8/255", "L2": "0.5"}
"""Its radius for these data sets, by norm."""
TABLE = "unaggregated_results.csv"
_CELLS = tuple((name, severity) for name in CORRUPTIONS for severity in (1, 2, 3, 4, 5))

Where = Callable[[Measurement], bool]


class Exported(NamedTuple):
    """The files that were written, and a line on each number that was left out and why."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def robustbench(stored: StoredRun, folder: Path, *, name: str | None = None, branch: str | None = None) -> Exported:
    """Writes ``model_info/<data set>/<threat model>/<name>.json`` and the table of corruptions under a folder.

    ``autoattack_acc`` is filled from a standard AutoAttack run on all test images, ``corruptions_acc`` from the
    published images of all 15 x 5 corruptions, else null. Generated corruptions go into a table of their own, under
    ``model_info/<data set>-c-gen``, which is not RobustBench's.

    Args:
        stored: the run.
        folder: made if it is not there; a row of the same name in a table that is there is replaced, others stay.
        name: of the model; by default author, year and first word of the title, as there, with architecture and seed.
        branch: the BatchNorm branch whose numbers are meant; by default the deployed one.

    Raises:
        UserError: a data set that RobustBench does not have, an unknown branch, a name that is no file's, or nothing
            measured of the branch that has a place there.
    """
    run = stored.run
    branch = branch or run.deployed
    if branch not in run.branches:
        raise unknown(run.id, "branch", branch, run.branches)
    if run.dataset not in SETS:
        raise UserError(f"{run.id}: RobustBench has no data set {run.dataset}; allowed: {', '.join(SETS)}")
    name = name or _name(stored)
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"--name: {name!r} cannot be a file's; allowed: letters, digits and _ . + -")
    numbers = tuple(m for data, m in _of_branch(stored, branch) if _complete(stored, data, m))
    left_out = _left_out(stored, branch)
    if not numbers:
        nothing = f"nothing was measured of branch {branch} on all {_size(stored):,} verified test images"
        raise UserError("; ".join([f"{run.id}: {nothing}", *left_out]))
    place = folder / "model_info" / run.dataset
    notes = list(left_out)
    clean = _one(numbers, "clean", "accuracy", lambda m: True)
    if clean is None:
        notes.append("clean_acc is null: no task clean on all test images")
    files: dict[Path, str] = {}
    for norm, customary in CUSTOMARY.items():
        if not any(m.where.get("norm") == norm for m in numbers):
            continue
        attacked = _autoattack(numbers, norm, customary)
        if attacked is None:
            notes.append(f"{norm}: autoattack_acc is null: no standard AutoAttack on all test images")
        eps = customary if attacked is None else str(attacked.where["epsilon"])
        info = _info(stored, branch, eps, clean, attacked) | {"autoattack_acc": _percent(attacked)}
        if attacked is not None and attacked.trust != "unchecked":
            info["unreliable"] = attacked.trust == "flagged"
        files[place / norm / f"{name}.json"] = _json(info)
    for source in ("official", "generated"):
        cells = _cells(numbers, source)
        if cells is None:
            continue
        if source == "official":
            mean = _one(numbers, "corruption", "mean_accuracy", lambda m: m.where.get("source") == "official")
            info = _info(stored, branch, None, clean, mean)
            value = 100 * sum(cells.values()) / len(cells)
            files[place / "corruptions" / f"{name}.json"] = _json(info | {"corruptions_acc": f"{value:.2f}"})
            table = place / "corruptions" / TABLE
        else:
            notes.append(f"corruptions were generated, so they are no CIFAR-C: in {run.dataset}-c-gen/{TABLE}")
            table = place.with_name(f"{run.dataset}-c-gen") / TABLE
        files[table] = _with_row(table, name, cells)
    if not files:
        places = f"an attack ({' or '.join(CUSTOMARY)}) or all {len(_CELLS)} cells of corruptions"
        allowed = f"{places}, on all {_size(stored):,} verified test images"
        raise UserError(
            "; ".join([f"{run.id}: nothing that RobustBench has a place for", *left_out, f"allowed: {allowed}"])
        )
    for path, text in files.items():
        replace(path, text.encode())
    return Exported(tuple(files), tuple(notes))


def read_table(path: Path) -> pd.DataFrame:
    """A table of single corruptions as RobustBench reads it: a row a model, columns (corruption, severity)."""
    import pandas as pd

    table = pd.read_csv(path, header=[0, 1], index_col=0)
    table.columns = pd.MultiIndex.from_tuples([(column[0], int(column[1])) for column in table.columns])
    return table


def _size(stored: StoredRun) -> int:
    """The number of test images of the run's data set."""
    return DATASETS[stored.run.dataset].sizes["test"]


def _of_branch(stored: StoredRun, branch: str) -> Iterator[tuple[DataRef, Measurement]]:
    """What was measured of the branch, attacked through itself, and of which images."""
    for task in stored.tasks:
        for m in task.measurements:
            itself = m.where.get("branch") == branch and m.where.get("attack_branch", branch) == branch
            if itself and m.value is not None:
                yield task.test_data, m


def _complete(stored: StoredRun, data: DataRef, m: Measurement) -> bool:
    """Whether it is about all test images of the run's verified data set."""
    return data.verified and data.name == stored.run.dataset and m.n == _size(stored)


def _left_out(stored: StoredRun, branch: str) -> tuple[str, ...]:
    """A line on each attack and each source of corruptions that lacks images, their verification, or cells."""
    lines = []
    cells: dict[str, set[tuple[object, object]]] = {}
    for data, m in _of_branch(stored, branch):
        cell = (m.where.get("corruption"), m.where.get("severity"))
        complete = _complete(stored, data, m)
        if m.task == "corruption" and cell in _CELLS:
            cells.setdefault(str(m.where.get("source")), set()).update([cell] * complete)
        elif m.metric == "robust_accuracy" and m.where.get("norm") in CUSTOMARY and not complete:
            kind = "" if data.verified else "unverified "
            lines.append(f"{m.task} {m.where['norm']} was left out: of {m.n:,} {kind}test images of {data.name}")
    for source, found in cells.items():
        if len(found) < len(_CELLS):
            of = f"{len(found)} of {len(_CELLS)} cells are of all {_size(stored):,} verified test images"
            lines.append(f"{source} corruptions were left out: {of}")
    return tuple(dict.fromkeys(lines))


def _one(numbers: Iterable[Measurement], task: str, metric: str, wanted: Where) -> Measurement | None:
    """The measurement that is wanted; None without one.

    Raises:
        UserError: there are several, and they differ.
    """
    found = [m for m in numbers if m.task == task and m.metric == metric and wanted(m)]
    if len({m.value for m in found}) > 1:
        shown = "; ".join(" ".join(f"{key}={value}" for key, value in m.where.items()) for m in found)
        raise UserError(f"{task}: {len(found)} different numbers for one place ({shown})")
    return found[0] if found else None


def _autoattack(numbers: Iterable[Measurement], norm: str, customary: str) -> Measurement | None:
    """The accuracy under the standard AutoAttack: at the customary radius, else at the only one."""
    standard = [
        m
        for m in numbers
        if m.task == "autoattack" and m.where.get("attack") == "standard" and m.where.get("norm") == norm
    ]
    radii = {str(m.where.get("epsilon")) for m in standard}
    radius = customary if customary in radii or len(radii) != 1 else radii.pop()
    return _one(standard, "autoattack", "robust_accuracy", lambda m: str(m.where.get("epsilon")) == radius)


def _cells(numbers: Iterable[Measurement], source: str) -> dict[tuple[str, int], float] | None:
    """The accuracy in each of the 15 x 5 cells; None if not all of them were measured on such images."""
    numbers = [m for m in numbers if m.where.get("source") == source]
    cells = {}
    for name, severity in _CELLS:
        found = _one(
            numbers,
            "corruption",
            "accuracy",
            lambda m, at=(name, severity): (m.where.get("corruption"), m.where.get("severity")) == at,  # type: ignore[misc]  # a default is what binds the loop's value
        )
        if found is None or found.value is None:
            return None
        cells[name, severity] = found.value
    return cells


def _info(
    stored: StoredRun, branch: str, eps: str | None, clean: Measurement | None, robust: Measurement | None
) -> dict[str, Any]:
    """The fields that all threat models share."""
    run, card = stored.run, METHODS[stored.run.method].card
    footnote = f"Trained and measured by robusteval {run.provenance.robusteval}: run {run.id}, branch {branch}"
    if robust is not None and robust.low is not None and robust.high is not None:
        footnote += f"; 95 % interval {100 * robust.low:.2f} to {100 * robust.high:.2f}"
    return {
        "link": card.url,
        "name": card.title,
        "authors": card.authors,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": run.dataset,
        "venue": f"{card.venue} {card.year}",
        "architecture": run.architecture,
        "eps": eps,
        "clean_acc": _percent(clean),
        "reported": None,
        "footnote": f"{footnote}.",
    }


def _percent(measurement: Measurement | None) -> str | None:
    """A fraction as RobustBench writes it."""
    return None if measurement is None or measurement.value is None else f"{100 * measurement.value:.2f}"


def _name(stored: StoredRun) -> str:
    """E.g. ``Xie2020Adversarial_resnet18_s0``."""
    run, card = stored.run, METHODS[stored.run.method].card
    author, word = (re.sub(r"\W", "", text.split()[0]) for text in (card.authors, card.title))
    return f"{author}{card.year}{word}_{run.architecture}_s{run.seed}"


def _json(info: dict[str, Any]) -> str:
    return json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _with_row(path: Path, name: str, cells: dict[tuple[str, int], float]) -> str:
    """The table's text with a model's row."""
    import pandas as pd

    row = pd.DataFrame(cells, index=[name])
    if path.exists():
        try:
            old = read_table(path)
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: is no table of single corruptions: {error}") from None
        row = pd.concat([old.drop(index=name, errors="ignore"), row])
    buffer = io.StringIO()
    row.to_csv(buffer)
    return buffer.getvalue()
