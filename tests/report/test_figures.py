"""Which figures there are; fronts, against a search over all pairs; figures for papers; large boards."""

from __future__ import annotations

import itertools
import random
import re
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.text import Text

from robusteval.report.board.columns import Column
from robusteval.report.board.rows import Row, board
from robusteval.report.figures.front import Sense, front, steps
from robusteval.report.figures.plots import Plot, paper
from robusteval.report.figures.scatter import FLAG
from robusteval.report.figures.selection import figures
from robusteval.report.figures.strokes import Strokes
from robusteval.report.figures.style import COLUMN, drawing, new_figure, pdf, svg
from robusteval.report.figures.tradeoffs import accuracies, cost_plot, tradeoff
from robusteval.store import StoredRun

SENSES: list[tuple[Sense, Sense]] = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
ROBUST = "PGD-20 Linf 8/255"
LABELS = ("standard", "mixup", "pgd_at", "advprop", "entprop", "advprop-lr1")


def made(runs: list[StoredRun]) -> dict[str, Plot]:
    shown = board(runs)
    with drawing():
        return {plot.name: plot for plot in figures(shown.groups, shown.columns)}


def column(runs: list[StoredRun], kind: str) -> Column:
    return next(column for column in board(runs).columns if column.kind == kind)


def flagged(run: StoredRun, task: str) -> StoredRun:
    """The run, all its numbers of a task doubtful."""
    tasks = [
        record.model_copy(
            update={"measurements": tuple(m.model_copy(update={"trust": "flagged"}) for m in record.measurements)}
        )
        if record.task == task
        else record
        for record in run.tasks
    ]
    return StoredRun(run.folder, run.run, run.history, tuple(tasks))


def drawn_front(plot: Plot) -> list[tuple[float, float]]:
    """The corners of the front as it is drawn: all that lies between is on a level or a plumb line."""
    (line,) = (line for line in plot.figure.axes[0].lines if line.get_label() == "front")
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def every(plot: Plot) -> list[tuple[float, float]]:
    (markers,) = (one for one in plot.figure.axes[0].collections if isinstance(one, PathCollection))
    return [(float(x), float(y)) for x, y in np.asarray(markers.get_offsets())]


def beaten(point: tuple[float, float], others: list[tuple[float, float]], better: tuple[Sense, Sense]) -> bool:
    """By definition: another is at least as good in both and better in one."""
    gains = [[sense * (b - a) for sense, a, b in zip(better, point, other, strict=True)] for other in others]
    return any(min(gain) >= 0 and max(gain) > 0 for gain in gains)


@pytest.mark.parametrize("better", SENSES)
def test_the_front_is_what_no_other_point_beats(better: tuple[Sense, Sense]) -> None:
    draw = random.Random(0)
    for _ in range(300):
        points = [(float(draw.randrange(6)), float(draw.randrange(6))) for _ in range(draw.randrange(1, 12))]
        expected = {i for i, point in enumerate(points) if not beaten(point, points, better)}
        found = front(points, better)
        assert set(found) == expected
        assert len(found) == len(expected)
        assert [better[0] * points[i][0] for i in found] == sorted(better[0] * points[i][0] for i in found)


@pytest.mark.parametrize("better", SENSES)
def test_the_line_bounds_what_the_front_dominates(better: tuple[Sense, Sense]) -> None:
    draw = random.Random(1)
    for _ in range(50):
        points = [(draw.random(), draw.random()) for _ in range(8)]
        worst = (0.0 if better[0] == 1 else 1.0, 0.0 if better[1] == 1 else 1.0)
        corners = [points[i] for i in front(points, better)]
        line = steps(corners, better, worst)
        assert line[0][0] == worst[0]
        assert line[-1][1] == worst[1]
        assert set(corners) <= set(line)
        for (x0, y0), (x1, y1) in itertools.pairwise(line):
            assert x0 == x1 or y0 == y1
            # A little inside of the line something on the front is better; a little outside nothing is.
            middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
            inside, outside = (middle + side * 1e-9 * np.array(better) for side in (-1, 1))
            assert beaten(tuple(inside), corners, better)
            assert not beaten(tuple(outside), corners, better)


