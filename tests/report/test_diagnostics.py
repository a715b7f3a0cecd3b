"""Measurements that make no column: tables and histograms that lose none of them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from robusteval.records import Measurement, Reason
from robusteval.report.board.columns import DIAGNOSTICS
from robusteval.report.board.notes import notes
from robusteval.report.board.rows import board
from robusteval.report.page.attacks import in_tables
from robusteval.report.page.diagnostics import Diagnostic, Table, diagnostics
from robusteval.report.page.html import page_text
from robusteval.report.text import MISSING
from robusteval.store import StoredRun

SCORES = {"main": (0.7, 1.0, 0.1)}


def number(metric: str, value: float | None, *, note: str = "", n: int = 512, **where: Any) -> Measurement:
    """A measurement that is no fraction."""
    return Measurement(task="probe", metric=metric, value=value, n=n, unit="number", where=where, note=note)


def table(found: Diagnostic, metric: str) -> Table:
    return next(table for table in found.tables if metric in {column.metric for column in table.columns})


def shown(table: Table) -> dict[tuple[str, ...], list[list[float | None]]]:
    return {line.place: [[m.value for m in cell] for cell in line.cells] for line in table.lines}


def every(found: list[Diagnostic]) -> Counter[str]:
    """All measurements in all tables, as text."""
    tables = [table for one in found for table in (*one.tables, *one.on_the_way)]
    return Counter(repr(m) for table in tables for line in table.lines for cell in line.cells for m in cell)


@pytest.fixture
def probed(make: SimpleNamespace) -> StoredRun:
    """A run with all kinds of diagnostics."""
    run = make.run("entprop", SCORES)
    layers = [number(m, 0.1 * i, branch="main", layer=f"bn{i}") for i in range(20) for m in ("cosine", "distance")]
    run = make.with_task(run, "features", layers, options={"limit": 512})
    views = [
        make.measured("bn_bank", "accuracy", 0.5 + 0.01 * i, branch="main", statistics=statistics, **where)
        for i, (statistics, where) in enumerate(
            (s, w)
            for s in ("own", "precise")
            for w in (
                {"images": "clean"},
                {"images": "fog", "severity": 3, "source": "generated", "generator": "1"},
                {"images": "snow", "severity": 3, "source": "generated", "generator": "1"},
            )
        )
    ]
    momenta = [make.measured("bn_bank", "mean_accuracy", 0.6, branch="main", momentum=m) for m in (0.1, 0.01)]
    run = make.with_task(run, "bn_bank", [*views, *momenta])
    shares = [
        make.measured("selection", "entropy_share", 0.1 * (i + j + 1), images=images, low=0.5 * i, high=0.5 * (i + 1))
        for j, images in enumerate(("clean", "selected"))
        for i in (1, 0, 2)
    ]
    times = [
        make.measured("selection", "selected_share", 0.25 * i, times_low=low, times_high=high)
        for i, (low, high) in enumerate(((0, 0), (1, 3)), 1)
    ]
    return make.with_task(run, "selection", [*shares, *times, number("gini", 0.123456)])


def test_no_measurement_is_lost_and_none_is_twice(probed: StoredRun) -> None:
    probes = ("features", "bn_bank", "selection")
    expected = Counter(repr(m) for task in probed.tasks if task.task in probes for m in task.measurements)
    assert every(diagnostics(probed)) == expected
    assert [one.task for one in diagnostics(probed)] == sorted(probes)


def test_what_the_leaderboard_shows_is_not_shown_again(runs: list[StoredRun]) -> None:
    assert [diagnostics(stored) for stored in runs] == [[]] * len(runs)


def test_metrics_of_the_same_places_share_a_table(probed: StoredRun) -> None:
    found = next(one for one in diagnostics(probed) if one.task == "features")
    (only,) = found.tables
    assert (only.keys, only.same, only.n) == (("layer",), {"branch": "main"}, 512)
    assert [column.name for column in only.columns] == ["cosine", "distance"]
    assert shown(only)["bn3",] == [[pytest.approx(0.3)], [pytest.approx(0.3)]]


def test_groups_of_images_stand_side_by_side(probed: StoredRun) -> None:
    found = next(one for one in diagnostics(probed) if one.task == "bn_bank")
    views = table(found, "accuracy")
    assert views.keys == ("statistics",)
    assert views.same == {"branch": "main", "severity": "3", "source": "generated", "generator": "1"}
    assert [column.name for column in views.columns] == ["clean, %", "fog, %", "snow, %"]
    assert shown(views) == {("own",): [[0.5], [0.51], [0.52]], ("precise",): [[0.53], [0.54], [0.55]]}
    assert table(found, "mean_accuracy").keys == ("momentum",)


def test_two_measurements_of_one_place_are_both_shown(make: SimpleNamespace) -> None:
    run = make.with_task(make.run("standard", SCORES), "probe", [number("a", 1.0, at=1), number("a", 2.0, at=1)])
    (found,) = diagnostics(run)
    assert shown(found.tables[0]) == {(): [[1.0, 2.0]]}


def test_other_options_of_a_task_stand_apart(make: SimpleNamespace) -> None:
    run = make.run("standard", SCORES)
    for limit in (100, 200):
        run = make.with_task(run, "probe", [number("a", limit, at=1, limit=limit)], options={"limit": limit})
    assert [(one.options, one.tables[0].same) for one in diagnostics(run)] == [
        ({"limit": 100}, {"at": "1"}),  # what the options say is not said again
        ({"limit": 200}, {"at": "1"}),
    ]


def test_a_key_that_only_some_have_tells_lines_apart(make: SimpleNamespace) -> None:
    measurements = [number("a", 1.0, kind="moving", momentum=0.1), number("a", 2.0, kind="own")]
    (found,) = diagnostics(make.with_task(make.run("standard", SCORES), "probe", measurements))
    assert found.tables[0].keys == ("kind", "momentum")
    assert set(shown(found.tables[0])) == {("moving", "0.1"), ("own", "")}


def test_a_line_without_its_first_entry_has_a_heading(make: SimpleNamespace) -> None:
    measurements = [number("a", 1.0, layer="bn1"), number("a", 2.0, layers=7)]
    text = section(page_text([make.with_task(make.run("standard", SCORES), "probe", measurements)]))
    assert re.findall(r'<th scope="row">([^<]*)</th>', text) == ["bn1", MISSING]


def test_histograms_hold_the_shares_in_order(probed: StoredRun) -> None:
    found = next(one for one in diagnostics(probed) if one.task == "selection")
    entropy, times = found.histograms
    assert [group.name for group in entropy.groups] == ["clean", "selected"]
    assert (entropy.top, entropy.times, times.times) == (0.4, False, True)
    clean, selected = entropy.groups
    assert [(bar.name, bar.value) for bar in clean.bars] == [
        ("0 to 0.5", 0.1),
        ("0.5 to 1", 0.2),
        ("1 to 1.5", pytest.approx(0.3)),
    ]
    assert [bar.height for bar in selected.bars] == pytest.approx([50, 75, 100])  # both to the scale of the highest
    assert (clean.first, clean.last) == ("0", "1.5")
    assert [bar.name for bar in times.groups[0].bars] == ["0", "1 to 3"]
    assert table(found, "entropy_share").drawn
    assert not table(found, "gini").drawn


def test_what_was_measured_on_the_way_stands_apart(probed: StoredRun, make: SimpleNamespace) -> None:
    run = make.with_snapshots(probed, {3: SCORES, 1: SCORES})
    old = next(task for task in run.tasks if task.task == "features")
    early = tuple(
        old.model_copy(update={"key": f"f-{epoch}", "epoch": epoch, "weights_sha256": f"{epoch:02d}" * 32})
        for epoch in (3, 1)
    )
    stale = early[0].model_copy(update={"weights_sha256": "cd" * 32})
    run = replace(run, on_the_way=(*run.on_the_way, *early, stale))
    found = next(one for one in diagnostics(run) if one.task == "features")
    assert found.tables == next(one for one in diagnostics(probed) if one.task == "features").tables
    (way,) = found.on_the_way
    assert way.keys == ("layer", "epoch")
    assert [line.place for line in way.lines][:3] == [("bn0", "1"), ("bn0", "3"), ("bn1", "1")]
    assert len(way.lines) == 40  # not those of the other weights


def test_records_of_other_weights_do_not_count(make: SimpleNamespace) -> None:
    run = make.with_task(make.run("standard", SCORES), "probe", [number("a", 1.0)], weights_sha256="cd" * 32)
    assert diagnostics(run) == []


@pytest.mark.parametrize("task", sorted(DIAGNOSTICS))
def test_accuracies_of_what_nobody_deploys_make_no_column(make: SimpleNamespace, task: str) -> None:
    run = make.run("standard", SCORES)
    where = make.ATTACK | {"statistics": "main", "affine": "aux"}
    more = [
        make.measured(task, "robust_accuracy", 0.9, n=50, **where),
        make.measured(task, "accuracy", 0.9, n=50, branch="main"),
        make.measured(task, "mean_accuracy", 0.9, n=50, branch="main", corruptions=15, severities=5, source="official"),
    ]
    probed = make.with_task(run, task, more)
    assert board([probed]).columns == board([run]).columns
    assert board([probed]).rows[0].scores == board([run]).rows[0].scores
    assert notes([probed]) == notes([run])  # nor do they warn that rows do not compare
    assert sum(every(diagnostics(probed)).values()) + len(in_tables(probed)) == 3


def test_diagnostics_on_other_images_are_no_caution(make: SimpleNamespace) -> None:
    runs = [make.with_task(make.run(name, SCORES), "probe", [number("a", 1.0, n=i)]) for i, name in enumerate("ab", 1)]
    assert "Different images" not in [note.topic for note in notes(runs)]


def test_two_attacks_on_different_numbers_of_images_are_no_caution(make: SimpleNamespace) -> None:
    runs = []
    for name in "ab":
        few = make.measured("pgd", "robust_accuracy", 0.1, n=50, branch="main", **make.ATTACK | {"steps": 100})
        runs.append(make.with_task(make.run(name, SCORES), "pgd", [few], key="pgd-100"))
    assert "Different images" not in [note.topic for note in notes(runs)]


def section(text: str) -> str:
    """The page's part on diagnostics."""
    return text[text.index("<h3>Diagnostics</h3>") : text.index("<h2", text.index("<h3>Diagnostics</h3>"))]


