"""What training would have been worth had it stopped earlier: figures and table from the kept weights' records."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.lines import Line2D

from robusteval.report.board.rows import board
from robusteval.report.board.stopping import Course, courses
from robusteval.report.figures.plots import Plot, looks
from robusteval.report.figures.stopping_plot import late_stopping
from robusteval.report.figures.style import drawing
from robusteval.report.files.frame import long_table
from robusteval.report.files.tables import csv_text
from robusteval.report.page.html import page_text
from robusteval.store import StoredRun

FINAL = {"main": (0.7, 1.0, 0.1), "aux": (0.6, 1.0, 0.2)}
WAY = {2: {"main": (0.3, 1.0, 0.02), "aux": (0.25, 1.0, 0.03)}, 5: {"main": (0.5, 1.0, 0.05), "aux": (0.4, 1.0, 0.08)}}
PGD = "PGD-20 Linf 8/255"


def course(runs: list[StoredRun]) -> Course:
    (only,) = courses(board(runs).groups)[1]
    return only


def plots(runs: list[StoredRun]) -> dict[str, Plot]:
    groups = board(runs).groups
    shown, found = courses(groups)
    with drawing():
        made = {column.key: late_stopping(groups, found, column) for column in shown}
    return {key: plot for key, plot in made.items() if plot is not None}


def lines(plot: Plot) -> dict[str, Line2D]:
    """The data's lines by name; the samples in the key have none."""
    return {str(line.get_label()): line for line in plot.figure.axes[0].lines if line.get_label()}


@pytest.fixture
def run(make: SimpleNamespace) -> StoredRun:
    """A run judged after 2 and 5 of its 15 epochs."""
    stored: StoredRun = make.with_snapshots(make.run("advprop", FINAL, flops=2.0), WAY)
    return stored


def test_stops_are_the_kept_weights_and_then_the_final_ones(run: StoredRun) -> None:
    assert run.run.cost is not None
    found = course([run])
    assert [(stop.epoch, stop.final) for stop in found.stops] == [(2, False), (5, False), (15, True)]
    assert [stop.flops / run.run.cost.flops for stop in found.stops] == pytest.approx([2 / 15, 5 / 15, 1])
    assert [stop.wall_s for stop in found.stops] == pytest.approx([48 * 2 / 15, 16, 48])
    assert found.branches == ("main", "aux")
    for branch, index in (("main", 0), ("aux", 1)):
        expected = [list(scores.values())[index] for scores in (*WAY.values(), FINAL)]
        clean = [stop.score(branch, "clean_accuracy") for stop in found.stops]
        attacked = [stop.score(branch, PGD) for stop in found.stops]
        assert [score.value for score in clean if score] == [values[0] for values in expected]
        assert [score.value for score in attacked if score] == [values[2] for values in expected]


def test_nothing_without_kept_weights(runs: list[StoredRun]) -> None:
    assert courses(board(runs).groups)[1] == []
    text = page_text(runs)
    assert "Late stopping" not in text
    assert "late-stopping" not in text


def test_kept_weights_that_were_not_judged_are_no_stops(run: StoredRun) -> None:
    assert courses(board([replace(run, on_the_way=())]).groups)[1] == []
    other = tuple(task.model_copy(update={"weights_sha256": "cd" * 32}) for task in run.on_the_way)
    assert courses(board([replace(run, on_the_way=other)]).groups)[1] == []


def test_the_last_epochs_weights_are_not_counted_twice(run: StoredRun) -> None:
    assert run.run.cost is not None
    last = run.run.snapshots[-1].model_copy(
        update={"epoch": 15, "weights_sha256": run.run.weights_sha256, "cost": run.run.cost}
    )
    again = tuple(task.model_copy(update={"epoch": 15, "weights_sha256": run.run.weights_sha256}) for task in run.tasks)
    both = replace(
        run,
        run=run.run.model_copy(update={"snapshots": (*run.run.snapshots, last)}),
        on_the_way=(*run.on_the_way, *again),
    )
    assert [stop.epoch for stop in course([both]).stops] == [2, 5, 15]


def test_a_half_done_run_shows_what_there_is(run: StoredRun) -> None:
    half = replace(run, run=run.run.model_copy(update={"weights_sha256": None, "status": "running"}), tasks=())
    assert [stop.final for stop in course([half]).stops] == [False, False]
    assert len(lines(plots([half])["clean_accuracy"])["advprop"].get_xydata()) == 2


def test_figures_hold_scores_against_cumulative_flops(run: StoredRun) -> None:
    assert run.run.cost is not None
    found = plots([run])
    assert set(found) == {"clean_accuracy", PGD}  # the final corruption accuracy has no earlier one
    data = lines(found["clean_accuracy"])["advprop"].get_xydata()
    flops = run.run.cost.flops
    expected = [(2 / 15 * flops, 30), (flops / 3, 50), (flops, 70)]
    assert np.asarray(data) == pytest.approx(np.asarray(expected))
    axes = found["clean_accuracy"].figure.axes[0]
    assert axes.get_xscale() == "log"
    sizes = [c.get_sizes().tolist() for c in axes.collections if isinstance(c, PathCollection)]
    assert sizes == [[16, 16, 42]]  # the final weights' marker is the largest
    assert found[PGD].description == "In percent: advprop from 2.0 at 3.89 TFLOP to 10.0 at 29.2 TFLOP."


