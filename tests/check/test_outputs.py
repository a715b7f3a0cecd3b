"""JUnit XML, Markdown, annotations, table and JSON: complete, and unharmed by hostile names."""

import io
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from robusteval.check import words
from robusteval.check.gate import judge
from robusteval.check.github import commands
from robusteval.check.junit import junit
from robusteval.check.markdown import append, markdown

HOSTILE = [
    "</testcase><script>alert(1)</script>",
    "]]>&amp;\"'",
    "a\x00b\x1b[31mred\x07",
    "::error title=x::y%0A",
    "line\nbreak\r\nand\ttab",
    "| cell | `code` | [link](javascript:x) ![i](http://e.vil) @everyone #1 $x$ ~~",
    "[bold]x[/] [/]",
    "\u202eright to left",
    "=cmd()|' /C calc'!A0",
    "x" * 10_000,
]


def outcomes(share, seed=0):
    return np.random.default_rng(seed).random((5, 300)) < share


@pytest.fixture
def gate(baseline):
    """A regression, a missing number and an equal one of each hostile name."""
    old = {(name, name, key): outcomes(0.8) for name in HOSTILE for key in ("clean", "PGD", "other")}
    new = {(name, name, key): outcomes(0.8 if key == "clean" else 0.2, 1 + (key == "PGD")) for name, _, key in old}
    new |= {place: scores for place, scores in old.items() if place[2] == "clean"}
    return judge(baseline(old), baseline({place: scores for place, scores in new.items() if place[2] != "other"}))


def test_junit_is_valid_and_has_a_case_each(gate):
    text = junit(gate, HOSTILE[0])
    root = ET.fromstring(text.encode())
    (suite,) = root
    cases = list(suite)
    assert [one.tag for one in (root, suite)] == ["testsuites", "testsuite"]
    assert len(cases) == len(gate.findings) == 30
    kinds = [[child.tag for child in case] for case in cases]
    assert kinds.count(["failure"]) == kinds.count(["error"]) == kinds.count([]) == 10
    for one in (root, suite):
        assert [one.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["30", "10", "10", "0"]
    (failure,) = cases[0].iter("failure")
    assert failure.get("message") == failure.text
    assert "fell by" in next(case.find("failure").text for case in cases if case.find("failure") is not None)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\u202e]", text)
    assert {case.get("classname") for case in cases} >= {HOSTILE[0], HOSTILE[-1]}


def test_annotations_are_one_line_each_and_ten_at_most(gate):
    lines = list(commands(gate))
    assert len(lines) == 10
    assert lines[-1] == "::error title=robusteval check::11 more: see the summary of this job"
    for line in lines:
        title, text = re.fullmatch(r"::error title=([^\n\r:,]*)::([^\n\r]*)", line).groups()
        assert not re.search("%(?!25|3A|2C|0D|0A)", title + text)


def test_the_summary_shows_names_as_they_are(gate, tmp_path):
    text = markdown(gate, "toy | suite")
    assert text.startswith("## robusteval check: toy &#124; suite: red\n")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert {line.count("|") for line in rows} == {8, 9}
    assert not re.search("<(?!/?details|/?summary)", text)
    assert "javascript" in text
    assert "[link]" not in text
    assert "@everyone" not in text
    assert "://" not in text  # GitHub makes links of addresses
    append(tmp_path / "new" / "summary.md", text)
    append(tmp_path / "new" / "summary.md", text)
    assert (tmp_path / "new" / "summary.md").read_text() == text * 2


def test_a_long_summary_is_cut(baseline):
    numbers = {(f"cell {i}", "main", "clean"): outcomes(0.8) for i in range(400)}
    text = markdown(judge(baseline(numbers), baseline({("other", "main", "clean"): outcomes(0.8)})), "toy")
    assert text.count("| missing |") == 300
    assert "101 more are not shown here." in text
    assert len(text.encode()) < 2**20


def test_the_table_shows_every_finding(gate):
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(words.table(gate))
    text = console.export_text()
    assert text.count("regression") == text.count("missing") == text.count("same") == 10
    assert "\x1b" not in text
    assert "[bold]x[/] [/]" in text


def test_what_all_cells_share_stands_above_the_table(baseline):
    def shown(*cells):
        before = baseline({(f"cifar10-sample/{cell}", "main", "clean_accuracy"): outcomes(0.8) for cell in cells})
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(words.table(judge(before, before)))
        return [line.split() for line in console.export_text().splitlines()]

    title, head, *rows = shown("resnet8/advprop step=1/255", "resnet8/standard")
    assert title == ["cifar10-sample/resnet8"]
    assert head[0] == "Cell"
    assert rows[-1][:3] == ["standard", "main", "clean_accuracy"]
    assert any(row[:1] == ["advprop"] for row in rows)
    several = shown("resnet8/standard", "resnet20/standard")
    assert several[0][0] == "Cell"


def test_the_document_is_json(gate):
    found = json.loads(json.dumps(words.document(gate, "toy"), allow_nan=False))
    assert found["red"] is True
    assert {one["verdict"] for one in found["findings"]} == {"regression", "missing", "same"}
    fallen = next(one for one in found["findings"] if one["verdict"] == "regression")
    assert fallen["drop"] == pytest.approx(fallen["before"] - fallen["now"])
    assert fallen["low"] < fallen["drop"] < fallen["high"]
