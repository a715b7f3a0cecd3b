"""What a run's training cost, per image and relative to plain training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from robusteval.records import Cost, DataRef, Run

REFERENCE = "standard"
"""The method that relative costs are relative to."""


@dataclass(frozen=True)
class TeacherCost:
    """What training the network cost that a run learnt from; it is not part of the run's own cost. None is unknown.

    Attributes:
        ids: of the teacher's run; of all of them for a mean over seeds.
        flops: of its training.
        flops_relative: ``flops`` over those of the student's reference.
        wall_s: seconds of its training.
        students: how many runs learnt from the same teacher.
    """

    ids: tuple[str, ...]
    flops: float | None
    flops_relative: float | None
    wall_s: float | None
    students: int


@dataclass(frozen=True)
class CostLine:
    """The cost of a run's training; None is unknown.

    Attributes:
        forward, backward: passes per training image, by branch.
        flops: of the whole training.
        flops_relative: ``flops`` over those of the reference.
        wall_s: seconds by phase: ``train`` (all of the loop), of which ``attack`` and ``data``.
        wall_relative: seconds of training over those of the reference on the same machine.
        reference: the id of the run that this one is compared with, the first of them if there are several.
        teacher: what is not counted in any of these.
    """

    forward: Mapping[str, float]
    backward: Mapping[str, float]
    images: float
    flops: float
    flops_relative: float | None
    wall_s: Mapping[str, float]
    wall_relative: float | None
    peak_memory_bytes: float | None
    reference: str | None
    teacher: TeacherCost | None = None

    @property
    def flops_together(self) -> float | None:
        """FLOPs with the teacher's; None without a teacher or where its cost is unknown."""
        teacher = self.teacher
        return None if teacher is None or teacher.flops is None else self.flops + teacher.flops

    @property
    def flops_relative_together(self) -> float | None:
        """``flops_together`` over the FLOPs of the reference."""
        parts = (self.flops_relative, self.teacher.flops_relative if self.teacher else None)
        return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]

    @property
    def wall_together(self) -> float | None:
        """Seconds of training with the teacher's; None where either is unknown."""
        own, teacher = self.wall_s.get("train"), self.teacher.wall_s if self.teacher else None
        return None if own is None or teacher is None else own + teacher

    @property
    def forward_total(self) -> float | None:
        """Forward passes per training image; None when none was counted."""
        return sum(self.forward.values()) if self.forward else None

    @property
    def backward_total(self) -> float | None:
        """Backward passes per training image, the papers' cost in multiples of N; None when none was counted."""
        return sum(self.backward.values()) if self.backward else None


def trained(run: Run) -> bool:
    """Whether training finished (an evaluation may still have failed): its cost is then that of a whole training."""
    return run.weights_sha256 is not None


