"""Tags and notes: kept beside the record, shown everywhere, no part of what a run is."""

import csv
import hashlib
import json
import shutil

import pytest

from robusteval import store
from robusteval.errors import UserError
from robusteval.store import Damaged, find_runs
from robusteval.tags import FILE, Label, changed, read_label, write_label

EVIL = "a\x1b[31m[red]\u202e<b>"


@pytest.fixture
def out(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def folder(out, method):
    (found,) = out.glob(f"runs/*-{method}-*")
    return found


def test_tags_are_added_once_removed_and_listed(cli, out):
    name = folder(out, "standard").name
    code, shown, err = cli("tag", name, "--add", "b", "--add", "a", "--add", "b", "--note", "why", "--out", out)
    assert (code, err) == (0, "")
    assert shown.splitlines()[1].split() == [name, "b,", "a", "why"]
    cli("tag", name[:-4], "--add", "a", "--add", "c", "--remove", "b", "--out", out)
    assert read_label(folder(out, "standard")) == Label(tags=("a", "c"), note="why")
    assert read_label(folder(out, "entprop")) == Label()
    rows = json.loads(cli("ls", "runs", "--out", out, "--json").out)
    assert [(row["method"], row["tags"], row["note"]) for row in rows] == [
        ("entprop", [], ""),
        ("standard", ["a", "c"], "why"),
    ]
    assert [row["run"] for row in json.loads(cli("ls", "runs", "--tag", "c", "--out", out, "--json").out)] == [name]
    assert "tags:        a, c\nnote:        why\n" in cli("show", name, "--out", out).out
    assert json.loads(cli("show", name, "--out", out, "--json").out)["tags"] == ["a", "c"]


def test_a_tag_changes_neither_the_record_nor_the_plan(cli, finished, out):
    """The same command finds every cell done, and each other file has the bytes that it had."""
    before = {
        path: path.read_bytes() for path in out.glob("runs/*/*") if path.is_file() and path.name != "manifest.json"
    }
    names = [path.name for path in out.glob("runs/*")]
    assert cli("tag", *names, "--add", "kept", "--note", "n", "--out", out).code == 0
    for path, content in before.items():
        assert path.read_bytes() == content
    code, _, err = cli("run", finished.parent / "two.toml", "--out", out, "--limit", "64")
    assert (code, err) == (0, "2 of 2 cells are done already\n")
    assert all(read_label(run.folder).tags == ("kept",) for run in find_runs(out))


def test_no_name_is_the_beginning_of_no_id(cli, out):
    shutil.rmtree(folder(out, "entprop"))  # else there would be two that begin so
    for command in (("tag", "", "--add", "x"), ("show", "")):
        code, shown, err = cli(*command, "--out", out)
        assert (code, shown) == (2, "")
        assert f"{command[0]} (runs in {out}): unknown run" in err
    assert read_label(folder(out, "standard")) == Label()


def test_tags_live_through_work_on_the_run(cli, finished, out, tmp_path):
    cli("tag", folder(out, "standard").name, "--add", "kept", "--out", out)
    longer = tmp_path / "longer.toml"
    two = (finished.parent / "two.toml").read_text()
    longer.write_text(two.replace('"clean" }', '"clean" }, { name = "calibration" }'))
    err = cli("run", longer, "--only", "standard", "--out", out, "--limit", "64").err
    assert "done after" in err
    assert read_label(folder(out, "standard")).tags == ("kept",)


def test_the_file_is_whole_digested_and_gone_when_empty(cli, out):
    run = folder(out, "standard")
    cli("tag", run.name, "--add", "x", "--out", out)
    listed = json.loads((run / "manifest.json").read_text())["files"]
    assert listed[FILE] == [hashlib.sha256((run / FILE).read_bytes()).hexdigest()]
    (run / FILE).write_bytes((run / FILE).read_bytes().replace(b"x", b"y"))
    with pytest.raises(Damaged, match=FILE):
        read_label(run)
    code, shown, err = cli("ls", "runs", "--out", out)
    assert code == 1
    assert run.name not in shown
    assert f"skipped: {run / FILE}: damaged" in err
    (other,) = out.glob("runs/*-entprop-*")
    write_label(other, Label(tags=("x",)))
    code, shown, err = cli("report", "--tag", "x", "--out", out, "--json")
    assert (code, json.loads(shown)["runs"]) == (1, [other.name])
    assert f"skipped: {run / FILE}: damaged" in err
    write_label(run, Label())
    assert not (run / FILE).exists()
    assert FILE not in store.names(run)


def test_hostile_texts_are_kept_and_shown_cleaned(cli, out):
    name = folder(out, "standard").name
    shown = cli("tag", name, "--add", EVIL, "--note", EVIL + "\nline two", "--out", out).out
    shown += cli("ls", "runs", "--out", out).out + cli("show", name, "--out", out).out
    error = (
        cli("report", "--tag", "nothing", "--out", out).err + cli("tag", name, "--remove", EVIL + "?", "--out", out).err
    )
    for text in (shown, error):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "a\ufffd[31m[red]\ufffd<b>" in text
    assert read_label(folder(out, "standard")).tags == (EVIL,)
    assert [row["tags"] for row in json.loads(cli("ls", "runs", "--tag", EVIL, "--out", out, "--json").out)] == [[EVIL]]


def test_a_report_of_a_tag_holds_its_runs_only(cli, out):
    cli("tag", folder(out, "entprop").name, "--add", "mine", "--out", out)
    code, shown, _ = cli("report", "--tag", "mine", "--out", out, "--json")
    assert code == 0
    assert json.loads(shown)["runs"] == [folder(out, "entprop").name]
    with (out / "leaderboard.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"entprop"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "tag: names no run; allowed: ids of runs"),
        (("nope", "--add", "x"), "tag (runs in {out}): unknown run 'nope'; allowed: cifar10-"),
        (("cifar10", "--add", "x"), "tag (runs in {out}): several runs begin so: "),
        (("{run}", "--add", "x", "--remove", "x"), "tag: --add and --remove both name 'x'; allowed: one of them"),
        (("{run}", "--remove", "bets"), "--remove: unknown tag 'bets'; did you mean 'best'?; allowed: best"),
        (("{run}", "--add", " "), "--add: ' ' is empty; allowed: any text"),
        (("{run}", "--add", "x" * 101), "--add: 101 characters; allowed: up to 100"),
        (("{run}", "--note", "x" * 10_001), "--note: 10001 characters; allowed: up to 10000"),
        (("{run}", "--add", "\udcff"), "--add: '\\udcff' is no text; allowed: UTF-8"),
    ],
)
def test_mistakes_are_told_in_a_line_and_change_nothing(cli, out, arguments, told):
    run = folder(out, "standard")
    write_label(run, Label(tags=("best",)))
    filled = [argument.format(run=run.name) for argument in arguments]
    code, shown, err = cli("tag", *filled, "--out", out)
    assert (code, shown, err.count("\n")) == (2, "", 1)
    assert told.format(out=out) in err
    assert read_label(run) == Label(tags=("best",))


