"""Robust accuracy by radius and the distances of adversarial examples: what the axes hold is what the records say."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex

from robusteval.records import Measurement, Reason
from robusteval.report.board.rows import board
from robusteval.report.figures.plots import Plot, paper
from robusteval.report.figures.radius import radius_plots
from robusteval.report.figures.scatter import FLAG
from robusteval.report.figures.style import drawing, png, svg
from robusteval.store import StoredRun
from robusteval.tasks.minimum_norm import QUANTILES, quantile

SCORES = {"main": (0.7, 1.0, 0.1)}
RADII = (0, 1, 2, 4, 8, 16)
CURVE = {"norm": "Linf", "steps": 20, "loss": "ce"}
FAB = {"norm": "Linf", "attack": "fab", "iterations": 40, "targets": 3}


def curve(
    make: SimpleNamespace, start: float, *, branch: str = "main", n: int = 1000, **changes: Any
) -> list[Measurement]:
    """Accuracy that halves with every radius."""
    where = CURVE | {"branch": branch, "attack_branch": branch} | changes
    places = [where | {"epsilon": f"{k}/255" if k else "0", "step": f"{k}/2040"} for k in RADII]
    return [
        make.measured("epsilon_curve", "robust_accuracy", start / 2**i, n=n, **place) for i, place in enumerate(places)
    ]


def distances(values: dict[float, float | None], *, branch: str = "main", **changes: Any) -> list[Measurement]:
    """Quantiles with intervals; without any where none was found."""
    where = FAB | {"branch": branch, "attack_branch": branch} | changes
    return [
        Measurement(
            task="minimum_norm",
            metric="distance_quantile",
            value=value,
            n=100,
            unit="number",
            low=None if value is None else 0.8 * value,
            high=None if value is None else 1.5 * value,
            where=where | {"quantile": share},
            note="" if value is not None else "none was found",
        )
        for share, value in values.items()
    ]


def made(runs: list[StoredRun]) -> list[Plot]:
    with drawing():
        return radius_plots(board(runs).groups)


def lines(plot: Plot) -> dict[str, np.ndarray[Any, Any]]:
    found = plot.figure.axes[0].lines
    return {str(one.get_label()): np.asarray(one.get_xydata()) for one in found if one.get_label()}


def test_curves_hold_the_records(make: SimpleNamespace) -> None:
    starts = {"standard": 0.7, "pgd_at": 0.5}
    runs = [
        make.with_task(make.run(name, SCORES), "epsilon_curve", curve(make, start)) for name, start in starts.items()
    ]
    (plot,) = made(runs)
    assert plot.name == "epsilon-curve-PGD-20 Linf"
    found = lines(plot)
    assert set(found) == set(starts)
    bands = [one for one in plot.figure.axes[0].collections if isinstance(one, PolyCollection)]
    assert len(bands) == 2
    for stored, (name, start), band in zip(runs, starts.items(), _by_label(plot, bands, starts), strict=True):
        measured = [m for task in stored.tasks if task.task == "epsilon_curve" for m in task.measurements]
        assert found[name][:, 0] == pytest.approx(RADII)
        assert found[name][:, 1] == pytest.approx([100 * start / 2**i for i in range(6)], abs=0.05)
        assert found[name][:, 1] == pytest.approx([100 * (m.value or 0.0) for m in measured])
        edges = {tuple(np.round(vertex, 6)) for vertex in band.get_paths()[0].vertices}
        for x, m in zip(RADII, measured, strict=True):
            assert m.low is not None
            assert m.high is not None
            assert {(x, round(100 * m.low, 6)), (x, round(100 * m.high, 6))} <= edges
    assert "radius 0 they are not attacked" in plot.caption
    # Who cannot see the figure reads its numbers.
    assert "standard: 70.0 at 0, 35.0 at 1, 17.5 at 2" in plot.description


def _by_label(plot: Plot, bands: list[PolyCollection], names: dict[str, float]) -> list[PolyCollection]:
    """The bands in the order of the names, told by their colours."""
    colours = {str(line.get_label()): line.get_color() for line in plot.figure.axes[0].lines}
    return [next(band for band in bands if to_hex(band.get_facecolor()[0]) == colours[name]) for name in names]


def test_only_the_deployed_branch_is_drawn(make: SimpleNamespace) -> None:
    run = make.run("advprop", {"main": (0.7, 1.0, 0.1), "aux": (0.6, 1.0, 0.1)})
    (plot,) = made([make.with_task(run, "epsilon_curve", [*curve(make, 0.7), *curve(make, 0.2, branch="aux")])])
    assert lines(plot)["advprop"][0, 1] == pytest.approx(70)
    assert len(lines(plot)) == 1


def test_other_attacks_have_figures_of_their_own(make: SimpleNamespace) -> None:
    run = make.run("standard", SCORES)
    run = make.with_task(run, "epsilon_curve", curve(make, 0.7), options={"travel": 2.5}, key="a")
    run = make.with_task(run, "epsilon_curve", curve(make, 0.6), options={"travel": 5.0}, key="b")
    run = make.with_task(run, "epsilon_curve", curve(make, 0.5, norm="L2"), key="c")
    found = {plot.figure.axes[0].get_xlabel(): plot for plot in made([run])}
    assert len(made([run])) == 3
    assert set(found) == {"Radius in 1/255 (Linf)", "Radius (L2)"}
    assert lines(found["Radius (L2)"])["standard"][:, 0] == pytest.approx([k / 255 for k in RADII])


def test_points_of_other_tasks_do_not_join(make: SimpleNamespace) -> None:
    run = make.with_task(make.run("standard", SCORES), "epsilon_curve", curve(make, 0.7))
    other = make.measured(
        "pgd", "robust_accuracy", 0.9, branch="main", attack_branch="main", **make.ATTACK | {"epsilon": "3/255"}
    )
    (plot,) = made([make.with_task(run, "pgd", [other], key="pgd-3")])
    assert list(lines(plot)["standard"][:, 0]) == list(RADII)


def test_the_newest_version_speaks_then_the_most_images(make: SimpleNamespace) -> None:
    run = make.run("standard", SCORES)
    for key, start, changes in (
        ("a", 0.1, {"version": 1, "n": 5000}),
        ("b", 0.2, {"version": 2, "n": 100}),
        ("c", 0.6, {"version": 2, "n": 1000}),
        ("d", 0.3, {"version": 2, "n": 500}),
    ):
        n = changes["n"]
        run = make.with_task(
            run, "epsilon_curve", curve(make, start, n=n), key=key, version=changes["version"], options={"limit": n}
        )
    stale = make.with_task(run, "epsilon_curve", curve(make, 0.9, n=9000), key="e", version=3, weights_sha256="cd" * 32)
    (plot,) = made([stale])
    assert lines(plot)["standard"][0, 1] == pytest.approx(60)


def test_means_over_seeds(make: SimpleNamespace) -> None:
    runs = [
        make.with_task(make.run("standard", SCORES, seed=seed), "epsilon_curve", curve(make, start))
        for seed, start in enumerate((0.6, 0.7, 0.8))
    ]
    (plot,) = made(runs)
    assert lines(plot)["standard"][0, 1] == pytest.approx(70)
    (band,) = (one for one in plot.figure.axes[0].collections if isinstance(one, PolyCollection))
    ys = [y for x, y in band.get_paths()[0].vertices if x == 0]
    assert (min(ys), max(ys)) == pytest.approx((60, 80))  # the standard deviation of 60, 70 and 80 is 10


def test_survival_is_one_minus_the_quantile(make: SimpleNamespace) -> None:
    values = {0.1: 0.0, 0.25: 0.0, 0.5: 2 / 255, 0.75: 5 / 255, 0.9: None}
    run = make.with_task(make.run("standard", SCORES), "minimum_norm", distances(values))
    (plot,) = made([run])
    # Of the two quantiles at distance 0 the last says how many images are further away; the unknown one is not drawn.
    assert lines(plot)["standard"] == pytest.approx(np.array([[0, 75], [2, 50], [5, 25]]))
    (bars,) = (one for one in plot.figure.axes[0].collections if isinstance(one, LineCollection))
    segments = sorted(np.asarray(segment).round(6).tolist() for segment in bars.get_segments())
    assert segments == [[[1.6, 50.0], [3.0, 50.0]], [[4.0, 25.0], [7.5, 25.0]]]
    assert "An upper bound of robust accuracy" in plot.caption
    assert "standard: 75.0 at 0, 50.0 at 2, 25.0 at 5." in plot.description


def test_survival_agrees_with_the_task_that_measured_it(make: SimpleNamespace) -> None:
    """A share 1 - q of images is further away than the q-quantile: recomputed from distances."""
    drawn = np.sort(np.random.default_rng(0).exponential(0.02, 400).astype(np.float64))
    drawn[:130] = 0.0
    values = {share: quantile(drawn, share)[0] for share in QUANTILES}
    (plot,) = made([make.with_task(make.run("standard", SCORES), "minimum_norm", distances(values))])
    for x, y in lines(plot)["standard"]:
        assert abs(100 * (drawn > x / 255 + 1e-12).mean() - y) <= (1 if x else 8)
        assert 100 * (drawn > x / 255 + 1e-12).mean() <= y + 1e-9


def test_doubtful_numbers_carry_the_flag(make: SimpleNamespace) -> None:
    doubt = Reason(name="x", evidence="y", text="z")
    points = curve(make, 0.7)
    points[2] = points[2].model_copy(update={"trust": "flagged", "reasons": (doubt,)})
    (plot,) = made([make.with_task(make.run("standard", SCORES), "epsilon_curve", points)])
    assert f"standard {FLAG}" in {text.get_text() for text in plot.figure.axes[0].texts}
    assert FLAG in plot.caption


def test_many_lines_are_told_apart_or_grey(make: SimpleNamespace) -> None:
    runs = [make.with_task(make.run(f"m{i}", SCORES), "epsilon_curve", curve(make, 0.9 - i / 100)) for i in range(40)]
    (plot,) = made(runs)
    assert len(lines(plot)) == 32
    assert "Grey: the rows after the first 32." in plot.caption
    (others,) = (one for one in plot.figure.axes[0].collections if isinstance(one, LineCollection))
    assert len(others.get_segments()) == 8
    assert not any(isinstance(one, PolyCollection) for one in plot.figure.axes[0].collections)
    assert "Bands" not in plot.caption
    drawn = [line for line in plot.figure.axes[0].lines if line.get_label()]
    assert len({(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in drawn}) == 32
    # The key lists them from the most to the least robust.
    names = sorted(plot.figure.axes[0].texts, key=lambda text: -text.get_position()[1])
    means = [lines(plot)[text.get_text()][:, 1].mean() for text in names]
    assert means == sorted(means, reverse=True)


def test_hostile_entries_are_text_or_nothing(make: SimpleNamespace) -> None:
    runs = []
    for i, name in enumerate(make.HOSTILE):
        odd = [m.model_copy(update={"where": m.where | {"norm": name, "loss": name}}) for m in curve(make, 0.5)]
        odd += [
            odd[0].model_copy(update={"where": odd[0].where | {"epsilon": one}}) for one in (name, "nan", "inf", "1/0")
        ]
        far = [m.model_copy(update={"where": m.where | {"attack": name, "norm": name}}) for m in distances({0.5: 0.1})]
        run = make.run(name, SCORES, id=str(i))
        runs.append(make.with_task(make.with_task(run, "epsilon_curve", odd), "minimum_norm", far))
    found = made(runs)
    assert len(found) == 2 * len(make.HOSTILE)
    for plot in found[:4]:
        assert "<script" not in svg(plot.figure)
        assert png(plot.figure).startswith(b"\x89PNG")
    for plot in found:
        for points in lines(plot).values():
            assert np.isfinite(points).all()
            assert len(points) in (1, len(RADII))


def test_same_records_same_bytes(make: SimpleNamespace) -> None:
    run = make.with_task(make.run("standard", SCORES), "epsilon_curve", curve(make, 0.7))
    run = make.with_task(run, "minimum_norm", distances({0.5: 0.01, 0.75: 0.02}))
    first, second = made([run]), made([run])
    assert [svg(plot.figure) for plot in first] == [svg(plot.figure) for plot in second]
    assert [paper(plot) for plot in first] == [paper(plot) for plot in second]
    assert not any(re.search(r"20\d\d-\d\d-\d\d", svg(plot.figure)) for plot in first)