def test_the_figures_of_a_leaderboard(runs: list[StoredRun]) -> None:
    assert list(made(runs)) == [
        "clean-vs-corruption_error_generated",
        f"{ROBUST}-vs-clean_accuracy",
        f"{ROBUST}-vs-corruption_accuracy_generated",
        "cost-vs-corruption_accuracy_generated",
        f"cost-vs-{ROBUST}",
        "training-loss",
        "training-accuracy",
        "heat-corruption_accuracy_generated",
    ]


def test_nothing_is_drawn_of_what_was_not_measured(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.1)}, tasks=("clean",))
    assert list(made([run])) == ["training-loss", "training-accuracy"]
    with drawing():
        assert figures((), ()) == []


@pytest.mark.parametrize(
    ("name", "x", "better"),
    [
        ("clean-vs-corruption_error_generated", "error", (-1, -1)),
        (f"{ROBUST}-vs-clean_accuracy", "clean_accuracy", (1, 1)),
        (f"{ROBUST}-vs-corruption_accuracy_generated", "corruption_accuracy_generated", (1, 1)),
        (f"cost-vs-{ROBUST}", "cost", (-1, 1)),
        ("cost-vs-corruption_accuracy_generated", "cost", (-1, 1)),
    ],
)
def test_every_trade_off_shows_the_front_of_the_deployed_rows(
    runs: list[StoredRun], name: str, x: str, better: tuple[Sense, Sense]
) -> None:
    def place(row: Row) -> tuple[float, float]:
        cost = row.cost.flops_relative if row.cost else None
        key = ROBUST if ROBUST in name else "corruption_accuracy_generated"
        across = {"cost": cost, "error": 1 - (row.value("clean_accuracy") or 0.0)}.get(x, row.value(x))
        up = row.value("corruption_error_generated" if x == "error" else key)
        assert across is not None
        assert up is not None
        return (across if x == "cost" else 100 * across), 100 * up

    needed = ("clean_accuracy", "corruption_accuracy_generated", ROBUST)
    heads = [group.head for group in board(runs).groups]
    heads = [row for row in heads if all(row.value(key) is not None for key in needed)]
    places = [place(row) for row in heads]
    expected = sorted(point for point in places if not beaten(point, places, better))
    plot = made(runs)[name]
    corners = sorted(point for point in drawn_front(plot) if any(np.allclose(point, one) for one in expected))
    assert np.asarray(corners) == pytest.approx(np.asarray(expected))
    assert len(expected) < len(places)
    # The others lie on the worse side of the line.
    for point in places:
        assert point in expected or beaten(point, drawn_front(plot), better)
    names = {row.stored.run.label for row in heads if place(row) in expected}
    on_it = re.search(r"On it: ([^.]+)\.", plot.caption)
    assert on_it is not None
    assert set(on_it[1].split(", ")) == names
    assert "intervals may overlap" in plot.caption


def test_accuracies_are_those_of_the_records(runs: list[StoredRun]) -> None:
    for across in ("clean_accuracy", "corruption_accuracy_generated"):
        expected = [
            (100 * (row.value(across) or 0.0), 100 * (row.value(ROBUST) or 0.0))
            for row in board(runs).rows
            if row.value(across) is not None and row.value(ROBUST) is not None
        ]
        assert np.asarray(sorted(every(made(runs)[f"{ROBUST}-vs-{across}"]))) == pytest.approx(
            np.asarray(sorted(expected))
        )


def test_doubtful_numbers_are_never_on_the_front(runs: list[StoredRun]) -> None:
    best = next(i for i, stored in enumerate(runs) if stored.run.label == "pgd_at")
    doubted = [flagged(stored, "pgd") if i == best else stored for i, stored in enumerate(runs)]
    place = (48.7, 25.2)
    for name in (f"{ROBUST}-vs-clean_accuracy", f"{ROBUST}-vs-corruption_accuracy_generated", f"cost-vs-{ROBUST}"):
        sound, doubtful = made(runs)[name], made(doubted)[name]
        assert any(np.isclose(y, place[1]) for _, y in drawn_front(sound))
        assert not any(np.isclose(y, place[1]) for _, y in drawn_front(doubtful))
        assert any(np.isclose(y, place[1]) for _, y in every(doubtful))  # but it is shown
        assert f"pgd_at {FLAG}" in {text.get_text() for text in doubtful.figure.axes[0].texts}
        assert FLAG in doubtful.caption
        assert FLAG not in sound.caption
    without = made([flagged(flagged(stored, "pgd"), "corruption") for stored in runs])
    assert "front" not in without[f"{ROBUST}-vs-corruption_accuracy_generated"].caption.split(FLAG)[0]
    assert not any(line.get_label() == "front" for line in without[f"cost-vs-{ROBUST}"].figure.axes[0].lines)


