"""CSV files and the terminal table."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from robusteval.report.board.leaderboard import leaderboard
from robusteval.report.board.rows import board
from robusteval.report.files.frame import long_table, wide_table
from robusteval.report.files.tables import csv_text, terminal_table
from robusteval.report.text import MISSING, TIMES
from robusteval.store import StoredRun

GOLDEN = Path(__file__).parent / "golden"


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def golden(name: str, text: str) -> str:
    """The committed text; ``ROBUSTEVAL_REFRESH=1 python -m pytest tests/report`` writes it anew."""
    path = GOLDEN / name
    if os.environ.get("ROBUSTEVAL_REFRESH"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    return path.read_bytes().decode()


def test_wide_csv_is_the_golden_one(runs: list[StoredRun]) -> None:
    text = csv_text(wide_table(leaderboard(runs)))
    assert text == golden("leaderboard.csv", text)


def test_columns_of_any_kind_are_plain_texts() -> None:
    columns = {
        "flag": [True, None, False], "number": [1, 0.25, None], "mixed": [1, "=x", True], "none": [None] * 3,
        "numpy": [np.float64(0.5), None, np.float64(1)], "both": [0.5, np.float64(0.25), None],
    }  # fmt: skip
    assert csv_text(columns).splitlines() == [
        "flag,number,mixed,none,numpy,both", "true,1.0,1,,0.5,0.5", ",0.25,'=x,,,0.25", "false,,true,,1.0,",
    ]  # fmt: skip
    assert csv_text({"alone": [None, 1]}).splitlines() == ["alone", '""', "1"]  # a blank line would be no line


def test_order_of_runs_does_not_matter(seeds: list[StoredRun]) -> None:
    assert csv_text(wide_table(leaderboard(seeds))) == csv_text(wide_table(leaderboard(seeds[::-1])))
    assert csv_text(long_table(seeds)) == csv_text(long_table(seeds[::-1]))


def test_long_csv_holds_every_measurement_exactly(runs: list[StoredRun]) -> None:
    expected = {
        (stored.run.id, task.key, m.metric, *(str(m.where.get(k, "")) for k in ("branch", "corruption", "severity"))): m
        for stored in runs
        for task in stored.tasks
        for m in task.measurements
    }
    found = lines(csv_text(long_table(runs)))
    assert len(found) == len(expected)
    for line in found:
        where = (line["where_branch"], line["where_corruption"], line["where_severity"])
        m = expected[line["run"], line["task_key"], line["metric"], *where]
        assert (float(line["value"]), float(line["low"]), int(line["n"])) == (m.value, m.low, m.n)
        assert line["where_epsilon"] == m.where.get("epsilon", "")
        assert line["verified"] == "true"


def test_missing_cells_are_empty_and_true_zeros_are_zero(runs: list[StoredRun]) -> None:
    by_label = {(line["label"], line["branch"]): line for line in lines(csv_text(wide_table(leaderboard(runs))))}
    pgd = "pgd_20_linf_8_255"
    assert by_label["standard", "main"][pgd] == "0.0"
    assert by_label["mixup-a02", "main"][pgd] == ""
    failed = by_label["advprop-lr1", "main"]
    assert [failed[key] for key in ("clean_accuracy", pgd, "flops_relative", "trust")] == ["", "", "", "unchecked"]
    assert failed["error"].endswith("step 118 of epoch 3")
    assert by_label["advprop", "aux"]["deployed"] == "false"
    assert by_label["advprop", "aux"]["train_flops"] == ""


def test_column_names_are_snake_case_and_differ(runs: list[StoredRun], hostile: list[StoredRun]) -> None:
    for some in (runs, hostile):
        for table in (wide_table(leaderboard(some)), long_table(some)):
            assert [name for name in table if not re.fullmatch(r"[^\W_A-Z]+(_[^\W_A-Z]+)*", name)] == []
    assert "pgd_20_linf_8_255_low" in wide_table(leaderboard(runs))


def test_what_has_no_place_in_a_grid_has_no_severity(runs: list[StoredRun]) -> None:
    table = long_table(runs)
    cells = [
        (task, metric) == ("corruption", "accuracy")
        for task, metric in zip(table["task"], table["metric"], strict=True)
    ]
    assert [severity is not None for severity in table["where_severity"]] == cells
    assert {type(severity) for severity in table["where_severity"]} == {int, type(None)}


def test_cells_are_written_as_the_module_csv_writes_them() -> None:
    texts = ["plain", "a,b", 'say "x"', '"', "", None, "'", "a b", ",", "é"]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([["text", "n"], *([text, 1] for text in texts)])
    assert csv_text({"text": texts, "n": [1] * len(texts)}) == file.getvalue()


def test_numbers_of_a_column_are_of_one_kind() -> None:
    """A whole number beside others is written like them; truth is no number, and -0.0 no 0.0."""
    columns: dict[str, list[object]] = {
        "n": [1, None, 3],
        "x": [1, 0.5, None],
        "y": [0.0, -0.0, 1e-7],
        "b": [True, None, 1],
    }
    assert csv_text(columns) == "n,x,y,b\n1,1.0,0.0,true\n,0.5,-0.0,\n3,,1e-07,1\n"


def test_no_cell_is_a_formula(hostile: list[StoredRun], make: SimpleNamespace) -> None:
    number = re.compile(r"-?[0-9.]+(e-?[0-9]+)?")
    for columns in (wide_table(leaderboard(hostile)), long_table(hostile)):
        text = csv_text(columns)
        assert "\0" not in text
        table = list(csv.reader(io.StringIO(text)))
        assert {len(line) for line in table} == {len(columns)}
        cells = {cell for line in table for cell in line if not number.fullmatch(cell)}
        assert not [cell for cell in cells if cell.lstrip()[:1] in ("=", "+", "-", "@") or cell[:1] in ("\t", "\r")]
        assert {"'=cmd()", "'@x", "x" * 10_000} <= cells


def printed(runs: list[StoredRun], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    console.print(terminal_table(runs, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_table_fits_80_columns(runs: list[StoredRun]) -> None:
    text = printed(runs, 80)
    assert max(map(len, text.splitlines())) <= 80
    all_lines = text.splitlines()
    at = next(index for index, line in enumerate(all_lines) if line.startswith("pgd_at"))
    assert all_lines[at].split() == ["pgd_at", "48.7", "38.6", "43.1", "25.2?", "8", f"5.67{TIMES}", "4m", "36s"]
    shown = {row.stored.run.label: row for row in board(runs).rows if row.deployed}["pgd_at"].scores.values()
    spans = [f"{100 * (s.low or 0):.1f}{MISSING}{100 * (s.high or 0):.1f}" for s in shown if (s.value or 1) < 0.5]
    assert len(spans) == 4
    assert sorted(all_lines[at + 1].split()) == sorted(spans)
    assert re.search(rf"^  aux +62\.2 .*\n +59\.2{MISSING}65\.2 ", text, re.MULTILINE)
    assert re.search(rf"^mixup-a02 +70\.5 +{MISSING} +{MISSING} +{MISSING} +1", text, re.MULTILINE)
    assert "±" not in text
    assert "failed: advprop-lr1, seed 0: train: loss is not finite" in text
    assert "cifar10-c-gen" in text


def test_terminal_table_shows_means_of_seeds(seeds: list[StoredRun]) -> None:
    text = printed(seeds, 120)
    assert re.search(r"^mixup 3 seeds +71\.5 .*\n +sd 0\.4 ", text, re.MULTILINE)
    assert text.count("mixup") == 1


@pytest.mark.parametrize("width", [80, 300])
def test_terminal_obeys_no_name(hostile: list[StoredRun], width: int) -> None:
    text = printed(hostile, width)
    assert not set(text) & {"\x1b", "\0", "\u202e", "\t"}
    if width == 300:
        assert "[red]" in text
        assert "<script>" in text
        assert "[/]" in text


def test_terminal_table_shows_ranks_and_marks(ranked: list[StoredRun]) -> None:
    text = printed(ranked, 100)
    assert re.search(r"^entprop 2 seeds +71\.8 .*\nrank 1 +68\.3", text, re.MULTILINE)
    assert re.search(rf"^advprop +68\.8 .*\nrank 3{MISSING}4 +65\.9{MISSING}71\.6 ", text, re.MULTILINE)
    assert re.search(r"^rank 5 ", text, re.MULTILINE)
    assert text.count("\nrank ") == 5  # neither branches nor rows without outcomes have one
    assert "Rank: by H-score (generated)" in text
    assert max(map(len, printed(ranked, 80).splitlines())) <= 80
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(terminal_table(ranked, width=100))
    assert isinstance(console.file, io.StringIO)
    styled = console.file.getvalue()
    assert "\x1b[1m25.2" in styled  # the best is bold
    assert "\x1b[4m70.3" in styled  # what ties with the best is underlined


def test_without_outcomes_the_terminal_speaks_of_no_ranks(runs: list[StoredRun]) -> None:
    assert "rank" not in printed(runs, 100).lower()


def test_scores_without_room_are_named_below(runs: list[StoredRun]) -> None:
    """Names, the first score and costs stay; a heading of many words goes on in further lines."""
    narrow, text = printed(runs, 60), printed(runs, 80)
    assert max(map(len, narrow.splitlines())) <= 60
    assert all(re.search(rf"^{run.run.label.split()[0][:12]}", narrow, re.MULTILINE) for run in runs)
    left = re.search(r"No room for (.*?): in a wider terminal", " ".join(narrow.split()))
    assert left is not None
    assert "PGD-20" in left[1]
    assert "No room" not in text
