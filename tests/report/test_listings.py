"""The leaderboard as Markdown, LaTeX and JSON: golden files, what they say, and names that would act in them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from robusteval.records import Reason
from robusteval.report.board.leaderboard import Leaderboard, leaderboard
from robusteval.report.files.frame import long_table, wide_table
from robusteval.report.files.latex import escaped, latex
from robusteval.report.files.listing import listing
from robusteval.report.files.markdown import markdown
from robusteval.report.files.tables import csv_text
from robusteval.report.text import MISSING, clean
from robusteval.store import StoredRun

GOLDEN = Path(__file__).parent / "golden"
PGD = "pgd_20_linf_8_255"


@pytest.fixture(scope="module")
def found(ranked: list[StoredRun]) -> Leaderboard:
    """The example with its outcomes."""
    return leaderboard(ranked)


@pytest.mark.parametrize(("name", "write"), [("md", markdown), ("tex", latex), ("json", listing)])
def test_file_is_the_golden_one(found: Leaderboard, name: str, write: Any) -> None:
    """``ROBUSTEVAL_REFRESH=1 python -m pytest tests/report`` writes the committed texts anew."""
    path, text = GOLDEN / f"leaderboard.{name}", write(found)
    if os.environ.get("ROBUSTEVAL_REFRESH"):
        path.write_bytes(text.encode())
    assert text == path.read_bytes().decode()


def test_order_of_runs_does_not_matter(ranked: list[StoredRun], found: Leaderboard) -> None:
    again = leaderboard(ranked[::-1])
    for write in (markdown, latex, listing):
        assert write(again) == write(found)


# --- Markdown


def parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def shown(inline: Token) -> str:
    """The text of a cell as a reader sees it."""
    return "".join(one.content for one in inline.children or () if one.type in ("text", "text_special"))


def tables(text: str) -> list[list[list[Token]]]:
    """Tables of rows of cells."""
    found: list[list[list[Token]]] = []
    tokens = parsed(text)
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            assert after is not None
            found[-1][-1].append(after)
    return found


def test_markdown_shows_ranks_intervals_marks_and_what_is_missing(found: Leaderboard) -> None:
    (table,) = tables(markdown(found))
    head, *body = [[shown(cell) for cell in row] for row in table]
    assert head == [
        "Rank",
        "Method",
        "Clean accuracyn = 1,000",
        "Corruption accuracy (generated)n = 1,000",
        "H-score (generated)n = 1,000",
        "PGD-20 Linf 8/255n = 1,000",
        "FLOPs",
    ]
    by_name = {row[1]: row for row in body}
    assert by_name["entprop (2 seeds)"][0] == "1"
    assert by_name["advprop"][0] == f"3{MISSING}4"
    assert by_name["pgd_at"][0] == "5"
    assert by_name["pgd_at"][2] == f"48.7 (45.6{MISSING}51.8)"
    assert by_name["pgd_at"][5].startswith("25.2? (")
    assert by_name["mixup-a02"][0] == by_name["mixup-a02"][3] == by_name["mixup-a02"][5] == MISSING
    assert by_name["advprop-lr1 failed"] == [MISSING, "advprop-lr1 failed", *[MISSING] * 5]
    assert by_name["\N{EM SPACE}aux"][0] == ""
    assert ", sd 0.3)" in by_name["entprop (2 seeds)"][2]
    strong = {
        shown(row[1]): [any(t.type == "strong_open" for t in cell.children or ()) for cell in row] for row in table
    }
    assert strong["pgd_at"] == [False] * 5 + [True, False]
    text = markdown(found)
    assert "- failed: advprop-lr1, seed 0: train: loss is not finite (nan) at step 118 of epoch 3\n" in text
    assert "- Rank: by H-score (generated); " in text
    assert "not the published CIFAR-10-C files" in text


# --- JSON


def test_json_has_the_wide_table_and_what_its_columns_mean(found: Leaderboard) -> None:
    content = json.loads(listing(found))
    assert content["schema_version"] == 1
    frame = list(csv.DictReader(io.StringIO(csv_text(wide_table(found)))))
    assert [list(row) for row in content["rows"]] == [list(row) for row in frame]
    for row, line in zip(content["rows"], frame, strict=True):
        for key, value in row.items():
            text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            assert text == line[key] or float(text) == float(line[key])
    columns = content["rows"][0].keys()
    for score in content["scores"]:
        assert {score["column"], *score["parts"].values()} <= columns
        assert score["definition"].endswith((".", ". "))
    assert {score["column"] for score in content["scores"]} == {
        *("clean_accuracy", "corruption_accuracy_generated", "corruption_error_generated", "h_score_generated", PGD)
    }
    (dataset,) = content["datasets"]
    assert dataset["ranked_by"] == "h_score_generated"
    (failure,) = dataset["failures"]
    assert (failure["label"], failure["status"]) == ("advprop-lr1", "failed")
    assert failure["reason"].startswith("train: loss is not finite")
    assert [note["topic"] for note in dataset["notes"]] == ["Generated corruptions"]


def test_ranks_stand_in_csv_and_json_where_there_are_some(found: Leaderboard) -> None:
    rows = {(row["row"], row["label"], row["branch"]): row for row in json.loads(listing(found))["rows"]}
    keys = ("rank", "rank_worst", "ranked_of")
    assert [rows["mean", "entprop", "main"][key] for key in keys] == [1, 1, 5]
    assert [rows["run", "advprop", "main"][key] for key in keys] == [3, 4, 5]
    for other in (("run", "entprop", "main"), ("run", "advprop", "aux"), ("run", "mixup-a02", "main")):
        assert [rows[other][key] for key in keys] == [None] * 3
    missing = rows["run", "mixup-a02", "main"]
    assert [missing[f"{PGD}{part}"] for part in ("", "_low", "_n", "_trust")] == [None] * 4
    assert rows["run", "standard", "main"][PGD] == 0.0
    assert rows["run", "standard", "main"][f"{PGD}_trust"] == "unchecked"


# --- LaTeX

COMMANDS = frozenset(
    [
        *("begin", "end", "centering", "caption", "label", "small", "toprule", "midrule", "bottomrule"),
        *("textbf", "underline", "textsuperscript", "scriptsize", "footnotesize", "smallskip", "quad", "emph"),
        *("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"),
        *("textasciigrave", "dots", "ensuremath", "times", "ell", "infty"),
        *("alpha", "beta", "gamma", "epsilon", "lambda", "sigma", "u", "v", "c", "r"),
    ]
)
MATH = (r"$\ell_\infty$", r"$\ell_2$")


def check_latex(text: str) -> None:
    """Every special character is escaped or the program's own, groups are closed, rows have their cells."""
    assert text.isascii()
    comment, *body = text.splitlines()
    assert comment.startswith("% ")
    text = "\n".join(body)
    for one in MATH:
        text = text.replace(one, "math")
    depth = position = 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            word = re.match(r"[A-Za-z]+", text[position + 1 :])
            if word:
                assert word[0] in COMMANDS, word[0]
                position += len(word[0])
            else:
                assert text[position + 1] in "\\{}$&%#_,'`^~=.\"", text[position : position + 20]
                position += 1
        depth += (character == "{") - (character == "}")
        assert depth >= 0
        assert character not in "$#%_^~", text[position - 30 : position + 5]
        position += 1
    assert depth == 0
    environments = re.findall(r"(?<!\\)\\(begin|end)\{(\w+)\}", text)
    assert environments == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")] * (
        len(environments) // 4
    )
    for spec, rows in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        for row in rows.splitlines():
            if row not in (r"\toprule", r"\midrule", r"\bottomrule"):
                assert row.endswith(r" \\")
                assert len(re.findall(r"(?<!\\)&", row)) == len(spec) - 1
                assert not row.startswith(("[", "*"))


