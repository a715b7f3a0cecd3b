"""Scores of single images as they are read from run folders, and which test each pair of rows gets."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robusteval.report.board.columns import Column
from robusteval.report.board.leaderboard import leaderboard
from robusteval.report.board.pairs import Sample, Samples, compared, places, singles
from robusteval.report.board.rows import Board, Group, board
from robusteval.stats import compare_outcomes, compare_scores, compare_seeds, harmonic, linear_h_scores, paired, ranks
from robusteval.store import StoredRun, load_run, read_arrays, write_arrays, write_record

CLEAN, MEAN, ERROR, H, PGD = (
    "clean_accuracy",
    "corruption_accuracy_generated",
    "corruption_error_generated",
    "h_score_generated",
    "PGD-20 Linf 8/255",
)


def column(found: Board, key: str) -> Column:
    return next(one for one in found.columns if one.key == key)


def group(found: Board, label: str) -> Group:
    return next(one for one in found.groups if one.head.stored.run.label == label)


def sample(found: Board, label: str, key: str, branch: str | None = None) -> Sample:
    one = Samples().of(singles(group(found, label), branch), column(found, key))
    assert one is not None
    return one


def right(stored: StoredRun, task: str, branch: str = "main") -> list[Any]:
    """The outcomes of a task on a branch, by numpy's own reader."""
    (record,) = (one for one in stored.tasks if one.task == task)
    with np.load(stored.folder / "tasks" / f"{record.key}.npz") as arrays:
        kept = [m for m in record.measurements if m.outcomes and m.where["branch"] == branch]
        return [arrays[m.outcomes] for m in kept]


def changed(stored: StoredRun, task: str, **changes: Any) -> StoredRun:
    """The run with another record of a task, read anew."""
    (record,) = (one for one in stored.tasks if one.task == task)
    write_record(stored.folder, f"tasks/{record.key}.json", record.model_copy(update=changes))
    return load_run(stored.folder)


@pytest.fixture
def two(tmp_path: Path, make: SimpleNamespace) -> list[StoredRun]:
    """Two runs on disk, one with another branch."""
    runs = [make.run("a", {"main": (0.7, 0.6, 0.2)}), make.run("b", {"main": (0.65, 0.8, 0.3), "aux": (0.5, 0.9, 0.4)})]
    return [make.kept(tmp_path / stored.run.label, stored) for stored in runs]


def test_samples_are_the_outcomes_on_disk(two: list[StoredRun]) -> None:
    found = board(two)
    for stored, branch in ((two[0], "main"), (two[1], "main"), (two[1], "aux")):
        label = stored.run.label
        (clean,), (pgd,) = right(stored, "clean", branch), right(stored, "pgd", branch)
        cells = right(stored, "corruption", branch)
        assert len(cells) == 75
        mean = np.mean(cells, axis=0)
        (row,) = singles(group(found, label), branch)
        for key, expected in ((CLEAN, clean), (PGD, pgd), (MEAN, mean), (ERROR, 1 - mean)):
            one = sample(found, label, key, branch)
            assert one.scores.dtype == expected.dtype
            np.testing.assert_allclose(one.scores[0], expected, atol=1e-15)
            assert one.scores.mean() == pytest.approx(row.value(key), abs=1e-12)
            assert one.images == ("2e" * 32, 1000)
        h = sample(found, label, H, branch)
        np.testing.assert_allclose(h.scores, linear_h_scores(clean[None], mean[None]), atol=1e-14)
        assert h.scores.mean() == pytest.approx(row.value(H), abs=1e-12)
        assert row.value(H) == pytest.approx(harmonic(clean.mean(), mean.mean()), abs=1e-12)


