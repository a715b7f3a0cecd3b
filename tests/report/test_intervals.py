"""The intervals of H-scores and of means over seeds, from outcomes on disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from robusteval.report.board.intervals import with_intervals
from robusteval.report.board.pairs import Samples
from robusteval.report.board.rows import Row, board
from robusteval.stats import h_interval, h_score, seeds_and_images
from robusteval.store import StoredRun, find_runs

MEAN, H, PGD = "corruption_accuracy_generated", "h_score_generated", "PGD-20 Linf 8/255"
REPORTS = Path(__file__).parents[2] / "reports"


def rows(runs: list[StoredRun]) -> list[tuple[Row, Row]]:
    """Each row before and after."""
    found = board(runs)
    return list(zip(found.rows, with_intervals(found, Samples()).rows, strict=True))


def arrays(stored: StoredRun, task: str, branch: str) -> list[np.ndarray]:
    (record,) = (one for one in stored.tasks if one.task == task)
    with np.load(stored.folder / "tasks" / f"{record.key}.npz") as kept:
        return [kept[m.outcomes] for m in record.measurements if m.outcomes and m.where["branch"] == branch]


def test_h_scores_have_the_paired_interval_and_nothing_else_of_a_run_changes(ranked: list[StoredRun]) -> None:
    seen = 0
    for before, after in rows(ranked):
        assert before.scores.keys() == after.scores.keys()
        for key, score in after.scores.items():
            old = before.scores[key]
            assert (score.value, score.n, score.sd, score.trust) == (old.value, old.n, old.sd, old.trust)
            if after.kind == "run" and key != H:
                assert score == old
        if after.kind == "run" and H in after.scores:
            (clean,) = arrays(after.stored, "clean", after.branch)
            expected = h_interval(clean, np.mean(arrays(after.stored, "corruption", after.branch), axis=0))
            score = after.scores[H]
            assert (score.low, score.high) == pytest.approx(expected, abs=1e-9)
            old = before.scores[H]
            assert (score.low, score.high) != (old.low, old.high)
            seen += 1
    assert seen >= 9


def test_means_over_seeds_have_an_interval_for_seeds_and_images(ranked: list[StoredRun]) -> None:
    heads = [(before, after) for before, after in rows(ranked) if after.kind == "mean" and after.deployed]
    assert {after.stored.run.label for _, after in heads} == {"mixup", "entprop"}
    for before, after in heads:
        assert (before.scores["clean_accuracy"].low, before.scores[H].low) == (None, None)
        members = [stored for stored in ranked if stored.run.label == after.stored.run.label]
        for key, task in (("clean_accuracy", "clean"), (MEAN, "corruption")):
            scores = [np.mean(arrays(one, task, "main"), axis=0) for one in members]
            score = after.scores[key]
            assert score.sd == pytest.approx(np.std([one.mean() for one in scores], ddof=1))
            expected = seeds_and_images(scores).interval
            assert (score.low, score.high) == pytest.approx(expected, abs=1e-9)
        score = after.scores[H]
        assert score.low is not None
        assert score.high is not None
        assert score.low < (score.value or 0) < score.high


def test_without_outcomes_the_wider_interval_stays(runs: list[StoredRun], seeds: list[StoredRun]) -> None:
    for some in (runs, seeds):
        assert all(before.scores == after.scores for before, after in rows(some))


def test_h_scores_on_fewer_corrupted_than_clean_images(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = []
    for seed in (0, 1):
        run = make.run("a", {"main": (0.7, 0.6, 0.2)}, seed=seed, tasks=("corruption",))
        more = make.measured("clean", "accuracy", 0.8, n=3000, branch="main")
        runs.append(make.kept(tmp_path / str(seed), make.with_task(run, "clean", [more])))
    found = [after for _, after in rows(runs)]
    for row in found:
        if row.kind == "run":
            (clean,) = arrays(row.stored, "clean", "main")
            expected = h_interval(clean, np.mean(arrays(row.stored, "corruption", "main"), axis=0))
            assert (row.scores[H].low, row.scores[H].high) == pytest.approx(expected, abs=1e-9)
        else:
            assert row.scores[H].low is None  # images that only one part has are in no mean square
            assert row.scores[MEAN].low is not None


@pytest.mark.parametrize("name", ["quick", "methods"])
def test_both_intervals_of_committed_h_scores_agree(name: str) -> None:
    """On the images that both parts have, the delta method and the bootstrap are 0.2 points apart at most."""
    found = board(find_runs(REPORTS / name))
    samples = Samples()
    (column,) = (one for one in found.columns if one.kind == "h_score")
    for row in found.rows[:12]:
        parts = samples.parts(row, column)
        assert parts is not None
        clean, shifted, (_, n) = parts
        boot, linear = h_score(clean[:n], shifted, replicates=4000).interval, h_interval(clean[:n], shifted)
        assert linear == pytest.approx(boot, abs=0.002)
        whole = h_interval(clean, shifted)
        assert whole is not None
        assert linear is not None
        assert whole.high - whole.low < linear.high - linear.low  # more clean images say more
