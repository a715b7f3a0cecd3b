"""Tags on a page: those of all seeds of a row, and a word where they cannot be read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from robusteval.report.board.leaderboard import leaderboard
from robusteval.report.board.tagged import UNREADABLE, label
from robusteval.report.page.embedded import listed
from robusteval.report.page.sections import sections
from robusteval.tags import FILE, Label, write_label


def test_a_row_has_the_tags_of_all_its_seeds(make: SimpleNamespace, tmp_path: Path) -> None:
    stored = [
        make.run("mixup", {"main": (0.7, 1.0, 0.1)}, seed=seed, id=f"m{seed}", tasks=("clean",)) for seed in (0, 1)
    ]
    runs = [make.kept(tmp_path / run.run.id, run) for run in stored]
    write_label(runs[0].folder, Label(tags=("b", "a")))
    write_label(runs[1].folder, Label(tags=("c", "a"), note="n"))
    (section,) = sections(leaderboard(runs), {})
    labels = {id(run): label(run) for run in runs}
    assert listed(section, labels) == [["mixup", "mixup", "resnet20", 1, "unchecked", ["b", "a", "c"]]]
    assert label(runs[1]).note == "n"


def test_tags_that_cannot_be_read_say_so(make: SimpleNamespace, tmp_path: Path) -> None:
    run = make.kept(tmp_path / "run", make.run("mixup", {"main": (0.7, 1.0, 0.1)}, tasks=("clean",)))
    assert label(run) == Label()
    write_label(run.folder, Label(tags=("a",)))
    (run.folder / FILE).write_bytes(b"{}")
    assert label(run).tags == (UNREADABLE,)
