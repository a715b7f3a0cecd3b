"""What `show` shows of what is built in: each kind as text and as an object for JSON."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from robusteval.cli.cards import plain_cards, write_card
from robusteval.cli.explain import explain, explained
from robusteval.cli.output import line, table
from robusteval.config import shipped
from robusteval.wording import clean


class Page(NamedTuple):
    """A thing that has a name.

    Attributes:
        kind: what it is.
        write: writes it for people.
        data: what JSON gets of it.
    """

    kind: str
    write: Callable[[], None]
    data: Callable[[], object]


def pages(name: str) -> list[Page]:
    """How to show what has that name; a data set and a suite may share one."""
    from robusteval.corruptions import NAMES, adapter
    from robusteval.data import DATASETS
    from robusteval.methods import METHODS
    from robusteval.models import MODELS
    from robusteval.tasks import TASKS
    from robusteval.training import Training

    kinds: list[tuple[str, Mapping[str, object], Callable[[], None], Callable[[], object]]] = [
        ("options", {"training": Training}, lambda: explain(Training), lambda: explained(Training)),
        ("method", METHODS, partial(_write_method, name), partial(_method, name)),
        ("task", TASKS, lambda: explain(TASKS[name]), lambda: {"task": name, **explained(TASKS[name])}),
        ("model", MODELS, lambda: facts(_model(name)), lambda: _model(name)),
        ("dataset", DATASETS, lambda: facts(_described(name)), partial(_dataset, name)),
        (
            "corruption",
            dict.fromkeys([*NAMES, *adapter.NAMES]),
            partial(_write_corruption, name),
            partial(_corruption, name),
        ),
        ("suite", shipped(), partial(_write_suite, name), partial(_suite, name)),
    ]
    return [Page(kind, write, data) for kind, names, write, data in kinds if name in names]


def known() -> list[str]:
    """All names that have a page, each once."""
    from robusteval.corruptions import NAMES, adapter
    from robusteval.data import DATASETS
    from robusteval.methods import METHODS
    from robusteval.models import MODELS
    from robusteval.tasks import TASKS

    names = ["training", *METHODS, *TASKS, *MODELS, *DATASETS, *NAMES, *adapter.NAMES, *shipped()]
    return list(dict.fromkeys(names))


def facts(named: Mapping[str, object]) -> None:
    """Writes names and values in two columns; what is None is left out."""
    for key, value in named.items():
        if value is not None:
            line(wrapped(f"{key + ':':13}{clean(value)}", indent=13))


def wrapped(text: str, *, indent: int) -> str:
    """A line folded between words where a terminal shows it, its rest indented; unchanged in files and pipes."""
    if not sys.stdout.isatty():
        return text
    start = len(text) - len(text.lstrip("\n"))  # an empty line above
    width = max(shutil.get_terminal_size().columns, 40)
    folded = textwrap.wrap(
        text[start:], width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return text[:start] + "\n".join(folded)


def _write_method(name: str) -> None:
    from robusteval.methods import METHODS

    write_card(name)
    line("")
    explain(METHODS[name])


def _method(name: str) -> object:
    from robusteval.methods import METHODS

    method = METHODS[name]()
    teacher = method.teacher()
    return {
        "method": name,
        "card": plain_cards()[name],
        "branches": method.branches,
        "deployed": method.deployed,
        "passes": asdict(method.passes()),
        "flops": method.passes().flops,
        "teacher": teacher and {"method": teacher.name, "flops": teacher.passes().flops},
        **explained(METHODS[name]),
    }


def _model(name: str) -> dict[str, Any]:
    from robusteval.models import MODELS

    info = MODELS[name]
    return {"model": name, "description": info.description, "paper": info.paper}


def _described(name: str) -> dict[str, Any]:
    from robusteval.data import DATASETS

    info = DATASETS[name]
    return {
        "data set": name,
        "description": info.description,
        "images": ", ".join(f"{size} {split}" for split, size in info.sizes.items()),
        "classes": f"{len(info.classes)}: {', '.join(info.classes)}",
        "mean": info.mean,
        "std": info.std,
        "digests": ", ".join(f"{split} {digest}" for split, digest in info.digests.items()),
        "citation": info.citation,
    }


def _dataset(name: str) -> object:
    from robusteval.data import DATASETS

    info = DATASETS[name]
    return {
        "dataset": name,
        "description": info.description,
        "sizes": dict(info.sizes),
        "classes": info.classes,
        "mean": info.mean,
        "std": info.std,
        "digests": dict(info.digests),
        "citation": info.citation,
    }


def _corruption(name: str) -> dict[str, Any]:
    from robusteval.corruptions import CBAR, CORRUPTIONS, TABLES, adapter, strength
    from robusteval.corruptions.published import DETERMINISTIC

    if name in adapter.NAMES:
        made = f"one image at a time by {adapter.generator()}"
        return {"corruption": name, "role": "other", "images": made, "strengths": {}, "note": adapter.NOTE}
    held_out = "one of CIFAR-10-C-bar" if name in CBAR else "held out: beside the benchmark's 15"
    role = "one of the benchmark's 15" if name in CORRUPTIONS else held_out
    if name in DETERMINISTIC:
        images = "equal byte for byte to the published files of CIFAR-10-C and CIFAR-100-C (table cifar)"
    elif name in CBAR:
        images = "not compared byte for byte: no files of CIFAR-10-C-bar are published"
    else:
        images = "other draws than in the published files, which were made without a seed: not equal byte for byte"
    strengths = {
        kind: [[*strength(kind, name, severity)] for severity in (1, 2, 3, 4, 5)]
        for kind in TABLES
        if name in TABLES[kind]
    }
    return {"corruption": name, "role": role, "images": images, "strengths": strengths, "note": None}


def _write_corruption(name: str) -> None:
    told = _corruption(name)
    shown = {"corruption": name, "role": told["role"], "severities": "1 (weak) to 5", "images": told["images"]}
    facts(shown)
    if told["note"] is not None:
        line(f"note: {told['note']}")
        return
    line("")
    strengths: dict[str, list[list[float]]] = told["strengths"]
    rows = [
        (
            str(severity),
            *(" ".join(f"{x:.4g}" for x in by_severity[severity - 1]) for by_severity in strengths.values()),
        )
        for severity in (1, 2, 3, 4, 5)
    ]
    table(("severity", *strengths), rows)


def _write_suite(name: str) -> None:
    path = shipped()[name]
    facts({"suite": name, "file": path})
    line("")
    line(path.read_text(encoding="utf-8").rstrip())


def _suite(name: str) -> object:
    path = shipped()[name]
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {"suite": name, "file": str(path), "tables": json.loads(json.dumps(tables))}