def test_bars_are_the_intervals(run: StoredRun) -> None:
    axes = plots([run])["clean_accuracy"].figure.axes[0]
    (bars,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    scores = [stop.score("main", "clean_accuracy") for stop in course([run]).stops]
    ends = [[100 * (score.low or 0), 100 * (score.high or 0)] for score in scores if score]
    assert [np.asarray(segment)[:, 1].tolist() for segment in bars.get_segments()] == pytest.approx(
        [pytest.approx(end) for end in ends]
    )


def test_seeds_are_averaged_at_the_epochs_that_all_have(make: SimpleNamespace) -> None:
    ways = [{2: {"main": (0.3 + 0.1 * i, 1.0, 0.0)}, **({5: {"main": (0.5, 1.0, 0.0)}} if i else {})} for i in range(2)]
    runs = [
        make.with_snapshots(make.run("mixup", {"main": (0.7, 1.0, 0.1)}, seed=i), way) for i, way in enumerate(ways)
    ]
    found = course(runs)
    assert [(stop.epoch, stop.final) for stop in found.stops] == [(2, False), (15, True)]
    score = found.stops[0].score("main", "clean_accuracy")
    assert score is not None
    assert (score.value, score.seeds) == (pytest.approx(0.35), 2)
    assert score.sd == pytest.approx(np.std([0.3, 0.4], ddof=1))


def test_only_the_deployed_branch_is_drawn_and_the_table_has_all(run: StoredRun) -> None:
    text = page_text([run])
    assert set(lines(plots([run])["clean_accuracy"])) == {"advprop"}
    part = text[text.index('<h2 id="stopping-1">') :]
    part = part[: part.index("</section>")]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)]
    plain = [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in rows]
    assert plain[0] == [
        "Method", "Branch", "Epoch", "FLOPs so far", "Time so far",
        "Clean accuracy, %", "Corruption accuracy (generated), %", f"{PGD}, %",
    ]  # fmt: skip
    assert [row[1:3] for row in plain[1:]] == [
        ["main deployed", "2"], ["main deployed", "5"], ["main deployed", "15 final"],
        ["aux", "2"], ["aux", "5"], ["aux", "15 final"],
    ]  # fmt: skip
    assert plain[1][3:] == ["3.89 TFLOP", "6.4 s", "30.0 27.2–32.9", "–", "2.0 1.3–3.1"]  # noqa: RUF001 - as shown
    assert re.search(r'<svg[^>]+role="img" aria-labelledby="(\S+)-title \1-desc"><title id="\1-title">Clean accu', part)
    assert "<desc" in part
    assert '<a href="#stopping-1">Late stopping</a>' in text


def test_the_long_table_marks_what_was_measured_on_the_way(run: StoredRun) -> None:
    columns = long_table([run])
    count = sum(len(task.measurements) for task in run.tasks)
    assert columns["epoch"] == [None] * count + [2] * 4 + [5] * 4
    keys = zip(columns["epoch"], columns["task"], columns["where_branch"], strict=True)
    assert [value for key, value in zip(keys, columns["value"], strict=True) if key == (5, "clean", "aux")] == [0.4]
    line = csv_text(columns).splitlines()[0].split(",")
    assert {"epoch", "unit"} <= set(line)


def test_many_lines_have_names_that_do_not_overlap(make: SimpleNamespace) -> None:
    runs = [
        make.with_snapshots(make.run("m", {"main": (0.5 + 0.002 * i, 1.0, 0.1)}, label=f"method {i}", flops=1 + i / 5),
                            {4: {"main": (0.4 + 0.001 * i, 1.0, 0.1)}})
        for i in range(25)
    ]  # fmt: skip
    plot = plots(runs)["clean_accuracy"]
    axes, figure = plot.figure.axes[0], plot.figure
    names = [text for text in axes.texts if text.get_text().startswith("method")]
    assert len(names) == 25
    boxes = sorted((text.get_window_extent() for text in names), key=lambda box: box.y0)
    assert all(b.y0 >= a.y0 + 0.9 * a.height for a, b in itertools.pairwise(boxes))
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 and box.x1 <= figure.bbox.x1 for box in boxes)
    samples = [line for line in axes.lines if not line.get_label()]
    keyed = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in samples}
    assert len(keyed) == 25  # told apart by more than colour
    found = {look.name: look for look in looks(board(runs).groups)}
    drawn = {name: line.get_color() for name, line in lines(plot).items()}
    assert drawn == {name: look.colour for name, look in found.items()}


def test_flops_axis_has_a_few_round_ticks(run: StoredRun, make: SimpleNamespace) -> None:
    dear = make.with_snapshots(make.run("pgd_at", FINAL, flops=900.0), WAY)
    for runs in ([run], [run, dear]):
        axis = plots(runs)["clean_accuracy"].figure.axes[0].xaxis
        ticks = [axis.get_major_formatter()(tick) for tick in axis.get_majorticklocs()]
        assert 2 <= len(ticks) <= 6
        assert all(re.fullmatch(r"[\d.]+ [GTP]", tick) for tick in ticks)
