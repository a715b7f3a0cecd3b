"""What a reader must know before comparing the rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from robusteval.records import Cost, Run
from robusteval.report.board.columns import Identity, identity, ranked
from robusteval.report.board.pairs import Unread
from robusteval.report.board.rows import judged_on
from robusteval.report.text import clean
from robusteval.store import StoredRun


class Note(NamedTuple):
    """A caution: what it is about, and the sentence."""

    topic: str
    text: str


def notes(runs: Sequence[StoredRun], unread: Sequence[Unread] = ()) -> list[Note]:
    """The cautions that hold for these runs, in a fixed order.

    Args:
        runs: the runs.
        unread: files of outcomes that were found damaged (`Samples` of board.pairs), of these runs or others.
    """
    found = [*_unverified(runs), *_generated(runs), *_unequal(runs), *_hardware(runs), *_flagged(runs)]
    found += _damaged(runs, unread)
    return list(dict.fromkeys(found))


def _damaged(runs: Sequence[StoredRun], unread: Sequence[Unread]) -> list[Note]:
    here = {stored.folder for stored in runs}
    return [
        Note(
            "Damaged outcomes",
            f"{clean(one.stored.run.label, 60)}, seed {one.stored.run.seed}: what {clean(one.task, 30)} found image by "
            "image is not what was written: no rank and no paired test comes of it.",
        )
        for one in unread
        if one.stored.folder in here
    ]


def _unverified(runs: Sequence[StoredRun]) -> list[Note]:
    found = []
    for data in dict.fromkeys(data for stored in runs for data in (stored.run.train_data, *judged_on(stored))):
        if not data.verified:
            text = (
                f"{clean(data.name, 60)} ({data.split}, digest {clean(data.digest)[:12]}) is unverified: "
                "its digest is not one of the known ones, so these may not be the images that the name promises."
            )
            found.append(Note("Unverified data", text))
    return sorted(found)


def _generated(runs: Sequence[StoredRun]) -> list[Note]:
    sets = {
        (stored.run.dataset, m.where.get("generator", ""), m.where.get("table", ""))
        for stored in runs
        for task in stored.tasks
        if task.task == "corruption"
        for m in task.measurements
        if m.where.get("source") == "generated"
    }
    found = []
    for dataset, generator, bar in sorted({(name, clean(by), str(table).endswith("-bar")) for name, by, table in sets}):
        made = f" (generator {generator})" if generator else ""
        published = _published(dataset) + "-bar" * bar
        text = (
            f"The corrupted images of {clean(dataset, 60)} were generated{made}: they are {_gen(dataset, bar=bar)}, "
            f"not the published {published} files. Compare them with each other, not with published numbers."
        )
        found.append(Note("Generated corruptions", text))
    return found


def _gen(dataset: str, *, bar: bool) -> str:
    return f"{clean(dataset, 60).removesuffix('-sample')}-c{'-bar' * bar}-gen"


def _published(dataset: str) -> str:
    return {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}.get(dataset.removesuffix("-sample"), "corrupted")


def _unequal(runs: Sequence[StoredRun]) -> list[Note]:
    seen: dict[tuple[str, Identity], set[tuple[str, int]]] = defaultdict(set)
    for stored in runs:
        for task in stored.tasks:
            for m in task.measurements:
                if m.value is not None and ranked(m):
                    seen[stored.run.dataset, identity(m)].add((task.test_data.digest, m.n))
    unequal: dict[tuple[str, str], set[int]] = defaultdict(set)
    for (dataset, (task_name, _, _)), images in seen.items():
        if len(images) > 1:
            unequal[dataset, task_name].update(n for _, n in images)
    return [
        Note(
            "Different images",
            f"On {clean(dataset, 60)}, {clean(task, 30)} was not judged on the same images in "
            f"every row (n = {', '.join(map(str, sorted(counts)))}): such rows do not compare.",
        )
        for (dataset, task), counts in sorted(unequal.items())
    ]


def _hardware(runs: Sequence[StoredRun]) -> list[Note]:
    parts: tuple[tuple[str, Callable[[Run, Cost], str]], ...] = (
        ("devices", lambda run, cost: f"{cost.device} {run.provenance.cpu}"),
        ("numbers of threads", lambda run, cost: str(cost.threads)),
        ("precisions", lambda run, cost: cost.precision),
    )
    costs = [(stored.run, stored.run.cost) for stored in runs if stored.run.cost is not None]
    differing = [name for name, part in parts if len({part(run, cost) for run, cost in costs}) > 1]
    if not differing:
        return []
    return [
        Note("Different machines", f"The rows come from different {' and '.join(differing)}: seconds do not compare.")
    ]


def _flagged(runs: Sequence[StoredRun]) -> list[Note]:
    found = []
    for stored in runs:
        reasons = dict.fromkeys(
            str(reason)
            for task in stored.tasks
            for m in task.measurements
            if m.trust == "flagged"
            for reason in m.reasons
            if reason.level == "doubt"
        )
        if reasons:
            text = f"{clean(stored.run.label, 60)}, seed {stored.run.seed}: {clean('; '.join(reasons), 400)}"
            found.append(Note("Doubtful numbers", text))
    return found