def test_latex_is_a_booktabs_table(found: Leaderboard) -> None:
    text = latex(found)
    check_latex(text)
    assert r"\textbf{25.2}\textsuperscript{?} {\scriptsize 22.6--28.0}" in text
    assert r"\underline{70.3} {\scriptsize 67.4--73.1}" in text
    assert r"95\,\% intervals" in text
    assert "n = 1,000" in text
    assert re.search(r"^3--4 & advprop & 68\.8 ", text, re.MULTILINE)
    assert re.search(r"^-- & mixup-a02 & .* & -- & -- & -- & 1\.00\\ensuremath\{\\times\} \\\\$", text, re.MULTILINE)
    assert re.search(r"^-- & advprop-lr1 \\emph\{failed\} & -- & -- & -- & -- & -- \\\\$", text, re.MULTILINE)
    assert "failed: advprop-lr1, seed 0: train: loss is not finite (nan) at step 118 of epoch 3" in text


def test_the_check_of_latex_notices() -> None:
    row = "% x\n\\begin{table}\n\\begin{tabular}{rl}\n%s \\\\\n\\end{tabular}\n\\end{table}"
    check_latex(row.replace("%s", "1 & a"))
    for bad in (
        "1 & a_b",
        "1 & $a",
        "1 & {a",
        "1 & a}",
        "1 & 5% a",
        "1 & \\input{a}",
        "1 & a & b",
        "1",
        "1 & a^b",
        "1 & é",
    ):
        with pytest.raises(AssertionError):
            check_latex(row.replace("%s", bad))


