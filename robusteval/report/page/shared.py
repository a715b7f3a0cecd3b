"""Settings and origins of runs, split into what all of them share, told once, and what is a run's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from robusteval.report.board.rows import judged_on
from robusteval.report.page.details import flat
from robusteval.report.text import clean
from robusteval.store import StoredRun

Facts = Mapping[str, str]
"""Name -> text."""


class Settings(NamedTuple):
    """How a run was trained, and where it comes from."""

    training: Facts
    origin: Facts


def settings(stored: StoredRun) -> Settings:
    """Everything of one run."""
    run, origin = stored.run, stored.run.provenance
    tests = [
        f"{test.n:,} images of {clean(test.name)}, {clean(test.digest, 17)}{'' if test.verified else ' (unverified)'}"
        for test in judged_on(stored)
    ]
    data = run.train_data
    found = {
        "created": origin.created,
        "command": " ".join(origin.command),
        "robusteval": f"{origin.robusteval} {clean(origin.commit or '', 12)}".strip(),
        "python": origin.python,
        "packages": ", ".join(f"{name} {version}" for name, version in origin.packages.items()),
        "platform": origin.platform,
        "machine": f"{origin.device}; {origin.cpu}; {origin.threads} threads; {origin.precision}",
        "trained on": f"{data.n:,} images of {clean(data.name)}, {clean(data.digest, 17)}"
        + ("" if data.verified else " (unverified)"),
        "judged on": "; ".join(tests) or "nothing",
    }
    return Settings(dict(flat(run.training)), {name: clean(text) for name, text in found.items()})


def shared(found: Sequence[Settings]) -> Settings:
    """What two or more runs all agree in; nothing of a single run."""
    if len(found) < 2:
        return Settings({}, {})
    return Settings(_shared([one.training for one in found]), _shared([one.origin for one in found]))


def _shared(found: Sequence[Facts]) -> Facts:
    first, *others = found
    return {name: text for name, text in first.items() if all(other.get(name) == text for other in others)}


def own(one: Settings, common: Settings) -> Settings:
    """The part of a run's settings that others do not share."""
    parts = zip(one, common, strict=True)
    return Settings(*({name: text for name, text in mine.items() if name not in all_} for mine, all_ in parts))
