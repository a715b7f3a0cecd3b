"""Attacks that were varied, in the details of a run: tables that hold the records and lose none."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from robusteval.records import Measurement, Reason
from robusteval.report.page.attacks import attacks, in_tables
from robusteval.report.page.diagnostics import diagnostics
from robusteval.report.page.html import _environment
from robusteval.store import StoredRun

SCORES = {"main": (0.7, 1.0, 0.1), "aux": (0.6, 1.0, 0.1)}
PGD = {"norm": "Linf", "epsilon": "8/255", "step": "2/255", "steps": 20}
MATRIX = {
    ("main", "main"): 0.1, ("aux", "main"): 0.4, ("main", "aux"): 0.3, ("aux", "aux"): 0.2,
    ("main", "worst"): 0.05, ("aux", "worst"): 0.15, ("main", "mean"): 0.12, ("aux", "mean"): 0.22,
}  # fmt: skip
RADII = ("0", "1/255", "8/255", "16/255")


def matrix(make: SimpleNamespace, *, n: int = 200, **changes: Any) -> list[Measurement]:
    """What each branch makes of each attack."""
    places = [
        (value, PGD | {"branch": judged, "attack_branch": through} | changes)
        for (judged, through), value in MATRIX.items()
    ]
    return [make.measured("attack_matrix", "robust_accuracy", value, n=n, **place) for value, place in places]


def curve(make: SimpleNamespace, branch: str, values: tuple[float, ...]) -> list[Measurement]:
    where = {"norm": "Linf", "steps": 20, "loss": "ce", "branch": branch, "attack_branch": branch}
    places = [(value, where | {"epsilon": at, "step": at}) for at, value in zip(RADII, values, strict=True)]
    return [make.measured("epsilon_curve", "robust_accuracy", value, n=200, **place) for value, place in places]


@pytest.fixture
def run(make: SimpleNamespace) -> StoredRun:
    """A run of two branches, both of whose attacks were varied."""
    stored = make.with_task(make.run("advprop", SCORES), "attack_matrix", matrix(make), options=PGD)
    curves = [*curve(make, "aux", (0.6, 0.5, 0.2, 0.1)), *curve(make, "main", (0.7, 0.4, 0.1, 0.0))]
    made: StoredRun = make.with_task(stored, "epsilon_curve", curves, options={"steps": 20})
    return made


def rendered(stored: StoredRun) -> str:
    environment = _environment()
    environment.globals["attacks"] = attacks
    return environment.get_template("attacks.html").render(stored=stored)


def test_the_matrix_holds_the_records(run: StoredRun) -> None:
    table = attacks(run)[0]
    assert table.title == "PGD-20 Linf 8/255 through each branch"
    assert table.columns == ("main", "aux", "worst", "mean")
    assert list(table.lines) == ["main", "aux"]  # the deployed branch first
    for judged, line in table.lines.items():
        for through, m in zip(table.columns, line, strict=True):
            assert m is not None
            assert m.value == pytest.approx(MATRIX[judged, through])
            assert (m.where["branch"], m.where["attack_branch"]) == (judged, through)
    assert (table.n, table.high, table.curves) == (200, 0.4, ())
    assert "worst: right on the examples of every branch" in table.key


def test_radii_grow_and_curves_follow_them(run: StoredRun) -> None:
    table = attacks(run)[1]
    assert table.columns == RADII
    assert list(table.lines) == ["main", "aux"]
    assert [m.value for m in table.lines["main"] if m] == pytest.approx([0.7, 0.4, 0.1, 0.0])
    assert table.high == 0.7
    main, aux = table.curves
    assert (main.name, main.last, aux.name, aux.last) == ("main", 0.0, "aux", 0.1)
    points = [tuple(map(float, point.split(","))) for point in main.points.split()]
    expected = [
        (300 * k / 16, 100 - 100 * value / 0.7) for k, value in zip((0, 1, 8, 16), (0.7, 0.4, 0.1, 0.0), strict=True)
    ]
    assert points == [pytest.approx(point, abs=0.051) for point in expected]


def test_small_differences_do_not_look_large(make: SimpleNamespace) -> None:
    low = [m.model_copy(update={"value": 0.01}) for m in matrix(make)]
    (table,) = attacks(make.with_task(make.run("advprop", SCORES), "attack_matrix", low))
    assert table.high == 0.1


def test_no_measurement_is_lost_and_none_is_twice(run: StoredRun, make: SimpleNamespace) -> None:
    # An older record of the same, and one on fewer images, stay in the tables of diagnostics.
    stored = make.with_task(run, "attack_matrix", matrix(make, n=100), options=PGD | {"limit": 100}, key="fewer")
    varied = [m for task in stored.tasks if task.task in ("attack_matrix", "epsilon_curve") for m in task.measurements]
    tables = [table for one in diagnostics(stored) for table in one.tables]
    beside = [id(m) for table in tables for line in table.lines for cell in line.cells for m in cell]
    assert Counter([*in_tables(stored), *beside]) == Counter(map(id, varied))
    assert len(in_tables(stored)) == 16
    assert len(beside) == 8


def test_what_was_measured_on_the_way_stays_in_diagnostics(run: StoredRun, make: SimpleNamespace) -> None:
    old = next(task for task in run.tasks if task.task == "epsilon_curve")
    way = make.with_snapshots(run, {3: SCORES}, tasks=())
    weights = way.run.snapshots[0].weights_sha256
    early = old.model_copy(update={"epoch": 3, "weights_sha256": weights, "key": "early"})
    stored = StoredRun(way.folder, way.run, way.history, way.tasks, (early,))
    (found,) = diagnostics(stored)
    assert (found.task, found.tables) == ("epsilon_curve", ())
    assert sum(len(table.lines) for table in found.on_the_way) == 8


def test_other_weights_do_not_count(make: SimpleNamespace) -> None:
    stored = make.with_task(make.run("advprop", SCORES), "attack_matrix", matrix(make), weights_sha256="cd" * 32)
    assert attacks(stored) == []


def test_a_run_without_such_attacks_has_no_section(runs: list[StoredRun]) -> None:
    assert all(not rendered(stored).strip() for stored in runs)


def test_every_number_is_there_as_text(run: StoredRun) -> None:
    page = rendered(run)
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert len(tables) == 2
    cells = [re.sub(r"<[^>]+>", " ", cell).split() for cell in re.findall(r"<td[^>]*>(.*?)</td>", tables[0], re.DOTALL)]
    assert [cell[0] for cell in cells] == ["10.0", "30.0", "5.0", "12.0", "40.0", "20.0", "15.0", "22.0"]
    assert all(re.fullmatch(r"[\d.]+\N{EN DASH}[\d.]+", cell[1]) for cell in cells)
    assert re.findall(r'<th scope="col">([^<]+)</th>', tables[1]) == ["radius", *RADII]
    assert re.findall(r'<th scope="row">([^<]+)</th>', tables[1]) == ["main", "aux"]
    assert "n = 200" in page
    # The strongest colour belongs to the highest number.
    steps = [int(step) for step in re.findall(r'<td class="h(\d+)"', tables[0])]
    assert steps[4] == max(steps) == 20
    assert page.count("<polyline") == 2
    assert (
        'role="img" aria-label="PGD-20 Linf at each radius, from 0 to 16/255; the table below has its numbers"' in page
    )


def test_missing_is_missing_and_doubt_is_marked(make: SimpleNamespace) -> None:
    measured = matrix(make)
    gone = measured[1].model_copy(update={"value": None, "low": None, "high": None, "note": "no <memory>"})
    doubt = Reason(name="x", evidence="y <z>", text="t")
    flagged = measured[0].model_copy(update={"trust": "flagged", "reasons": (doubt,)})
    stored = make.with_task(make.run("advprop", SCORES), "attack_matrix", [flagged, gone, *measured[2:-1]])
    page = rendered(stored)
    assert "no &lt;memory&gt;" in page
    assert page.count('<td class="absent">') == 2  # the one without a value, and the one that was not measured
    assert "doubtful: " in page
    assert "y &lt;z&gt;" in page
    assert ">0.0<" not in page


def test_hostile_branches_are_text(make: SimpleNamespace) -> None:
    for name in make.HOSTILE:
        branches = {name: (0.5, 0.5, 0.1), f"aux{name}": (0.4, 0.4, 0.1)}
        stored = make.run("x", branches, deployed=name)
        cells = [
            make.measured(
                "attack_matrix", "robust_accuracy", 0.1, **PGD | {"branch": a, "attack_branch": b, "norm": name}
            )
            for a in branches
            for b in branches
        ]
        stored = make.with_task(stored, "attack_matrix", cells)
        stored = make.with_task(stored, "epsilon_curve", [
            m.model_copy(update={"where": m.where | {"epsilon": odd}})
            for odd in (name, "nan", "1/0", "8/255", "0")
            for m in curve(make, name, (0.5, 0.4, 0.3, 0.2))[:1]
        ])  # fmt: skip
        page = rendered(stored)
        assert "<script>alert" not in page
        assert not set(page) & {"\0", "\x1b", "\u202e"}
        assert "nan," not in page
        assert len(page) < 20_000