def test_branches_that_are_not_deployed_are_never_on_the_front(make: SimpleNamespace) -> None:
    run = make.run("advprop", {"main": (0.6, 1.0, 0.1), "aux": (0.9, 0.1, 0.9)})
    plot = made([run, make.run("standard", {"main": (0.7, 1.0, 0.0)})])[f"{ROBUST}-vs-clean_accuracy"]
    assert "On it: advprop, standard." in plot.caption
    assert max(y for _, y in drawn_front(plot)) == pytest.approx(10)


def test_equal_rows_are_on_the_front_together(make: SimpleNamespace) -> None:
    runs = [make.run(name, {"main": (0.6, 1.0, 0.1)}) for name in ("standard", "twin")]
    assert "On it: standard, twin." in made(runs)[f"{ROBUST}-vs-clean_accuracy"].caption


def texts(plot: Plot) -> list[Text]:
    found = plot.figure.findobj(Text)
    return [one for one in found if isinstance(one, Text) and one.get_text() and one.get_visible()]


def test_papers_get_columns_with_legible_text(runs: list[StoredRun]) -> None:
    for name, plot in made(runs).items():
        assert plot.again is not None
        with drawing(COLUMN):
            column = plot.again()
        assert column is not None
        assert column.name == name
        width = column.figure.get_figwidth()
        assert width == pytest.approx(6.75) if name.startswith("heat") else width == 3.25
        assert min(text.get_fontsize() for text in texts(column)) >= 7
        assert not any(text.get_fontweight() == "bold" for text in texts(column))  # no heading, the caption is one
        column.figure.draw_without_rendering()  # which places labels
        box = column.figure.bbox
        for axes in column.figure.axes:
            low, high = axes.get_xlim()
            ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            shown = [text for at, text in ticks if low <= at <= high]
            for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label, *shown):
                if text.get_text():
                    extent = text.get_window_extent()
                    assert extent.x0 >= -1, text.get_text()
                    assert extent.x1 <= box.x1 + 1, text.get_text()
                    assert extent.y0 >= -1, text.get_text()


def series(plot: Plot) -> dict[str, list[list[float]]]:
    """The data's lines; those that lead to names have no label."""
    lines = plot.figure.axes[0].lines
    return {
        str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in lines if line.get_label() in LABELS
    }


def test_papers_show_the_same_data(runs: list[StoredRun]) -> None:
    for name, plot in made(runs).items():
        assert plot.again is not None
        with drawing(COLUMN):
            column = plot.again()
        assert column is not None
        if "-vs-" in name:
            assert sorted(every(column)) == sorted(every(plot))
        if name.startswith("training"):
            assert series(column) == series(plot)


def test_pdfs_have_the_same_bytes_no_date_and_true_type(runs: list[StoredRun]) -> None:
    plots = made(runs)
    again = made(runs)
    for name in (f"cost-vs-{ROBUST}", "heat-corruption_accuracy_generated"):
        document = paper(plots[name])
        assert document == paper(again[name])
        assert document.startswith(b"%PDF-")
        assert b"/CreationDate" not in document
        assert b"matplotlib" not in document.lower()
        streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", document, re.DOTALL)
        opened = document + b"".join(_inflated(stream) for stream in streams)
        assert b"/FontFile2" in opened
        assert b"/Type3" not in opened
        sizes = re.search(rb"/MediaBox \[ ?([^\]]+)\]", document)
        assert sizes is not None
        width = float(sizes[1].split()[2])
        assert width == pytest.approx(72 * (6.75 if name.startswith("heat") else 3.25), abs=0.01)


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_a_medium_does_not_outlive_its_context(runs: list[StoredRun]) -> None:
    plots = made(runs)
    before = svg(plots["training-loss"].figure)
    paper(plots["training-loss"])
    assert svg(made(runs)["training-loss"].figure) == before
    assert made(runs)["training-loss"].figure.get_figwidth() == 5.2