def test_of_several_runs_none_is_changed_if_one_cannot_be(cli, out):
    write_label(folder(out, "standard"), Label(tags=("old",)))
    names = [folder(out, method).name for method in ("standard", "entprop")]
    assert cli("tag", *names, "--remove", "old", "--out", out).code == 2
    assert read_label(folder(out, "standard")).tags == ("old",)


def test_a_run_at_work_is_left_alone(cli, out):
    run = folder(out, "standard")
    with store.locked(run):
        code, _, err = cli("tag", run.name, "--add", "x", "--out", out)
    assert code == 2
    assert "another process works on this run" in err
    assert read_label(run) == Label()


def test_a_tag_that_is_there_keeps_its_place():
    label = Label(tags=("a", "b"), note="n")
    assert changed(label, add=["a", "c"]) == Label(tags=("a", "b", "c"), note="n")
    assert changed(label, drop=["a"], note="") == Label(tags=("b",))
    with pytest.raises(UserError, match="allowed: a, b"):
        changed(label, drop=["c"])


def test_a_report_of_a_tag_may_go_to_a_new_folder(cli, finished, tmp_path):
    """Runs are in `results` as elsewhere; --out says where the report goes."""
    shutil.copytree(finished, tmp_path / "results")
    cli("tag", folder(tmp_path / "results", "entprop").name, "--add", "mine")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("leaderboard.*")}
    code, shown, err = cli("report", "--tag", "mine", "--out", "new", "--json")
    assert (code, json.loads(shown)["report"]) == (0, "new/leaderboard.html")
    assert json.loads(shown)["runs"] == [folder(tmp_path / "results", "entprop").name]
    assert err == "new: no runs here: the report is of those in results\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("leaderboard.*")} == before


def test_a_report_beside_its_runs_is_written_anew(cli, finished, tmp_path):
    """Whatever lies in `results`: `--out` holds runs."""
    shutil.copytree(finished, tmp_path / "results")
    shutil.rmtree(folder(tmp_path / "results", "standard"))
    shutil.copytree(finished, tmp_path / "mine")
    for arguments in (("--out", "mine"), ("mine", "--out", "mine"), ("mine", "--out", "elsewhere")):
        code, shown, err = cli("report", *arguments, "--json")
        assert (code, err, len(json.loads(shown)["runs"])) == (0, "", 2)
    assert len(json.loads(cli("report", "results", "--out", "mine", "--json").out)["runs"]) == 1


def test_no_runs_anywhere_is_told(cli):
    assert cli("report", "--out", "new").err == "error: new: no runs here; `robusteval run --out DIR` makes some\n"
