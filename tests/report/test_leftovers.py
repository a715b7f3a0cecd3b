"""Figures of an earlier report go, whatever else lies beside them stays."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from robusteval.errors import UserError
from robusteval.report import write_report
from robusteval.report.files.leftovers import RECORD, renew


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_the_last_report_wrote_is_removed(tmp_path: Path) -> None:
    renew(tmp_path, {"a.svg": b"1", "b.svg": b"2"})
    renew(tmp_path, {"b.svg": b"3"})
    assert names(tmp_path) == {"b.svg", RECORD}
    assert (tmp_path / "b.svg").read_bytes() == b"3"
    renew(tmp_path, {})
    assert names(tmp_path) == {RECORD}


def test_foreign_files_stay(tmp_path: Path) -> None:
    renew(tmp_path, {"a.svg": b"1", "b.svg": b"2"})
    (tmp_path / "mine.svg").write_bytes(b"1")
    (tmp_path / "a.svg").write_bytes(b"mine, under a name of the report's")
    renew(tmp_path, {})
    assert names(tmp_path) == {"a.svg", "mine.svg", RECORD}


def test_a_record_reaches_nothing_outside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    renew(folder, {"a.svg": b"1"})
    (tmp_path / "out.svg").write_bytes(b"1")
    (digest,) = json.loads((folder / RECORD).read_text())["a.svg"]
    target = tmp_path / "target.svg"
    target.write_bytes(b"1")
    (folder / "link.svg").symlink_to(target)
    every = ("../out.svg", str(tmp_path / "out.svg"), "a.svg/../../out.svg", "link.svg", RECORD)
    (folder / RECORD).write_text(json.dumps({name: [digest] for name in every}))
    renew(folder, {})
    assert (tmp_path / "out.svg").exists()
    assert target.exists()
    assert (folder / "link.svg").is_symlink()


@pytest.mark.parametrize("record", ["", "[]", "{", '{"a.svg": "x"}', '{"a.svg": [1]}', "\x00"])
def test_a_record_that_is_none_removes_nothing(tmp_path: Path, record: str) -> None:
    (tmp_path / "a.svg").write_bytes(b"1")
    (tmp_path / RECORD).write_text(record)
    renew(tmp_path, {"b.svg": b"2"})
    assert names(tmp_path) == {"a.svg", "b.svg", RECORD}


def test_a_report_cut_short_leaves_nothing_that_the_next_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew(tmp_path, {"a.svg": b"1"})
    from robusteval.report.files import leftovers

    whole, left = leftovers.replace, iter([True, True])

    def stops(path: Path, data: bytes) -> None:
        if next(left, None) is None:
            raise UserError("the disk is full")
        whole(path, data)

    monkeypatch.setattr(leftovers, "replace", stops)
    with pytest.raises(UserError, match="full"):
        renew(tmp_path, {"b.svg": b"2", "c.svg": b"3"})
    monkeypatch.undo()
    assert names(tmp_path) == {"a.svg", "b.svg", RECORD}
    renew(tmp_path, {"d.svg": b"4"})
    assert names(tmp_path) == {"d.svg", RECORD}


def test_figures_that_a_report_no_longer_has_go(make: SimpleNamespace, tmp_path: Path) -> None:
    runs = [make.run(name, {"main": (0.5, 1.0, 0.1)}) for name in ("a", "b")]
    write_report(tmp_path, runs)
    before = names(tmp_path / "plots")
    (tmp_path / "plots" / "notes.txt").write_text("mine")
    write_report(tmp_path, [make.run(name, {"main": (0.5, 1.0, 0.1)}, tasks=("clean",)) for name in ("a", "b")])
    after = names(tmp_path / "plots")
    assert "heat-corruption-accuracy-generated.svg" in before - after
    assert after - before == {"notes.txt"}