class Peers:
    """Runs among which others find what their costs are compared with."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._plain: dict[_Work, list[tuple[Run, Cost]]] = defaultdict(list)
        for run in runs:
            if run.method == REFERENCE and trained(run) and run.cost is not None:
                self._plain[_work(run, run.cost)].append((run, run.cost))

    def line(self, run: Run) -> CostLine | None:
        """The cost of a run next to that of its references; None when the run has none.

        Relative numbers are those of finished trainings only; wall time is compared only on the same processor with
        the same number of threads and the same precision.
        """
        if run.cost is None:
            return None
        cost, clock = run.cost, _clock(run, run.cost)
        plain = self._references(run, cost) if trained(run) else []
        timed = [one for other, one in plain if "train" in one.wall_s and _clock(other, one) == clock]
        return CostLine(
            forward=_per_image(cost.forward, cost),
            backward=_per_image(cost.backward, cost),
            images=cost.images,
            flops=cost.flops,
            flops_relative=_ratio(cost.flops, [one.flops for _, one in plain]),
            wall_s=_phases(cost.wall_s),
            wall_relative=_ratio(cost.wall_s.get("train"), [one.wall_s["train"] for one in timed]),
            peak_memory_bytes=cost.peak_memory_bytes,
            reference=plain[0][0].id if plain else None,
            teacher=_teacher(run, self._runs, [one.flops for _, one in plain]),
        )

    def _references(self, run: Run, cost: Cost) -> list[tuple[Run, Cost]]:
        """The plain runs whose training finished, on the same images, architecture and device, with their costs.

        Those with the same training options if there are such, so that a longer schedule is compared with a
        longer schedule, and those that carry the method's own name as label.
        """
        found = self._plain.get(_work(run, cost), [])
        found = [one for one in found if one[0].training == run.training] or found
        return [one for one in found if one[0].label == REFERENCE] or found


_Work = tuple[DataRef, str, str]


def _work(run: Run, cost: Cost) -> _Work:
    """What must be equal for costs to be comparable at all."""
    return run.train_data, run.architecture, cost.device


def cost_line(run: Run, runs: Sequence[Run]) -> CostLine | None:
    """The cost of one run next to that of its references in ``runs``; see `Peers.line`."""
    return Peers(runs).line(run)


def _teacher(run: Run, runs: Sequence[Run], plain: Sequence[float]) -> TeacherCost | None:
    """The cost of the run's teacher, relative to the FLOPs of plain runs; None if it has no teacher."""
    if run.teacher is None:
        return None
    found = [other.cost for other in runs if other.id == run.teacher and trained(other)]
    cost = found[0] if found else None
    return TeacherCost(
        ids=(run.teacher,),
        flops=None if cost is None else cost.flops,
        flops_relative=None if cost is None else _ratio(cost.flops, plain),
        wall_s=None if cost is None else cost.wall_s.get("train"),
        students=sum(other.teacher == run.teacher for other in runs),
    )


def _mean_teacher(found: Sequence[TeacherCost]) -> TeacherCost | None:
    if not found:
        return None
    return TeacherCost(
        ids=tuple(dict.fromkeys(name for one in found for name in one.ids)),
        flops=_mean([one.flops for one in found]),
        flops_relative=_mean([one.flops_relative for one in found]),
        wall_s=_mean([one.wall_s for one in found]),
        students=max(one.students for one in found),
    )


def _phases(wall_s: Mapping[str, float]) -> dict[str, float]:
    """The seconds by phase; where training was timed, a part of it that never ran took no time."""
    return ({"attack": 0.0, "data": 0.0} if "train" in wall_s else {}) | dict(wall_s)


def _clock(run: Run, cost: Cost) -> tuple[str, str, int, str]:
    """What must be equal for seconds to be comparable; a CPU as device has no name of its own."""
    return cost.device, run.provenance.cpu, cost.threads, cost.precision


def _per_image(counts: Mapping[str, int], cost: Cost) -> dict[str, float]:
    return {branch: count / cost.images for branch, count in counts.items()} if cost.images else {}


def _ratio(value: float | None, plain: Sequence[float]) -> float | None:
    """``value`` over the mean of the references; None without one."""
    mean = fmean(plain) if plain else 0.0
    return value / mean if value is not None and mean > 0 else None


def mean_cost(lines: Sequence[CostLine]) -> CostLine | None:
    """The mean over runs of each number, over those that have it; None without runs."""
    if not lines:
        return None
    return CostLine(
        forward=_mean_table([line.forward for line in lines]),
        backward=_mean_table([line.backward for line in lines]),
        images=fmean(line.images for line in lines),
        flops=fmean(line.flops for line in lines),
        flops_relative=_mean([line.flops_relative for line in lines]),
        wall_s=_mean_table([line.wall_s for line in lines]),
        wall_relative=_mean([line.wall_relative for line in lines]),
        peak_memory_bytes=_mean([line.peak_memory_bytes for line in lines]),
        reference=lines[0].reference,
        teacher=_mean_teacher([line.teacher for line in lines if line.teacher is not None]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _mean_table(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for table in tables for key in table)
    return {key: fmean(table[key] for table in tables if key in table) for key in keys}