def test_of_many_attacks_those_on_most_rows_are_drawn(make: SimpleNamespace) -> None:
    runs = []
    for i in range(3):
        more = [
            make.measured(
                "pgd", "robust_accuracy", 0.2, branch="main", attack_branch="main", **make.ATTACK | {"steps": 50 + j}
            )
            for j in range(6)
            if i or j > 3
        ]
        runs.append(make.with_task(make.run(f"m{i}", {"main": (0.7, 1.0, 0.1)}), "pgd", more, key="pgd-more"))
    plots = made(runs)
    drawn = {name.split("-vs-")[0].split()[0] for name in plots if name.endswith("vs-clean_accuracy")}
    assert drawn == {"PGD-20", "PGD-54", "PGD-55", "PGD-50"}
    caption = plots[f"{ROBUST}-vs-clean_accuracy"].caption
    assert "Not drawn, of fewer rows or later in the table: PGD-51 Linf 8/255, PGD-52 Linf 8/255, PGD-53" in caption


def test_hostile_names_stay_text(hostile: list[StoredRun]) -> None:
    plots = made(hostile)
    assert all("<script" not in svg(plot.figure) for plot in plots.values())
    assert paper(plots["training-loss"]).startswith(b"%PDF-")


def test_rows_differ_in_more_than_colour(runs: list[StoredRun]) -> None:
    with drawing():
        plot = accuracies(board(runs).groups, column(runs, "clean"), column(runs, "attack"))
    assert plot is not None
    (markers,) = (one for one in plot.figure.axes[0].collections if isinstance(one, PathCollection))
    shapes = {np.asarray(path.vertices).tobytes() for path in markers.get_paths()}
    assert len(shapes) == 5


def many(make: SimpleNamespace, count: int) -> list[StoredRun]:
    draw = random.Random(0)
    runs = []
    for i in range(count):
        scores = {"main": (draw.uniform(0.4, 0.95), draw.uniform(0.3, 1.0), draw.uniform(0.0, 0.4))}
        name = f"method{i}" if i else "standard"
        runs.append(make.run(name, scores, flops=draw.uniform(1, 8) if i else 1.0))
    return runs


def test_500_rows_are_drawn_in_two_seconds(make: SimpleNamespace) -> None:
    shown = board(many(make, 500))
    with drawing():
        figures(board(many(make, 5)).groups, shown.columns)  # fonts are found once
        start = time.process_time()
        found = figures(shown.groups, shown.columns)
        taken = time.process_time() - start
    assert len(found) == 8
    assert all(len(every(plot)) == 500 for plot in found if "-vs-" in plot.name)
    # Processor seconds: others may use the machine, too. About 1 was measured.
    assert taken < 2


def test_the_front_is_named_first_where_not_all_can_be(make: SimpleNamespace) -> None:
    runs = many(make, 120)
    with drawing():
        plots = [
            tradeoff(board(runs).groups, column(runs, "error")),
            cost_plot(board(runs).groups, column(runs, "attack")),
        ]
    for plot in plots:
        assert plot is not None
        on_it = re.search(r"On it: ([^.]+?)( and \d+ more)?\.", plot.caption)
        assert on_it is not None
        names = {text.get_text() for text in plot.figure.axes[0].texts}
        assert set(on_it[1].split(", ")) <= names
        assert 8 <= len(names) <= 40


def test_pdf_of_a_figure_alone(runs: list[StoredRun]) -> None:
    plot = made(runs)["training-loss"]
    alone = plot._replace(again=None)
    assert paper(alone) == pdf(plot.figure)


def test_strokes_are_one_path_of_all_lines() -> None:
    lines = [[(0.1, 0.1), (0.2, 0.9)], [(0.3, 0.5), (0.4, 0.6), (0.5, 0.2)], [(0.6, 0.6), (0.9, 0.6)]]
    documents = {}
    for kind in (Strokes, LineCollection):
        with drawing():
            figure = new_figure(2, 2)
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            collection = kind(lines, colors="#0072b2", linewidths=1.0)
            axes.add_collection(collection)
            assert [np.asarray(one).tolist() for one in collection.get_segments()] == [
                [list(point) for point in line] for line in lines
            ]
            limits = axes.dataLim.extents.tolist()
        paths = re.findall(r'<path d="([^"]*)"[^>]*fill: none', svg(figure))
        documents[kind] = limits, "".join(paths).split(), len(paths)
    assert documents[Strokes][:2] == documents[LineCollection][:2]
    assert (documents[Strokes][2], documents[LineCollection][2]) == (1, 3)
