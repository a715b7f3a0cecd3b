"""Ranks and marks: tests decide, not intervals that overlap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from robusteval.report.board.leaderboard import leaderboard, ranks
from robusteval.report.board.pairs import Place, Samples
from robusteval.report.board.ranking import Ranking, ranking
from robusteval.report.board.rows import Board, board
from robusteval.store import StoredRun, find_runs

MEAN, ERROR, H, PGD = (
    "corruption_accuracy_generated",
    "corruption_error_generated",
    "h_score_generated",
    "PGD-20 Linf 8/255",
)
REPORTS = Path(__file__).parents[2] / "reports"


def made(runs: list[StoredRun]) -> tuple[Board, Ranking]:
    found = board(runs)
    return found, ranking(found.groups, found.columns, Samples())


def marks(found: Board, of: Ranking, key: str) -> dict[str, str]:
    pairs = ((one.head.stored.run.label, of.marks.get((id(one.head), key))) for one in found.groups)
    return {label: mark for label, mark in pairs if mark}


def test_a_row_has_a_rank_and_marks(ranked: list[StoredRun]) -> None:
    found, of = made(ranked)
    assert of.column == H
    places = {one.head.stored.run.label: of.place(one.head) for one in found.groups}
    assert places["entprop"] == Place(1, 1, 5)
    assert places["pgd_at"] == Place(5, 5, 5)
    assert places["mixup-a02"] is places["advprop-lr1"] is None
    assert marks(found, of, PGD) == {"pgd_at": "best"}
    clean = marks(found, of, "clean_accuracy")
    assert clean["entprop"] == "best"
    assert clean["standard"] == "tied"
    assert "pgd_at" not in clean
    assert marks(found, of, ERROR) == marks(found, of, MEAN)
    for key in ("clean_accuracy", MEAN, H, PGD):
        tied = {label for label, mark in marks(found, of, key).items() if mark == "tied"}
        first = {
            one.head.stored.run.label
            for one in found.groups
            if (place := of.places.get((id(one.head), key))) is not None and place.best == 1
        }
        assert tied < first
        assert len(first - tied) == 1


def test_overlapping_intervals_are_no_tie(tmp_path: Path, make: SimpleNamespace) -> None:
    """Two networks that differ on few images only, all in favour of one: their intervals overlap, and they differ."""
    runs = []
    for label, share in (("a", 0.70), ("c", 0.68)):
        # Outcomes are drawn by label: written under one, all that the second gets right the first gets right.
        stored = make.kept(tmp_path / label, make.run("a", {"main": (share, 0.5, 0.2)}, tasks=("clean",)))
        runs.append(replace(stored, run=stored.run.model_copy(update={"label": label})))
    found, of = made(runs)
    first, second = (one.head.scores["clean_accuracy"] for one in found.groups)
    assert first.low is not None
    assert second.high is not None
    assert first.low < second.high
    assert marks(found, of, "clean_accuracy") == {"a": "best"}
    assert [tuple(of.place(one.head) or ()) for one in found.groups] == [(1, 1, 2), (2, 2, 2)]


def test_equal_scores_are_both_best(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = [make.kept(tmp_path / label, make.run(label, {"main": (0.7, 0.5, 0.2)})) for label in "ab"]
    found, of = made(runs)
    assert marks(found, of, "clean_accuracy") == {"a": "best", "b": "best"}


def test_without_outcomes_the_best_is_marked_and_no_tie(runs: list[StoredRun]) -> None:
    found, of = made(runs)
    assert of.places == {}
    assert marks(found, of, "clean_accuracy") == {"entprop": "best"}
    assert of.column == H


def test_no_tie_with_a_best_row_that_nothing_was_tested_against(tmp_path: Path, make: SimpleNamespace) -> None:
    scores = {"best": 0.9, "a": 0.7, "b": 0.69}
    runs = [make.run(label, {"main": (share, 0.5, 0.2)}, tasks=("clean",)) for label, share in scores.items()]
    found, of = made([runs[0], *(make.kept(tmp_path / one.run.label, one) for one in runs[1:])])
    assert marks(found, of, "clean_accuracy") == {"best": "best"}
    assert sorted(tuple(place) for place in of.places.values()) == [(1, 2, 2), (1, 2, 2)]


def test_ranks_are_by_h_score_or_else_by_clean_accuracy(make: SimpleNamespace) -> None:
    for tasks, key in (
        (("clean", "corruption"), H),
        (("clean", "pgd"), "clean_accuracy"),
        (("pgd",), None),
        ((), None),
    ):
        found, of = made([make.run("a", {"main": (0.7, 0.5, 0.2)}, tasks=tasks)])
        assert of.column == key
        assert of.place(found.groups[0].head) is None


def test_data_sets_are_ranked_apart(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = [
        make.kept(tmp_path / f"{dataset}{label}", make.run(label, {"main": (0.7, 0.5, 0.2)}, dataset=dataset))
        for dataset in ("one", "two")
        for label in "abc"
    ]
    found = leaderboard(runs)
    assert [part.dataset for part in found.parts] == ["one", "two"]
    for part in found.parts:
        assert {part.ranking.places[id(one.head), "clean_accuracy"].of for one in part.groups} == {3}


def test_ranks_agree_with_the_order_of_committed_rows() -> None:
    (part,) = leaderboard(find_runs(REPORTS / "methods")).parts
    places = [part.ranking.place(one.head) for one in part.groups]
    assert all(place is not None and place.of == 22 for place in places)
    assert places[0] is not None
    assert places[0].best == 1
    for index, place in enumerate(places, 1):
        assert place is not None
        assert place.best <= index <= place.worst  # a rank leaves the place by the score open
    assert len({place.best for place in places if place}) > 5
    assert ranks(places[0]).startswith("1\N{EN DASH}")
