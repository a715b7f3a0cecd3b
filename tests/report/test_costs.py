"""Costs per image and relative to plain training, recomputed from the records."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from robusteval.report.board.costs import cost_line
from robusteval.report.board.leaderboard import leaderboard
from robusteval.report.board.rows import board
from robusteval.report.files.frame import wide_table
from robusteval.report.files.tables import terminal_table
from robusteval.report.page.html import page_text
from robusteval.report.text import TIMES
from robusteval.store import StoredRun

SCORES = {"main": (0.7, 1.0, 0.1)}


def changed(stored: StoredRun, **fields: object) -> StoredRun:
    """The run with other fields of its cost."""
    assert stored.run.cost is not None
    cost = stored.run.cost.model_copy(update=fields)
    return StoredRun(stored.folder, stored.run.model_copy(update={"cost": cost}), stored.history, stored.tasks)


def test_relative_costs_are_ratios_of_the_recorded_totals(runs: list[StoredRun]) -> None:
    plain = next(stored.run for stored in runs if stored.run.method == "standard")
    assert plain.cost is not None
    for stored in runs:
        run, cost = stored.run, stored.run.cost
        line = cost_line(run, [other.run for other in runs])
        assert cost is not None
        assert line is not None
        assert line.images == cost.images
        assert line.forward == {branch: count / cost.images for branch, count in cost.forward.items()}
        if run.status == "done":
            assert line.flops_relative == pytest.approx(cost.flops / plain.cost.flops, rel=1e-12)
            assert line.wall_relative == pytest.approx(cost.wall_s["train"] / plain.cost.wall_s["train"], rel=1e-12)
            assert line.reference == plain.id
        else:
            assert (line.flops_relative, line.wall_relative, line.reference) == (None, None, None)


def test_passes_of_the_papers(runs: list[StoredRun]) -> None:
    """AdvProp with 5 attack steps: 1 + 6 = 7 N; EntProp k=.2, n=1: 1.2 N."""
    lines = {stored.run.label: cost_line(stored.run, []) for stored in runs}
    assert lines["advprop"] is not None
    assert lines["entprop"] is not None
    assert lines["advprop"].backward_total == pytest.approx(7)
    assert lines["entprop"].backward_total == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("fields", "flops", "wall"),
    [
        ({}, 2.0, 2.0),
        ({"threads": 8}, 2.0, None),
        ({"precision": "float32"}, 2.0, None),
        ({"device": "NVIDIA H200"}, None, None),
        ({"cpu": "another"}, 2.0, None),
    ],
)
def test_what_is_comparable(
    make: SimpleNamespace, fields: dict[str, object], flops: float | None, wall: float | None
) -> None:
    fields = dict(fields)
    plain = make.run("standard", SCORES)
    plain_origin = plain.run.provenance
    origin = plain_origin.model_copy(update={"cpu": fields.pop("cpu", plain_origin.cpu)})
    other = changed(make.run("mixup", SCORES, flops=2.0, wall={"train": 96.0}, provenance=origin), **fields)
    line = cost_line(other.run, [plain.run])
    assert line is not None
    assert (line.flops_relative, line.wall_relative) == (flops, wall)


@pytest.mark.parametrize(
    "change", [{"architecture": "wrn"}, {"weights_sha256": None}, {"train_data": "other"}, {"cost": None}]
)
def test_what_is_no_reference(make: SimpleNamespace, change: dict[str, object]) -> None:
    if change.get("train_data"):
        change = {"train_data": make.TRAIN.model_copy(update={"digest": "00" * 32})}
    plain = make.run("standard", SCORES, **change)
    line = cost_line(make.run("entprop", SCORES).run, [plain.run])
    assert line is not None
    assert line.flops_relative is None


def test_the_reference_with_the_same_schedule_is_preferred(make: SimpleNamespace) -> None:
    long = make.run("standard", SCORES, id="a-long", flops=4.0, training={"epochs": 60})
    short = make.run("standard", SCORES, id="short", flops=1.0)
    line = cost_line(make.run("mixup", SCORES, flops=2.0).run, [long.run, short.run])
    assert line is not None
    assert (line.reference, line.flops_relative) == ("short", 2.0)


def test_several_references_are_averaged(make: SimpleNamespace) -> None:
    plain = [make.run("standard", SCORES, seed=i, wall={"train": 40.0 + 20 * i}).run for i in range(2)]
    line = cost_line(make.run("mixup", SCORES, wall={"train": 100.0}).run, plain)
    assert line is not None
    assert line.wall_relative == pytest.approx(2.0)


def test_a_failed_evaluation_does_not_spoil_the_cost_of_training(make: SimpleNamespace) -> None:
    plain = make.run("standard", SCORES, status="failed", error="clean: no memory")
    line = cost_line(make.run("mixup", SCORES, status="failed", error="pgd: no memory", flops=2.0).run, [plain.run])
    assert line is not None
    assert line.flops_relative == 2.0


def test_a_phase_that_never_ran_took_no_time(make: SimpleNamespace) -> None:
    line = cost_line(make.run("standard", SCORES, wall={"train": 5.0}).run, [])
    assert line is not None
    assert line.wall_s == {"train": 5.0, "attack": 0.0, "data": 0.0}
    unknown = cost_line(make.run("standard", SCORES, wall={"eval": 5.0}).run, [])
    assert unknown is not None
    assert unknown.wall_s == {"eval": 5.0}


def test_without_a_cost_there_is_none(make: SimpleNamespace) -> None:
    assert cost_line(make.run("standard", SCORES, cost=None).run, []) is None


def test_only_standard_is_a_reference(make: SimpleNamespace) -> None:
    line = cost_line(make.run("entprop", SCORES).run, [make.run("mixup", SCORES, label="standard").run])
    assert line is not None
    assert line.flops_relative is None


def taught(make: SimpleNamespace) -> list[StoredRun]:
    """A plain run, a teacher, and two that learn from it."""
    teacher = make.run("bn_free", SCORES, id="teacher-1", flops=1.5, wall={"train": 70.0})
    students = [
        make.run("ct", SCORES, id=f"ct-{i}", label=f"ct-{i}", flops=1.25, teacher="teacher-1") for i in range(2)
    ]
    return [make.run("standard", SCORES), teacher, *students]


def test_a_teachers_cost_stands_apart(make: SimpleNamespace) -> None:
    runs = [stored.run for stored in taught(make)]
    plain, teacher, student, _ = runs
    line = cost_line(student, runs)
    assert line is not None
    assert line.teacher is not None
    assert teacher.cost is not None
    assert plain.cost is not None
    assert line.flops_relative == pytest.approx(1.25)  # its own
    assert (line.teacher.ids, line.teacher.flops, line.teacher.wall_s) == (("teacher-1",), teacher.cost.flops, 70.0)
    assert line.teacher.students == 2
    assert line.flops_together == line.flops + teacher.cost.flops
    assert line.flops_relative_together == pytest.approx(2.75)
    assert line.wall_together == pytest.approx(48.0 + 70.0)
    own = cost_line(teacher, runs)
    assert own is not None
    assert (own.teacher, own.flops_together, own.flops_relative_together, own.wall_together) == (None,) * 4


@pytest.mark.parametrize("change", [{"id": "other"}, {"weights_sha256": None}, {"cost": None}])
def test_a_teacher_that_is_not_among_the_runs_costs_an_unknown_amount(
    make: SimpleNamespace, change: dict[str, object]
) -> None:
    plain, teacher, student, _ = (stored.run for stored in taught(make))
    line = cost_line(student, [plain, teacher.model_copy(update=change), student])
    assert line is not None
    assert line.teacher is not None
    assert (line.teacher.flops, line.flops_together, line.flops_relative_together, line.wall_together) == (None,) * 4
    assert line.flops_relative == pytest.approx(1.25)


def test_means_over_seeds_average_their_teachers(make: SimpleNamespace) -> None:
    runs = []
    for seed in range(2):
        runs.append(make.run("bn_free", SCORES, id=f"t{seed}", seed=seed, flops=1.0 + seed))
        runs.append(make.run("ct", SCORES, id=f"s{seed}", seed=seed, teacher=f"t{seed}"))
        runs.append(make.run("standard", SCORES, seed=seed))
    head = next(group.head for group in board(runs).groups if group.head.stored.run.method == "ct")
    assert head.cost is not None
    assert head.cost.teacher is not None
    assert head.cost.teacher.ids == ("t0", "t1")
    assert head.cost.flops_relative_together == pytest.approx(1 + 1.5)


def test_the_teacher_is_told_everywhere_that_its_students_cost_is(make: SimpleNamespace) -> None:
    runs = taught(make)
    text = " ".join(re.sub(r"<[^>]+>", " ", page_text(runs)).split())
    assert f"1.25{TIMES} † without its teacher’s training" in text  # noqa: RUF001 - as shown
    told = f"teacher 21.9 TFLOP, 1m 10s; together 40.1 TFLOP (2.75{TIMES} standard), the teacher’s training reused by 2 runs"  # noqa: E501, RUF001 - one sentence, as shown
    assert text.count(told) == 2
    assert "teacher 21.9 TFLOP, 1m 10s, reused by 2 runs: teacher-1" in text
    assert f"with teacher 40.1 TFLOP, 2.75{TIMES} standard; 1m 58s" in text
    assert "Without the training of their teachers: ct-0, ct-1." in text
    table = Console(width=120, file=io.StringIO(), color_system=None)
    table.print(terminal_table(runs))
    assert isinstance(table.file, io.StringIO)
    assert table.file.getvalue().count(f"1.25{TIMES}†") == 2
    assert "† Its own cost" in table.file.getvalue()
    columns = wide_table(leaderboard(runs))
    at = columns["label"].index("ct-0")
    assert columns["teacher"][at] == "teacher-1"
    assert columns["teacher_flops"][at] == runs[1].run.cost.flops  # type: ignore[union-attr]  # it has one
    assert columns["teacher"].count(None) == 2


def test_without_teachers_nothing_is_said_of_them(runs: list[StoredRun]) -> None:
    assert "†" not in page_text(runs)
    assert not [name for name in wide_table(leaderboard(runs)) if "teacher" in name]