def test_latex_shows_what_it_can() -> None:
    assert escaped("a--b---c") == "a-{}-b-{}-{}-c"
    assert escaped("ε=8/255, λ") == r"\ensuremath{\epsilon}=8/255, \ensuremath{\lambda}"
    assert escaped("Müller, Šimůnek, façade") == r"M\"{u}ller, \v{S}im\r{u}nek, fa\c{c}ade"
    assert escaped("中é\N{COMBINING DOT ABOVE}") == r"?\'{e}?"
    assert escaped("  ") == "(no name)"


# --- Names that would act

FRAGMENTS = (
    *("<script>alert(1)</script>", "\u202eabc\u2066", "a\x00b\x1b[2J", "x" * 10_000, "$\\foo$", "[/]", "=cmd()"),
    *("\\input{/etc/passwd}", "|", "a\nb\r\nc", "+1", "-1", "@x", "\tx", "", "#1 ~a^b_c%d&e{f}g", "[a](javascript:b)"),
    *(
        "`code`",
        "![i](http://x.y)",
        "*b* _i_ ~~s~~",
        "www.a.b http://a.b",
        "&lt;b&gt;",
        "\\\\",
        "\\",
        "\ud800",
        "\u2028",
    ),
    *("---", "| --- | --- |", "\ufeff=1", "\u3000@a", '"quoted", cell', "中文 é ü", "<!-- -->", "1. a"),
)


def names() -> list[str]:
    """1,000 names: the fragments, and pairs of them."""
    return list(dict.fromkeys([*FRAGMENTS, *("".join(pair) for pair in product(FRAGMENTS, FRAGMENTS))]))[:1000]


@pytest.fixture(scope="module")
def thousand() -> list[str]:
    found = names()
    assert len(set(found)) == 1000
    return found


@pytest.fixture(scope="module")
def hostile_board(thousand: Sequence[str], request: pytest.FixtureRequest) -> tuple[Leaderboard, list[StoredRun]]:
    """1,000 runs whose texts are hostile, of three data sets."""
    make: SimpleNamespace = request.getfixturevalue("make_session")
    runs = []
    for number, name in enumerate(thousand):
        stored = make.run(
            name,
            {name: (0.5, 0.5, 0.1)},
            id=f"{name}{number}",
            dataset=thousand[number % 3],
            architecture=name,
            deployed=name,
            options={name: name},
            error=name,
            status="failed" if number % 2 else "done",
            tasks=("clean", "pgd"),
        )
        (clean_task, pgd) = stored.tasks
        doubt = Reason(name=name, evidence=name, text=name)
        changes = {"trust": "flagged", "reasons": (doubt,), "note": name}
        odd = pgd.model_copy(update={"measurements": (pgd.measurements[0].model_copy(update=changes),)})
        runs.append(StoredRun(stored.folder, stored.run, (), (clean_task, odd)))
    return leaderboard(runs), runs


