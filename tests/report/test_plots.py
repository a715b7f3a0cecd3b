"""Figures: what their axes hold, that names do not overlap, that equal data give equal bytes."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from robusteval.report.board.columns import Column
from robusteval.report.board.grids import grid
from robusteval.report.board.rows import board
from robusteval.report.figures.curves import heat_map, training_curves
from robusteval.report.figures.ends import spread
from robusteval.report.figures.labels import Mark, place
from robusteval.report.figures.plots import Plot, looks
from robusteval.report.figures.style import drawing, new_figure, png, svg
from robusteval.report.figures.tradeoffs import area, cost_plot, tradeoff
from robusteval.store import StoredRun

SVG = "{http://www.w3.org/2000/svg}"


def column(runs: list[StoredRun], kind: str) -> Column:
    return next(column for column in board(runs).columns if column.kind == kind)


def tradeoff_of(runs: list[StoredRun]) -> Plot:
    with drawing():
        plot = tradeoff(board(runs).groups, column(runs, "error"))
    assert plot is not None
    return plot


def points(plot: Plot) -> dict[str, tuple[float, float, float]]:
    """Name -> x, y, area."""
    axes = plot.figure.axes[0]
    (markers,) = (one for one in axes.collections if isinstance(one, PathCollection))
    offsets, sizes = np.asarray(markers.get_offsets()), markers.get_sizes()
    names = {note.get_text(): note.xy for note in axes.get_children() if isinstance(note, Annotation)}
    assert len(names) == len(offsets)
    places = {name: int(np.linalg.norm(offsets - np.asarray(xy), axis=1).argmin()) for name, xy in names.items()}
    return {name: (float(offsets[i][0]), float(offsets[i][1]), float(sizes[i])) for name, i in places.items()}


def test_tradeoff_holds_the_errors_and_the_cost(runs: list[StoredRun]) -> None:
    found = points(tradeoff_of(runs))
    assert set(found) == {"standard", "mixup", "pgd_at", "advprop", "advprop aux", "entprop", "entprop aux"}
    for row in board(runs).rows:
        name = row.stored.run.label + ("" if row.deployed else " aux")
        if name in found:
            clean, corrupted = row.value("clean_accuracy"), row.value("corruption_accuracy_generated")
            assert clean is not None
            assert corrupted is not None
            assert found[name][:2] == pytest.approx((100 - 100 * clean, 100 - 100 * corrupted))
    assert found["pgd_at"][2] / found["standard"][2] == pytest.approx(17 / 3)


def test_bars_are_the_intervals(runs: list[StoredRun]) -> None:
    scores = next(row for row in board(runs).rows if row.stored.run.label == "standard").scores
    clean, error = scores["clean_accuracy"], scores["corruption_error_generated"]
    segments = [
        segment
        for collection in tradeoff_of(runs).figure.axes[0].collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
    ]
    assert clean.low is not None
    assert clean.high is not None
    expected = [100 - 100 * clean.high, 100 - 100 * clean.low]
    assert any(np.allclose(np.asarray(segment)[:, 0], expected) for segment in segments)
    assert any(
        np.allclose(np.asarray(segment)[:, 1], [100 * (error.low or 0), 100 * (error.high or 0)])
        for segment in segments
    )


def test_bars_of_means_are_standard_deviations(seeds: list[StoredRun]) -> None:
    segments = [
        np.asarray(segment)
        for collection in tradeoff_of(seeds).figure.axes[0].collections
        if isinstance(collection, LineCollection) and collection.get_zorder() == 2  # the ties are below
        for segment in collection.get_segments()
    ]
    spans = np.array([np.ptp(segment, axis=0) for segment in segments])
    assert len(spans) == 14
    assert spans.max(axis=0) == pytest.approx([0.8, 0.8])  # twice the sd of 0.0, 0.4, 0.8


@pytest.mark.parametrize("example", ["runs", "seeds", "hostile"])
def test_axes_end_where_percentages_do(example: str, request: pytest.FixtureRequest) -> None:
    runs: list[StoredRun] = request.getfixturevalue(example)
    axes = tradeoff_of(runs).figure.axes[0]
    with drawing():
        cost = cost_plot(board(runs).groups, column(runs, "attack"))
    ranges = [axes.get_xlim(), axes.get_ylim(), *([cost.figure.axes[0].get_ylim()] if cost else [])]
    assert all(0 <= low < high <= 100 for low, high in ranges)


def test_a_branchs_name_says_whose_it_is(runs: list[StoredRun]) -> None:
    notes = [child for child in tradeoff_of(runs).figure.axes[0].get_children() if isinstance(child, Annotation)]
    assert {note.get_text() for note in notes} == {
        "standard", "mixup", "pgd_at", "advprop", "advprop aux", "entprop", "entprop aux"
    }  # fmt: skip


def test_names_keep_clear_of_lines() -> None:
    def box(*lines: tuple[float, float, float, float]) -> Bbox:
        with drawing():
            axes = new_figure().subplots()
            axes.set(xlim=(0, 10), ylim=(0, 10))
            place(axes, [Mark(5, 5, 3, "name", "black")], lines)
            (note,) = (child for child in axes.get_children() if isinstance(child, Annotation))
            return Bbox(axes.transData.inverted().transform(note.get_window_extent()))

    assert box().x0 > 5  # beside it, to the right
    assert box().y0 < 5 < box().y1
    assert not box((5, 5, 9, 5)).y0 < 5 < box((5, 5, 9, 5)).y1 or box((5, 5, 9, 5)).x1 < 5


def test_a_leader_passes_by_the_other_markers() -> None:
    others = [(5 + 0.45 * x, 5 + 0.45 * y) for x, y in ((1, 0), (-1, 0), (0, 1), (1, 1), (-1, 1), (1, -1), (-1, -1))]
    with drawing():
        axes = new_figure().subplots()
        axes.set(xlim=(0, 10), ylim=(0, 10))
        place(axes, [*(Mark(x, y, 3, "", "black") for x, y in others), Mark(5, 5, 3, "a long name", "black")])
    (line,) = axes.lines
    ends = axes.transData.transform(line.get_xydata())
    path = ends[0] + np.linspace(0, 1, 200)[:, None] * (ends[1] - ends[0])
    gaps = np.linalg.norm(path[:, None] - axes.transData.transform(others), axis=-1)
    assert gaps.min() > 3 * axes.get_figure().dpi / 72


@pytest.mark.parametrize("example", ["runs", "seeds", "hostile"])
def test_names_overlap_neither_each_other_nor_markers(example: str, request: pytest.FixtureRequest) -> None:
    runs: list[StoredRun] = request.getfixturevalue(example)
    plots = [tradeoff_of(runs)]
    with drawing():
        plots += [
            plot
            for kind in ("corruption", "attack")
            if (plot := cost_plot(board(runs).groups, column(runs, kind))) is not None
        ]
    for plot in plots:
        axes = plot.figure.axes[0]
        notes = [child for child in axes.get_children() if isinstance(child, Annotation)]
        boxes = [note.get_window_extent() for note in notes]
        assert notes
        for (a, x), (b, y) in itertools.combinations(zip(notes, boxes, strict=True), 2):
            overlap = min(x.x1, y.x1) - max(x.x0, y.x0), min(x.y1, y.y1) - max(x.y0, y.y0)
            assert min(overlap) <= 1, (a.get_text(), b.get_text())
        for collection in axes.collections:
            if isinstance(collection, PathCollection):
                for x, y in axes.transData.transform(np.asarray(collection.get_offsets())):
                    assert not any(box.x0 < x < box.x1 and box.y0 < y < box.y1 for box in boxes)


def test_cost_plot_holds_scores_against_relative_flops(runs: list[StoredRun]) -> None:
    with drawing():
        plot = cost_plot(board(runs).groups, column(runs, "attack"))
    assert plot is not None
    found = {name: point[:2] for name, point in points(plot).items()}
    expected = {
        "standard": (1, 0),
        "mixup": (1, 0.4),
        "pgd_at": (17 / 3, 25.2),
        "advprop": (16 / 3, 1.3),
        "entprop": (1.2, 0.8),
    }
    assert {name: pytest.approx(point, abs=1e-6) for name, point in expected.items()} == found
    axis = plot.figure.axes[0].xaxis
    assert [axis.get_major_formatter()(tick) for tick in axis.get_majorticklocs()] == ["1×", "2×", "4×", "8×"]  # noqa: RUF001 - the sign


def test_cost_plot_names_what_it_leaves_out(runs: list[StoredRun]) -> None:
    without = [stored for stored in runs if stored.run.method != "standard"]
    with drawing():
        assert cost_plot(board(without).groups, column(without, "attack")) is None
        mixed = [*runs, *[_elsewhere(stored) for stored in runs if stored.run.label == "mixup"]]
        plot = cost_plot(board(mixed).groups, column(mixed, "attack"))
    assert plot is not None
    assert "Without a standard run to compare with: mixup s0." in plot.caption


def _elsewhere(stored: StoredRun) -> StoredRun:
    cost = stored.run.cost
    assert cost is not None
    provenance = stored.run.provenance.model_copy(update={"device": "tpu"})
    update = {"id": "mixup-z", "cost": cost.model_copy(update={"device": "tpu"}), "provenance": provenance}
    return StoredRun(stored.folder, stored.run.model_copy(update=update), stored.history, stored.tasks)


def test_training_curves_hold_the_history(runs: list[StoredRun]) -> None:
    with drawing():
        plot = training_curves(board(runs).groups, "loss")
        assert training_curves(board(runs).groups, "entropy") is None
    assert plot is not None
    lines = {str(line.get_label()): line for line in plot.figure.axes[0].lines}
    for stored in runs:
        line = lines[stored.run.label]
        assert list(line.get_xdata()) == [epoch.epoch for epoch in stored.history]  # type: ignore[arg-type]  # an array
        assert list(line.get_ydata()) == [epoch.logs["loss"] for epoch in stored.history]  # type: ignore[arg-type]  # an array
    assert lines["advprop-lr1"].get_marker() == "X"
    assert lines["standard"].get_marker() == ""


def test_a_single_epoch_has_one_whole_tick(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.1)})
    with drawing():
        plot = training_curves(board([StoredRun(run.folder, run.run, run.history[:1], run.tasks)]).groups, "loss")
    assert plot is not None
    axes = plot.figure.axes[0]
    assert {float(tick) for tick in axes.get_xticks()} == {0.0, 1.0, 2.0}


def test_spread_keeps_gaps_bounds_and_order() -> None:
    heights = [5.0, 5.1, 0.0, 9.9, 10.0, 5.05]
    found = spread(heights, 1.5, low=0.0, high=10.0)
    gaps = np.diff(sorted(found))
    assert gaps.min() == pytest.approx(1.5)
    assert min(found) >= 0
    assert max(found) <= 10
    assert np.argsort(found).tolist() == np.argsort(heights).tolist()


def test_heat_map_holds_means_over_severities(runs: list[StoredRun], make: SimpleNamespace) -> None:
    target = column(runs, "corruption")
    found = grid(board(runs).groups, target)
    assert found is not None
    assert found.corruptions == tuple(make.HARD)
    assert [(row.stored.run.label, row.branch) for row in found.rows][:3] == [
        ("entprop", "main"),
        ("entprop", "aux"),
        ("mixup", "main"),
    ]
    for row, values, mean in zip(found.rows, found.values, found.means, strict=True):
        for name, value in zip(found.corruptions, values, strict=True):
            cells = [
                m.value
                for task in row.stored.tasks
                for m in task.measurements
                if m.where.get("corruption") == name and m.where["branch"] == row.branch
            ]
            assert len(cells) == 5
            assert value == pytest.approx(np.mean([cell for cell in cells if cell is not None]))
        assert mean == pytest.approx(np.mean([value for value in values if value is not None]))
    with drawing():
        plot = heat_map(board(runs).groups, target)
    assert plot is not None
    texts = [text.get_text() for text in plot.figure.axes[0].texts]
    assert texts[:15] == [f"{100 * (value or 0):.1f}" for value in found.values[0]]
    assert len(texts) == len(found.rows) * 16


def test_heat_map_of_means_averages_over_seeds(seeds: list[StoredRun]) -> None:
    target = column(seeds, "corruption")
    single = [grid(board(seeds[5 * i : 5 * i + 5]).groups, target) for i in range(3)]
    found = grid(board(seeds).groups, target)
    assert found is not None
    assert len(found.rows) == 7
    assert np.asarray(found.values, float) == pytest.approx(
        np.mean([np.asarray(one.values, float) for one in single if one], 0)
    )


def test_a_missing_severity_makes_the_cell_missing(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.0)})
    task = run.tasks[1]
    first = task.measurements[0].model_copy(update={"value": None, "low": None, "high": None, "note": "no file"})
    tasks = (run.tasks[0], task.model_copy(update={"measurements": (first, *task.measurements[1:])}))
    stored = StoredRun(run.folder, run.run, run.history, tasks)
    found = grid(board([stored]).groups, column([stored], "corruption"))
    assert found is not None
    assert found.values[0][0] is None
    assert found.values[0][1] is not None
    with drawing():
        plot = heat_map(board([stored]).groups, column([stored], "corruption"))
    assert plot is not None
    assert plot.figure.axes[0].texts[0].get_text() == "\N{EN DASH}"


def test_official_and_generated_cells_are_not_mixed(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.0)}, tasks=("corruption",))
    (task,) = run.tasks
    official = []
    for m in task.measurements:
        where = {key: value for key, value in m.where.items() if key != "generator"} | {"source": "official"}
        official.append(m.model_copy(update={"value": 1.0, "where": where}))
    both = task.model_copy(update={"measurements": (*task.measurements, *official)})
    stored = [StoredRun(run.folder, run.run, run.history, (both,))]
    found = {c.key: grid(board(stored).groups, c) for c in board(stored).columns if c.kind == "corruption"}
    alone = grid(board([run]).groups, column([run], "corruption"))
    generated, published = found["corruption_accuracy_generated"], found["corruption_accuracy_official"]
    assert alone is not None
    assert generated is not None
    assert published is not None
    assert generated.values == alone.values
    assert set(published.values[0]) == {1.0}


def test_same_records_same_bytes(runs: list[StoredRun]) -> None:
    first, second = tradeoff_of(runs), tradeoff_of(runs)
    assert svg(first.figure) == svg(second.figure)
    assert png(first.figure) == png(second.figure)


def test_hostile_names_stay_text(hostile: list[StoredRun]) -> None:
    groups = board(hostile).groups
    with drawing():
        plots = [tradeoff_of(hostile), training_curves(groups, "loss"), heat_map(groups, column(hostile, "corruption"))]
    for plot in plots:
        assert plot is not None
        root = ET.fromstring(svg(plot.figure))
        texts = {"".join(element.itertext()) for element in root.iter(f"{SVG}text")}
        assert any("$x_1$" in text for text in texts)  # not set as mathematics
        assert any("<script>" in text for text in texts)
        assert not list(root.iter(f"{SVG}script"))
        assert png(plot.figure).startswith(b"\x89PNG")


def test_groups_look_different(make: SimpleNamespace) -> None:
    runs = [make.run(f"m{i}", {"main": (0.5, 0.5, 0.1)}) for i in range(56)]
    found = looks(board(runs).groups)
    assert len({(look.colour, look.marker) for look in found}) == 56
    same = [make.run("standard", {"main": (0.5, 0.5, 0.1)}, id=str(i), options={"i": i}) for i in range(3)]
    assert [look.name for look in looks(board(same).groups)] == ["standard", "standard s0", "standard #2"]


def test_colours_are_okabe_and_ito() -> None:
    """Wong (2011), Nature Methods 8:441, without yellow; ink stands for black."""
    published = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233)]
    from robusteval.report.figures.style import PALETTE

    assert list(PALETTE[:6]) == [to_hex([part / 255 for part in colour]) for colour in published]


def test_unknown_cost_has_the_area_of_one() -> None:
    assert area(None) == area(1.0)
    assert area(0.0) > 0
