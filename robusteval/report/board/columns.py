"""Which measurements make a column of the leaderboard, what the column is called and what it means.

Two measurements share a column only if they agree in everything but the branch: official and generated
corruptions, or two attacks, never meet in one column.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from robusteval.records import Measurement, Scalar
from robusteval.report.text import TIMES, clean

Identity = tuple[str, str, tuple[tuple[str, Scalar], ...]]
"""Task, metric, and the sorted items of ``where`` without the branches."""

Kind = Literal["clean", "corruption", "error", "h_score", "attack"]


DIAGNOSTICS = frozenset(
    {
        *("branches", "bn_bank", "calibration", "neurons", "selection", "gradients", "features", "teacher"),
        *("attack_matrix", "epsilon_curve", "minimum_norm", "corrupted_attack", "transfer"),
    }
)
"""Tasks that look into a network or vary an attack. Their accuracies explain the scores and make no column."""


ENSEMBLES = ("autoattack", "pyautoattack")
"""Tasks of ensembles of attacks."""

_PART_WORDS = {"apgd": "APGD", "fab": "FAB", "ce": "CE", "dlr": "DLR", "t": "T", "square": "Square"}


@dataclass(frozen=True)
class Column:
    """A score of the leaderboard.

    Attributes:
        key: what it is known by; `frame.column_names` makes its name in CSV files of it.
        label, short: its name for readers, and where space is scarce.
        kind: what it is.
        definition: what it means, one or two sentences.
        measured: the quantity that it shows or that it is computed from.
        source: the key of the column that this one is computed from; None when it is measured.
        better: 1 where more is better, -1 where less is.
    """

    key: str
    label: str
    short: str
    kind: Kind
    definition: str
    measured: Identity
    source: str | None = None
    better: Literal[1, -1] = 1


def cell(measurement: Measurement) -> bool:
    """Whether it is one cell of a grid of corruptions: most measurements are, and none of them makes a column."""
    return measurement.task == "corruption" and measurement.metric == "accuracy"


def identity(measurement: Measurement) -> Identity:
    """What makes a measurement the same quantity in two runs and branches."""
    where = measurement.where
    if where.get("source") == "generated":  # the first records did not say what was the same for all
        where = {"table": "cifar", "seed": 0, **where}
    items = ((key, value) for key, value in where.items() if key not in ("branch", "attack_branch"))
    return measurement.task, measurement.metric, tuple(sorted(items))


def direct(measurement: Measurement) -> bool:
    """Whether the attack, if any, went through the branch that is judged (else it is a transfer attack)."""
    where = measurement.where
    return where.get("attack_branch", where.get("branch")) == where.get("branch")


def attack_name(task: str, where: Mapping[str, Scalar]) -> str:
    """An attack the way the field writes it; only the standard ensemble is called AutoAttack.

    >>> attack_name("pgd", {"norm": "Linf", "epsilon": "8/255", "steps": 20, "restarts": 1, "loss": "ce"})
    'PGD-20 Linf 8/255'
    >>> attack_name("autoattack", {"norm": "L2", "epsilon": "0.5", "attack": "standard"})
    'AutoAttack L2 0.5'
    >>> attack_name("autoattack", {"norm": "Linf", "epsilon": "8/255", "attack": "apgd-ce square", "queries": 500})
    'APGD-CE + Square Linf 8/255 500 queries'
    """
    ensemble = task in ENSEMBLES
    name = _ensemble(task, where) if ensemble else task.upper() if len(task) <= 4 else task.capitalize()
    parts = [f"{name}-{where['steps']}" if "steps" in where and not ensemble else name]
    parts += [str(where[key]) for key in ("norm", "epsilon") if key in where]
    parts += [f"{where[key]} {key}" for key in ("steps", "queries") if ensemble and key in where]
    if where.get("restarts", 1) != 1:
        parts.append(f"{where['restarts']} restarts")
    if where.get("loss", "ce") != "ce":
        parts.append(f"{where['loss']} loss")
    return clean(" ".join(parts))


def _ensemble(task: str, where: Mapping[str, Scalar]) -> str:
    """The ensemble's name, or those of its parts where it is not the standard one."""
    if where.get("attack") == "standard":
        return "AutoAttack" if task == "autoattack" else "AutoAttack (pyautoattack)"
    if "attack" not in where:
        return "Unnamed ensemble"
    parts = str(where["attack"]).split()
    return " + ".join("-".join(_PART_WORDS.get(word, word) for word in part.split("-")) for part in parts)