def test_no_csv_cell_of_a_thousand_names_is_a_formula(hostile_board: tuple[Leaderboard, list[StoredRun]]) -> None:
    board, runs = hostile_board
    number = re.compile(r"-?[0-9.]+(e-?[0-9]+)?")
    for columns, rows in ((wide_table(board), 1000), (long_table(runs), 2000)):
        text = csv_text(columns)
        text.encode()
        table = list(csv.reader(io.StringIO(text, newline="")))
        assert len(table) == rows + 1
        assert {len(line) for line in table} == {len(columns)}
        cells = {cell for line in table for cell in line if not number.fullmatch(cell)}
        assert not [cell for cell in cells if re.match(r"[\s\ufeff]*[=+\-@]|[\t\r]", cell)]
        assert "\0" not in text


def test_markdown_of_a_thousand_names_keeps_its_columns(
    hostile_board: tuple[Leaderboard, list[StoredRun]], thousand: Sequence[str]
) -> None:
    text = markdown(hostile_board[0])
    text.encode()
    assert not set(text) & {"\x1b", "\0", "\u202e", "\r", "\t", "\u2028"}
    found = tables(text)
    assert len(found) == 3
    assert sum(len(table) - 1 for table in found) == 1000
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}
    shown_names = {shown(row[1]).removesuffix(" failed") for table in found for row in table[1:]}
    assert shown_names == {" ".join(clean(name, 60).split(" ")).strip() or "(no name)" for name in thousand}
    acting = {"link_open", "image", "code_inline", "html_block", "s_open", "fence", "code_block", "hr"}
    for token in parsed(text):
        assert token.type not in acting
        for child in token.children or ():
            assert child.type not in acting
            if child.type == "html_inline":
                assert child.content == "<br>"
    assert sum(token.type == "heading_open" for token in parsed(text)) == 4


def test_latex_of_a_thousand_names_obeys_none(hostile_board: tuple[Leaderboard, list[StoredRun]]) -> None:
    text = latex(hostile_board[0])
    check_latex(text)
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert text.count(r"\begin{tabular}") == 3


def test_json_of_a_thousand_names_says_them_exactly(
    hostile_board: tuple[Leaderboard, list[StoredRun]], thousand: Sequence[str]
) -> None:
    text = listing(hostile_board[0])
    assert text.isascii()
    content = json.loads(text, parse_constant=pytest.fail)
    assert {row["label"] for row in content["rows"]} == set(thousand)
    assert sum(len(part["failures"]) for part in content["datasets"]) == 500


# --- 500 rows


def test_five_hundred_rows_take_no_time(tmp_path: Path, make: SimpleNamespace) -> None:
    """Board, intervals, ranks and every text of 500 runs, each with outcomes of 77 cells of 1,000 images on disk."""
    template = make.kept(tmp_path, make.run("mixup", {"main": (0.7, 0.6, 0.2)}))
    # 500 folders would take a minute to write; as many names of one folder are read as often.
    apart = []
    for i in range(500):
        (tmp_path / f"{i}").mkdir()
        run = template.run.model_copy(update={"label": f"m{i}", "id": f"m{i}"})
        apart.append(StoredRun(tmp_path / f"{i}" / "..", run, (), template.tasks))
    start = time.process_time()
    found = leaderboard(apart)
    texts = [csv_text(wide_table(found)), markdown(found), latex(found), listing(found)]
    assert time.process_time() - start < 5  # 2.1 s on the machine that this was written on
    assert all(text.count("m499") for text in texts)
    assert {place.of for place in found.parts[0].ranking.places.values()} == {500}