def test_the_page_shows_numbers_as_they_are_and_fractions_in_percent(make: SimpleNamespace) -> None:
    sure = number("distance", 12.34567, layer="a").model_copy(update={"low": -0.5, "high": 25.0})
    shares = make.measured("probe", "share", 0.5, layer="a")
    gone = number("distance", None, layer="b", note="no <layer>")
    text = section(page_text([make.with_task(make.run("standard", SCORES), "probe", [sure, shares, gone])]))
    plain = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "layer distance n = 512 share, % n = 1,000" in plain
    assert "a 12.35 -0.5 to 25 50.0 46.9–53.1" in plain  # noqa: RUF001 - the interval as shown
    assert "no &lt;layer&gt;" in text
    assert re.findall(r'<th scope="col">([^<]+)<', text) == ["layer", "distance", "share, %"]


def test_long_tables_and_those_of_histograms_are_folded(probed: StoredRun) -> None:
    text = section(page_text([probed]))
    assert re.findall(r'<details class="fold"><summary>([^<]+)</summary>', text) == [
        "cosine, distance: 20 rows",
        "entropy share: 3 rows",
        "selected share: 2 rows",
    ]
    figures = re.findall(r'<svg [^>]*role="img" aria-label="([^"]+)"', text)
    assert figures[0] == "entropy share, clean: histogram of 3 bins; the table below has its numbers"
    heights = [float(height) for height in re.findall(r"60v-([\d.]+)h9", text)]
    assert heights == pytest.approx([15, 30, 45, 30, 45, 60, 30, 60])


def test_hostile_diagnostics_are_text(make: SimpleNamespace) -> None:
    runs = []
    for i, name in enumerate(make.HOSTILE):
        shares = [
            make.measured(name, "x_share", 0.5, images=name, low=low, high=high) for low, high in ((0, 1), (name, name))
        ]
        odd = number(name, 1.0, note=name, **{name: name, "": ""})
        flagged = odd.model_copy(update={"trust": "flagged", "reasons": (Reason(name=name, evidence=name, text=name),)})
        run = make.run("standard", SCORES, id=str(i))
        runs.append(make.with_task(run, name, [*shares, odd, flagged], options={name: name}))
    text = page_text(runs)
    assert "<script>alert" not in text
    assert not set(text) & {"\0", "\x1b", "\u202e"}