def _short(one: Identity) -> str | None:
    """The short key of a leaderboard quantity; None for what the leaderboard does not show."""
    task, metric, items = one
    where = dict(items)
    if task in DIAGNOSTICS:
        return None
    if metric == "robust_accuracy":
        return attack_name(task, where)
    if (task, metric) == ("clean", "accuracy"):
        return "clean_accuracy"
    if (task, metric) == ("corruption", "mean_accuracy"):
        chosen = "_chosen" if "names" in where else ""  # not the benchmark's, however many they are
        grid = f"{where.get('corruptions')}x{where.get('severities')}{chosen}"
        return f"corruption_accuracy_{clean(where.get('source'))}" + ("" if grid == "15x5" else f"_{grid}")
    return None


def ranked(measurement: Measurement) -> bool:
    """Whether it is a quantity of the leaderboard."""
    return not cell(measurement) and _short(identity(measurement)) is not None


def _varying(group: Iterable[Identity]) -> set[str]:
    """The keys of ``where`` in which the identities differ."""
    values: dict[str, set[str]] = defaultdict(set)
    tables = [dict(one[2]) for one in group]
    for key in {key for table in tables for key in table}:
        values[key] = {repr(table.get(key)) for table in tables}
    return {key for key, seen in values.items() if len(seen) > 1}


def names(measurements: Iterable[Measurement]) -> dict[Identity, str]:
    """The column key of every leaderboard quantity; what shares a short key is told apart by what differs."""
    groups: dict[str, set[Identity]] = defaultdict(set)
    for one in {identity(m) for m in measurements if not cell(m)}:
        short = _short(one)
        if short is not None:
            groups[short].add(one)
    found: dict[Identity, str] = {}
    for short, group in groups.items():
        varying = sorted(_varying(group))
        for one in group:
            details = ", ".join(f"{key}={clean(dict(one[2]).get(key))}" for key in varying)
            found[one] = f"{short} ({details})" if details else short
    return found


def columns(named: Mapping[Identity, str]) -> tuple[Column, ...]:
    """The leaderboard's scores in their order: clean, corruption (accuracy, error, H-score), attacks."""
    found: list[Column] = []
    for one in sorted(named, key=lambda one: (one[1] == "robust_accuracy", one[0] != "clean", named[one])):
        key, where = named[one], dict(one[2])
        if one[0] == "clean":
            text = "Share of the unchanged test images that are classified right."
            found.append(Column(key, "Clean accuracy", "Clean", "clean", text, one))
        elif one[1] == "robust_accuracy":
            found.append(Column(key, key, key, "attack", _attack_text(where), one))
        else:
            found += _corruption_columns(key, one)
    return tuple(found)


def _attack_text(where: Mapping[str, Scalar]) -> str:
    details = ", ".join(f"{clean(key)} {clean(value)}" for key, value in where.items())
    return (
        f"Share of the test images that are classified right both unchanged and under the attack ({details}), "
        "which goes through the branch that is judged. An attack can only overestimate robustness."
    )


def _corruption_columns(key: str, one: Identity) -> list[Column]:
    where = dict(one[2])
    of = f" ({clean(where['names'])})" if "names" in where else ""
    severities = where.get("severities")
    of_each = f"{severities} severities" if isinstance(severities, int) else f"severity {clean(severities)}"
    grid = f"{where.get('corruptions')} corruptions{of} {TIMES} {of_each}"
    # The tail tells the source, and the grid where it is not the benchmark's.
    tail = key.removeprefix("corruption_accuracy")
    shown = f"({tail[1:].replace('_', ', ')})"
    files = (
        "images corrupted by this program, which are not the published CIFAR-C files"
        if where.get("source") == "generated"
        else "the published corrupted images"
    )
    mean = f"Plain mean of the accuracy over {grid}, on {files}."
    error = f"1 \N{MINUS SIGN} corruption accuracy: the unnormalised mCE over {grid}; not divided by AlexNet's errors."
    harmonic = (
        "Harmonic mean of clean accuracy and corruption accuracy. Its interval is that of the delta method over test "
        "images, which knows that both accuracies are of the same ones (it agrees with a bootstrap of the images). "
        "Where the outcomes of single images were not kept, its ends are the H-scores of the lower and of the upper "
        "ends of both, so that it covers at least as often as theirs."
    )
    return [
        Column(key, f"Corruption accuracy {shown}", "Corrupted", "corruption", mean, one),
        Column(f"corruption_error{tail}", f"Corruption error {shown}", "Corr. error", "error", error, one, key, -1),
        Column(f"h_score{tail}", f"H-score {shown}", "H-score", "h_score", harmonic, one, key),
    ]
