"""Scores, their columns, means over seeds, order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from robusteval.records import Measurement, Reason
from robusteval.report.board.columns import names
from robusteval.report.board.notes import notes
from robusteval.report.board.rows import Board, Group, board, failures
from robusteval.stats import wilson
from robusteval.store import StoredRun

MEAN, ERROR, H, PGD = (
    "corruption_accuracy_generated",
    "corruption_error_generated",
    "h_score_generated",
    "PGD-20 Linf 8/255",
)


def group(found: Board, label: str) -> Group:
    return next(group for group in found.groups if group.head.stored.run.label == label)


def cells(stored: StoredRun, branch: str) -> list[float]:
    return [
        m.value
        for task in stored.tasks
        for m in task.measurements
        if m.metric == "accuracy" and "corruption" in m.where and m.where["branch"] == branch and m.value is not None
    ]


def test_columns_in_order(runs: list[StoredRun]) -> None:
    assert [column.key for column in board(runs).columns] == ["clean_accuracy", MEAN, ERROR, H, PGD]


def test_scores_of_each_branch_are_those_of_the_records(runs: list[StoredRun]) -> None:
    found = group(board(runs), "advprop")
    assert [(row.branch, row.deployed) for row in found.rows] == [("main", True), ("aux", False)]
    for row in found.rows:
        clean = {"main": 0.688, "aux": 0.622}[row.branch]
        corrupted = float(np.mean(cells(row.stored, row.branch)))
        assert row.value("clean_accuracy") == clean
        assert row.value(MEAN) == pytest.approx(corrupted, abs=1e-12)
        assert row.value(ERROR) == pytest.approx(1 - corrupted, abs=1e-12)
        assert row.value(H) == pytest.approx(2 * clean * corrupted / (clean + corrupted), abs=1e-12)
        assert row.value(PGD) == {"main": 0.013, "aux": 0.118}[row.branch]


def test_intervals_of_derived_scores(runs: list[StoredRun]) -> None:
    scores = group(board(runs), "standard").head.scores
    mean, error, h, clean = (scores[key] for key in (MEAN, ERROR, H, "clean_accuracy"))
    assert mean.low is not None
    assert mean.high is not None
    assert clean.low is not None
    assert (error.low, error.high) == (1 - mean.high, 1 - mean.low)
    assert h.low == pytest.approx(2 * clean.low * mean.low / (clean.low + mean.low))


def test_h_score_interval_covers_for_any_correlation() -> None:
    """Ends from both lower and both upper ends: coverage of at least 95 % with independent and with equal images."""
    rng = np.random.default_rng(0)
    n, p, q, trials = 1000, 0.7, 0.45, 2000
    truth = 2 * p * q / (p + q)
    for shared in (False, True):
        covered = 0
        for _ in range(trials):
            first = rng.random(n)
            second = first if shared else rng.random(n)
            a, b = wilson(int((first < p).sum()), n), wilson(int((second < q).sum()), n)
            low, high = (2 * x * y / (x + y) for x, y in zip(a, b, strict=True))
            covered += low <= truth <= high
        assert covered / trials > 0.94  # three standard errors below 95 %


def test_official_and_generated_never_share_a_column(make: SimpleNamespace) -> None:
    def mean(source: str, corruptions: int = 15) -> Measurement:
        return make.measured(
            "corruption", "mean_accuracy", 0.5, branch="main", source=source, corruptions=corruptions, severities=5
        )

    found = names([mean("generated"), mean("official"), mean("generated", 3)])
    assert sorted(found.values()) == [MEAN, f"{MEAN}_3x5", "corruption_accuracy_official"]


def test_attacks_that_differ_anywhere_never_share_a_column(make: SimpleNamespace) -> None:
    attacks = [make.ATTACK, make.ATTACK | {"step": "1/255"}, make.ATTACK | {"restarts": 5}]
    found = names([make.measured("pgd", "robust_accuracy", 0.1, branch="main", **where) for where in attacks])
    assert sorted(found.values()) == [f"{PGD} (step=1/255)", f"{PGD} (step=2/255)", f"{PGD} 5 restarts"]


def test_an_attack_through_another_branch_is_no_robust_accuracy(make: SimpleNamespace) -> None:
    run = make.run("advprop", {"main": (0.7, 1.0, 0.1), "aux": (0.6, 1.0, 0.2)})
    transfer = make.measured("pgd", "robust_accuracy", 0.55, branch="main", **make.ATTACK, attack_branch="aux")
    last = run.tasks[-1]
    tasks = (*run.tasks[:-1], last.model_copy(update={"measurements": (transfer, *last.measurements)}))
    found = board([StoredRun(run.folder, run.run, run.history, tasks)])
    assert [row.value(PGD) for row in found.rows] == [0.1, 0.2]


def test_of_two_records_the_one_on_more_images_speaks(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.0)}, tasks=())
    few = make.TEST.model_copy(update={"n": 100})
    small = make.tasks({"main": (0.9, 1.0, 0.0)}, ["clean"], few)[0]
    small = small.model_copy(update={"measurements": (make.measured("clean", "accuracy", 0.9, n=100, branch="main"),)})
    large = make.tasks({"main": (0.7, 1.0, 0.0)}, ["clean"])[0].model_copy(update={"key": "clean-zz"})
    for tasks in ((small, large), (large, small)):
        score = board([StoredRun(run.folder, run.run, run.history, tasks)]).rows[0].scores["clean_accuracy"]
        assert (score.value, score.n, score.task_key) == (0.7, 1000, "clean-zz")


def test_records_of_other_weights_do_not_count(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.1)}, tasks=("clean", "pgd"))
    stale = run.tasks[0].model_copy(update={"weights_sha256": "cd" * 32})
    (row,) = board([StoredRun(run.folder, run.run, run.history, (stale, run.tasks[1]))]).rows
    assert set(row.scores) == {PGD}


def test_missing_is_missing(runs: list[StoredRun]) -> None:
    found = board(runs)
    assert set(group(found, "mixup-a02").head.scores) == {"clean_accuracy"}
    assert group(found, "advprop-lr1").head.scores == {}
    assert group(found, "advprop-lr1").head.value(PGD) is None


def test_a_value_that_could_not_be_had_keeps_its_note(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.0)}, tasks=())
    gone = Measurement(task="clean", metric="accuracy", value=None, n=0, where={"branch": "main"}, note="no images")
    task = make.tasks({"main": (0.7, 1.0, 0.0)}, ["clean"])[0].model_copy(update={"measurements": (gone,)})
    score = board([StoredRun(run.folder, run.run, run.history, (task,))]).rows[0].scores["clean_accuracy"]
    assert (score.value, score.note) == (None, "no images")


def test_order_is_by_h_score_then_clean_accuracy_and_failures_last(runs: list[StoredRun]) -> None:
    labels = [group.head.stored.run.label for group in board(runs[::-1]).groups]
    assert labels == ["entprop", "mixup", "advprop", "standard", "pgd_at", "mixup-a02", "advprop-lr1"]


def test_a_failed_run_comes_last_whatever_it_scored(make: SimpleNamespace) -> None:
    good = make.run("a", {"main": (0.9, 0.1, 0.5)}, status="failed", error="evaluation stopped")
    found = board([good, make.run("b", {"main": (0.5, 1.0, 0.0)})])
    assert [group.head.stored.run.label for group in found.groups] == ["b", "a"]


def test_means_over_seeds(seeds: list[StoredRun]) -> None:
    found = group(board(seeds), "entprop")
    assert [(row.kind, row.branch, row.seeds) for row in found.rows[:3]] == [
        ("mean", "main", (0, 1, 2)),
        ("mean", "aux", (0, 1, 2)),
        ("run", "main", (0,)),
    ]
    assert len(found.rows) == 2 + 3 * 2
    for key in ("clean_accuracy", MEAN, H, PGD):
        values = [row.value(key) for row in found.rows if row.kind == "run" and row.deployed]
        score = found.head.scores[key]
        assert score.value == pytest.approx(np.mean(values))
        assert score.sd == pytest.approx(np.std(values, ddof=1))
        assert (score.seeds, score.low, score.high) == (3, None, None)


def test_the_mean_is_over_the_seeds_that_have_a_value(make: SimpleNamespace) -> None:
    tasks = [("clean", "pgd"), ("clean",), ("clean", "pgd")]
    runs = [make.run("standard", {"main": (0.7, 1.0, 0.1 * i)}, seed=i, tasks=t) for i, t in enumerate(tasks)]
    head = board(runs).groups[0].head
    assert head.scores[PGD].value == pytest.approx(0.1)
    assert (head.scores[PGD].seeds, head.scores["clean_accuracy"].seeds) == (2, 3)


@pytest.mark.parametrize("change", [{"options": {"alpha": 0.2}}, {"training": {"epochs": 3}}, {"architecture": "wrn"}])
def test_no_mean_over_different_configurations(make: SimpleNamespace, change: dict[str, object]) -> None:
    scores = {"main": (0.7, 1.0, 0.1)}
    runs = [make.run("standard", scores, seed=0), make.run("standard", scores, seed=1, **change)]
    assert [row.kind for row in board(runs).rows] == ["run", "run"]


def test_no_mean_over_a_repeated_seed(make: SimpleNamespace) -> None:
    scores = {"main": (0.7, 1.0, 0.1)}
    runs = [make.run("standard", scores, id="a"), make.run("standard", scores, id="b")]
    assert [[row.kind for row in found.rows] for found in board(runs).groups] == [["run"], ["run"]]


FLAT = Reason(name="loss is flat", evidence="0 of 20 rose", text="Nothing was attacked.")


@pytest.mark.parametrize(
    ("verdicts", "expected"), [(("ok", "ok"), "ok"), (("ok", "unchecked"), "unchecked"), (("ok", "flagged"), "flagged")]
)
def test_trust_of_a_row_is_that_of_its_attacks(make: SimpleNamespace, verdicts: tuple[str, str], expected: str) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.1)}, tasks=("clean", "pgd"))
    other = make.measured("pgd", "robust_accuracy", 0.2, branch="main", **make.ATTACK | {"norm": "L2"})
    measurements = [
        m.model_copy(update={"trust": trust, "reasons": (FLAT,) if trust == "flagged" else ()})
        for m, trust in zip((run.tasks[1].measurements[0], other), verdicts, strict=True)
    ]
    task = run.tasks[1].model_copy(update={"measurements": tuple(measurements)})
    stored = StoredRun(run.folder, run.run, run.history, (run.tasks[0], task))
    assert board([stored]).rows[0].trust == expected
    topics = [note.topic for note in notes([stored])]
    assert ("Doubtful numbers" in topics) == (expected == "flagged")


def test_failures_say_why(runs: list[StoredRun], make: SimpleNamespace) -> None:
    running = make.run("standard", {"main": (0.7, 1.0, 0.1)}, status="running", id="half")
    assert [(stored.run.label, reason) for stored, reason in failures([*runs, running])] == [
        ("advprop-lr1", "train: loss is not finite (nan) at step 118 of epoch 3"),
        ("standard", "not finished: still running, or interrupted"),
    ]


def test_notes(runs: list[StoredRun], make: SimpleNamespace) -> None:
    assert [note.topic for note in notes(runs)] == ["Generated corruptions"]
    assert "cifar10-c-gen, not the published CIFAR-10-C" in notes(runs)[0].text
    fewer = make.TEST.model_copy(update={"n": 200, "verified": False})
    other = make.run("mixup", {"main": (0.7, 1.0, 0.1)}, id="other", tasks=())
    cost = other.run.cost.model_copy(update={"threads": 8})
    (task,) = make.tasks({"main": (0.7, 1.0, 0.1)}, ["clean"], fewer)
    task = task.model_copy(update={"measurements": (make.measured("clean", "accuracy", 0.7, n=200, branch="main"),)})
    other = StoredRun(other.folder, other.run.model_copy(update={"cost": cost}), (), (task,))
    found = {note.topic: note.text for note in notes([*runs, other])}
    assert set(found) == {"Generated corruptions", "Unverified data", "Different images", "Different machines"}
    assert "n = 200, 1000" in found["Different images"]
    assert "numbers of threads" in found["Different machines"]