def test_seeds_are_stacked_in_order(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = [make.kept(tmp_path / str(s), make.run("a", {"main": (0.7 - 0.1 * s, 0.5, 0.2)}, seed=s)) for s in (0, 1, 2)]
    one = sample(board(runs), "a", CLEAN)
    assert one.scores.shape == (3, 1000)
    np.testing.assert_array_equal(one.scores, [right(stored, "clean")[0] for stored in runs])
    assert one.scores.mean(axis=1).tolist() == pytest.approx([0.7, 0.6, 0.5])


def test_a_seed_without_the_number_has_no_part_in_its_mean(tmp_path: Path, make: SimpleNamespace) -> None:
    tasks = [("clean", "pgd"), ("clean",)]
    runs = [
        make.kept(tmp_path / str(s), make.run("a", {"main": (0.7, 0.5, 0.2)}, seed=s, tasks=t))
        for s, t in enumerate(tasks)
    ]
    found = board(runs)
    assert (sample(found, "a", CLEAN).scores.shape, sample(found, "a", PGD).scores.shape) == ((2, 1000), (1, 1000))
    assert group(found, "a").head.scores[PGD].seeds == 1


def test_rows_are_compared_as_their_outcomes_are(two: list[StoredRun]) -> None:
    found = board(two)
    first, second = (group(found, label) for label in "ab")
    for key, task in ((CLEAN, "clean"), (PGD, "pgd")):
        (one,) = compared([first, second], column(found, key), Samples())
        expected = paired(right(two[0], task)[0], right(two[1], task)[0])
        assert (one.pairs.difference[0, 1], one.pairs.p[0, 1]) == (expected.difference, expected.p)
        assert (one.pairs.low[0, 1], one.pairs.high[0, 1]) == expected.interval
        head = [one.groups[i].head.value(key) or 0.0 for i in (0, 1)]
        assert one.pairs.difference[0, 1] == pytest.approx(head[0] - head[1])
    for key in (MEAN, H):
        (one,) = compared([first, second], column(found, key), Samples())
        expected_scores = compare_scores(np.concatenate([sample(found, label, key).scores for label in "ab"]))
        np.testing.assert_array_equal(one.pairs.p, expected_scores.p)
    (error,) = compared([first, second], column(found, ERROR), Samples())
    (mean,) = compared([first, second], column(found, MEAN), Samples())
    np.testing.assert_allclose(error.pairs.difference, -mean.pairs.difference, atol=1e-14)


def test_less_error_is_the_better_place(ranked: list[StoredRun]) -> None:
    found = board(ranked)
    by_error, by_mean = (places(found.groups, column(found, key), Samples()) for key in (ERROR, MEAN))
    assert by_error == by_mean
    assert len({place.best for place in by_error.values()}) > 1
    for key in (CLEAN, PGD):
        best = max((one for one in found.groups if one.head.value(key)), key=lambda one: one.head.value(key) or 0.0)
        assert places(found.groups, column(found, key), Samples())[id(best.head)].best == 1


def test_places_are_the_ranks_of_all_pairs(ranked: list[StoredRun]) -> None:
    singles_only = [stored for stored in ranked if stored.run.seed == 0]
    found = board(singles_only)
    got = places(found.groups, column(found, PGD), Samples())
    judged = [one for one in found.groups if PGD in one.head.scores]
    expected = ranks(compare_outcomes(np.array([right(one.head.stored, "pgd")[0] for one in judged])))
    assert [tuple(got[id(one.head)]) for one in judged] == [
        (best, worst, len(judged)) for best, worst in zip(expected.best, expected.worst, strict=True)
    ]
    assert len(judged) == 5


def test_single_runs_among_seeds_keep_the_exact_test(ranked: list[StoredRun]) -> None:
    found = board(ranked)
    (one,) = compared(found.groups, column(found, PGD), Samples())
    names = [member.head.stored.run.label for member in one.groups]
    i, j, seeds = names.index("pgd_at"), names.index("advprop"), names.index("entprop")
    outcomes = [sample(found, name, PGD).scores for name in names]
    assert [len(rows) for rows in outcomes].count(2) == 2
    assert one.pairs.p[i, j] == paired(outcomes[i][0], outcomes[j][0]).p
    expected = compare_seeds([outcomes[i], outcomes[seeds]])
    assert one.pairs.p[i, seeds] == pytest.approx(expected.p[0, 1], rel=1e-12)
    assert one.pairs.low[i, seeds] == pytest.approx(expected.low[0, 1], rel=1e-9)


def uncomparable(found: Sequence[StoredRun], key: str = CLEAN) -> list[str]:
    """The labels without a place, with the numbers of those that have one."""
    shown = board(found)
    got = places(shown.groups, column(shown, key), Samples())
    return [one.head.stored.run.label for one in shown.groups if id(one.head) not in got]


@pytest.fixture
def three(tmp_path: Path, make: SimpleNamespace) -> list[StoredRun]:
    """Three runs on disk."""
    return [make.kept(tmp_path / label, make.run(label, {"main": (0.7, 0.6, 0.2)})) for label in "abc"]


def test_without_outcomes_there_is_no_rank(three: list[StoredRun], make: SimpleNamespace) -> None:
    bare = make.run("bare", {"main": (0.9, 0.1, 0.5)})  # its records name no outcomes
    (clean,) = (task for task in three[2].tasks if task.task == "clean")
    unnamed = [m.model_copy(update={"outcomes": None}) for m in clean.measurements]
    third = changed(three[2], "clean", measurements=tuple(unnamed))
    assert uncomparable([*three[:2], third, bare]) == ["bare", "c"]
    (corruption,) = (task for task in three[2].tasks if task.task == "corruption")
    gap = [m.model_copy(update={"outcomes": None}) if i == 40 else m for i, m in enumerate(corruption.measurements)]
    for key in (MEAN, ERROR, H):
        holed = changed(three[2], "corruption", measurements=tuple(gap))
        assert "c" in uncomparable([*three[:2], holed], key)
    assert uncomparable(three[:1]) == ["a"]  # alone, it has none to be compared with


def test_damaged_outcomes_are_told_and_bear_no_rank(three: list[StoredRun]) -> None:
    (clean,) = (task for task in three[2].tasks if task.task == "clean")
    path = three[2].folder / "tasks" / f"{clean.key}.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert uncomparable(three) == ["c"]
    found = leaderboard(three)
    (part,) = found.parts
    notes = [note.text for note in part.notes if note.topic == "Damaged outcomes"]
    assert notes == [
        "c, seed 0: what clean found image by image is not what was written: no rank and no paired test comes of it."
    ]
    head = group(found.board, "c").head
    assert head.value(CLEAN) == 0.7
    assert (id(head), CLEAN) not in part.ranking.places
    assert (id(head), PGD) in part.ranking.places  # the other files are whole
    assert "Damaged outcomes" not in [note.topic for note in leaderboard(three[:2]).parts[0].notes]
    path.unlink()
    assert uncomparable(three) == ["c"]


def test_rows_on_other_images_are_ranked_apart(three: list[StoredRun], tmp_path: Path, make: SimpleNamespace) -> None:
    fewer = []
    for label in "de":
        run = make.run(label, {"main": (0.9, 0.6, 0.2)}, tasks=())
        few = make.measured("clean", "accuracy", 0.9, n=500, branch="main")
        fewer.append(make.kept(tmp_path / label, make.with_task(run, "clean", [few])))
    other = make.TEST.model_copy(update={"digest": "3f" * 32})
    elsewhere = [
        changed(make.kept(tmp_path / label, make.run(label, {"main": (0.9, 0.6, 0.2)})), "clean", test_data=other)
        for label in "fgh"
    ]
    shown = board([*three, *fewer, *elsewhere])
    got = places(shown.groups, column(shown, CLEAN), Samples())
    of = {one.head.stored.run.label: got[id(one.head)].of for one in shown.groups}
    assert of == {"a": 3, "b": 3, "c": 3, "d": 2, "e": 2, "f": 3, "g": 3, "h": 3}
    sets = {one.images: len(one.groups) for one in compared(shown.groups, column(shown, CLEAN), Samples())}
    assert sets == {("2e" * 32, 1000): 3, ("2e" * 32, 500): 2, ("3f" * 32, 1000): 3}
    # An H-score of parts that are not of one test set has no image that both are of.
    assert {"f", "g", "h"} <= set(uncomparable([*three, *elsewhere], H))


def test_seeds_on_different_images_are_no_sample(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = [make.kept(tmp_path / str(s), make.run("a", {"main": (0.7, 0.5, 0.2)}, seed=s)) for s in (0, 1)]
    runs[1] = changed(runs[1], "clean", test_data=make.TEST.model_copy(update={"digest": "3f" * 32}))
    found = board(runs)
    assert group(found, "a").head.kind == "mean"
    assert Samples().of(singles(group(found, "a")), column(found, CLEAN)) is None
    assert Samples().of(singles(group(found, "a")), column(found, PGD)) is not None


def test_a_doubtful_number_is_not_ranked(three: list[StoredRun]) -> None:
    (pgd,) = (task for task in three[2].tasks if task.task == "pgd")
    doubtful = tuple(m.model_copy(update={"trust": "flagged"}) for m in pgd.measurements)
    third = changed(three[2], "pgd", measurements=doubtful)
    assert uncomparable([*three[:2], third], PGD) == ["c"]
    assert uncomparable([*three[:2], third], CLEAN) == []


def test_runs_that_repeat_a_seed_are_ranked_each_for_itself(tmp_path: Path, make: SimpleNamespace) -> None:
    runs = [make.kept(tmp_path / name, make.run("a", {"main": (0.7, 0.5, 0.2)}, id=name)) for name in ("x", "y")]
    shown = board(runs)
    got = places(shown.groups, column(shown, CLEAN), Samples())
    assert sorted(tuple(place) for place in got.values()) == [(1, 2, 2), (1, 2, 2)]


def test_outcomes_of_another_number_of_images_are_not_taken(three: list[StoredRun]) -> None:
    (clean,) = (task for task in three[2].tasks if task.task == "clean")
    write_arrays(three[2].folder, f"tasks/{clean.key}.npz", {"0": np.ones(999, dtype=np.bool_)})
    assert uncomparable([*three[:2], load_run(three[2].folder)]) == ["c"]


def test_every_file_is_read_once(two: list[StoredRun], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = StoredRun.all_outcomes

    def counted(self: StoredRun, key: str) -> Any:
        read.append(f"{self.run.label} {key}")
        return real(self, key)

    monkeypatch.setattr(StoredRun, "all_outcomes", counted)
    leaderboard(two)
    assert sorted(read) == [f"{label} {task}-0a1b" for label in "ab" for task in ("clean", "corruption", "pgd")]


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    arrays: dict[str, np.ndarray[Any, Any]] = {str(i): rng.random(97) < 0.5 for i in range(75)}
    arrays |= {"f": rng.random((3, 4, 2)), "fortran": np.asfortranarray(rng.random((5, 7))), "none": np.zeros((0, 2))}
    arrays |= {"scalar": np.array(2.5), "a/b": np.arange(4, dtype=np.int16), "big": np.arange(3, dtype=">i4")}
    write_arrays(tmp_path, "a.npz", arrays)
    found = read_arrays(tmp_path, "a.npz")
    with np.load(tmp_path / "a.npz") as peer:
        assert list(found) == list(peer.files)
        for key, array in found.items():
            np.testing.assert_array_equal(array, peer[key])
            assert array.dtype == peer[key].dtype
            assert array.flags.f_contiguous == peer[key].flags.f_contiguous
            assert array.flags.writeable


def test_no_array_is_unpickled(tmp_path: Path) -> None:
    from robusteval.manifest import write_bytes

    packed, file = io.BytesIO(), io.BytesIO()
    np.save(packed, np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0.npy", packed.getvalue())
    write_bytes(tmp_path, "a.npz", file.getvalue())
    with pytest.raises(ValueError, match="Object arrays"):
        read_arrays(tmp_path, "a.npz")
