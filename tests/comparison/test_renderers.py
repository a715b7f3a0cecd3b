"""The comparison as text: for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import io
import json
import re
import unicodedata

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console

from robusteval.comparison import as_json, as_markdown, as_terminal, compare

HOSTILE = (
    "<script>alert(1)</script>",
    "</code><img src=x onerror=alert(1)>",
    "=cmd()",
    "a | b",
    "\\| `code`",
    "*bold* __bold__ ~~gone~~",
    "[red]",
    "[/]",
    "[link](https://example.org)",
    "https://example.org www.example.org",
    "@someone #1",
    "\u202eabc",
    "a\x00b\x1b[2J",
    "two\nlines\r\n# heading",
    "&lt;b&gt; &#60;",
    "$x_1$",
)


def shown(comparison, width=80, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, **options)
    console.print(as_terminal(comparison))
    return console.file.getvalue()


@pytest.fixture
def full(make):
    """A pair with everything there is to show."""
    ours = [make(label="counterbalancing_teacher", seed=seed) for seed in range(2)]
    theirs = make(
        "b",
        label="disentangled-ensemble-of-branches",
        attack={"steps": 50},
        cost={"threads": 8},
        run={"teacher": "x" * 60, "options": {"epsilon": 8 / 255, "sources": ["pgd", "fgsm"]}},
    )
    return compare(ours, [theirs], by="side", each_corruption=True)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_lines_fit_the_terminal(full, width):
    lines = shown(full, width, no_color=True, color_system=None).splitlines()
    assert max(cell_len(line.rstrip()) for line in lines) <= width
    text = "\n".join(lines)
    for word in ("WARNING", "Different teachers", "Different machines", "not comparable", "disentangled-ensemble"):
        assert word in text
    assert "…" not in text  # nothing is cut


def test_without_colours_the_words_say_it_all(full, monkeypatch):
    assert "\x1b[1;32m" in shown(full, color_system="standard") or "\x1b[33m" in shown(full, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3\dm", shown(full, color_system="standard"))


def test_numbers_are_in_percent_and_points(make):
    right = {"clean": [place < 120 for place in range(200)]}
    wrong = {"clean": [place < 100 for place in range(200)]}
    first, second = (
        make(label=label, outcomes={"clean": np.array(one["clean"])}) for label, one in (("a", right), ("b", wrong))
    )
    text = shown(compare([first], [second], by="side"), color_system=None)
    text = text.replace("\N{MINUS SIGN}", "-")
    assert re.search(r"Clean accuracy +60\.0 +50\.0 +-10\.0 +<0\.001 worse", text)
    assert re.search(r"20 only +0 only +-14\.9 to -6\.6", text)


def test_pairs_of_the_same_numbers_take_one_line(make):
    before = [make("a", label=label) for label in ("one", "two", "three")]
    after = [make("b", label=label) for label in ("one", "two")] + [make("b", label="three", weights="5" * 64)]
    text = shown(compare(before, after), color_system=None)
    assert "The same weights, the same numbers: one, two" in text
    overview = text.partition("B less A")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in overview[1:]] == ["three"]
    assert text.count("Backward passes") == 1
    assert "3 pairs; scores of B: 12 not distinguishable" in text


def test_no_name_is_broken_where_there_is_room(make):
    labels = ["counterbalancing_teacher", "entprop k=0.6 n=5"]
    before, after = (
        [make(folder, label=label, weights=digit * 64) for label in labels] for folder, digit in ("a5", "b6")
    )
    text = shown(compare(before, after), 80, color_system=None)
    assert "\ncounterbalancing_teacher  " in text


def test_names_with_commas_are_told_apart(make):
    both = [[make(folder, label=label) for label in ("one", "two")] for folder in "ab"]
    text = shown(compare(*both, branches=("main", "main")), color_system=None)
    assert "The same weights, the same numbers: one, branch main; two, branch main" in text
    assert "B less A  " not in text


def test_what_all_pairs_are_warned_of_is_said_once(make):
    before = [make("a", label=label) for label in ("one", "two")]
    after = [make("b", label=label, version=2) for label in ("one", "two")]
    found = compare(before, after)
    for text in (shown(found, color_system=None), as_markdown(found)):
        assert text.count("Different task version") == 1
    extra = compare([*before, make("a", label="three")], [*after, make("b", label="four")])
    assert "Only in A: A (1)" not in shown(extra)
    assert "Only in A (1): three s0" in shown(extra, color_system=None)
    assert "Only in B (1): <code>four s0</code>" in as_markdown(extra)


def test_other_images_are_told_once_for_all_tasks(make):
    found = compare([make(label="ours")], [make(label="theirs", digest="4c" * 32)], by="side")
    (caution,) = found.pairs[0].cautions
    assert caution.text == "the test images differ (digest A 2e2e2e2e2e2e, B 4c4c4c4c4c4c)."
    assert len(caution.scores) == 4


def test_an_option_without_a_value_is_not_one_that_is_not_there(make):
    theirs = make(label="theirs", run={"options": {"epsilon": None}})
    text = shown(compare([make(label="ours")], [theirs], by="side"), color_system=None)
    assert re.search(r"^epsilon +\N{EN DASH} +none *$", text, re.MULTILINE)


def test_the_legend_speaks_of_no_tests_where_there_is_none(make):
    for told in (as_markdown, shown):
        assert "Nothing could be tested." not in told(compare([make(label="ours")], [make(label="theirs")], by="side"))
        text = told(compare([make(label="ours")], [make(label="theirs", digest="4c" * 32)], by="side"))
        assert "Nothing could be tested." in " ".join(text.split())
        assert "0 tests" not in text


def test_the_document_holds_the_numbers(full):
    document = json.loads(as_json(full))
    (pair,) = document["pairs"]
    assert document["schema_version"] == 1
    assert document["tests"] == full.tests
    assert [run["seed"] for run in pair["a"]["runs"]] == [0, 1]
    lines = {line.key: line for line in full.pairs[0].scores}
    assert {one["key"]: (one["a"], one["b"], one["difference"], one["p_holm"]) for one in pair["scores"]} == {
        key: (line.first, line.second, line.difference, line.p_holm) for key, line in lines.items()
    }
    assert {one["topic"] for one in pair["warnings"]} == {
        "Different attacks",
        "Different machines",
        "Different teachers",
    }
    assert any(one["difference"] is None and one["a"] is not None for one in pair["scores"])


@pytest.fixture
def hostile(make):
    """Every name in records that a comparison shows is hostile."""

    def run(results, name, k):
        doubt = {"steps": k, "loss": name}
        return make(
            results,
            label=name,
            attack=doubt,
            options={name: k},
            cost={"device": f"{name}{k}"},
            provenance={"cpu": f"{name}{k}"},
            run={
                "id": f"{name}{results}",
                "options": {name: [name, k]},
                "teacher": f"{name}{k}",
            },
        )

    before = [run("a", name, 1) for name in HOSTILE]
    after = [run("b", name, 2) for name in HOSTILE]
    return compare([*before, make("a", label="<b>only</b>")], after)


def test_hostile_names_do_not_act_in_a_terminal(hostile):
    text = shown(hostile, color_system=None)
    controls = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"}
    assert not controls
    assert "[red]" in text
    assert "[/]" in text
    assert len(hostile.pairs) == len(HOSTILE)


def test_hostile_names_do_not_act_in_markdown(hostile):
    text = as_markdown(hostile)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inline = [child for token in tokens for child in token.children or []]
    assert {token.content for token in inline if token.type == "html_inline"} <= {"<code>", "</code>"}
    assert not {token.type for token in inline} & {"link_open", "image", "em_open", "s_open", "code_inline"}
    strong = [inline[place + 1].content for place, token in enumerate(inline) if token.type == "strong_open"]
    assert all(re.fullmatch(r"[\w ,]+", one) for one in strong)
    blocks = {line for token in tokens if token.type == "html_block" for line in token.content.splitlines()}
    for line in blocks:
        assert re.fullmatch(r"</?details>|<details><summary>(<code>[^<>]*</code>|[\w ]+)</summary>", line.strip())
    headings = [token for token in tokens if token.type == "heading_open"]
    assert len(headings) == 1
    bare = re.sub(r"<code>.*?</code>", "", text)
    assert not re.search(r"[@\\`#]\w|www\.|://", re.sub(r"&#\d+;|^#+ ", "", bare, flags=re.MULTILINE))
    # Every row of a table has as many cells as its head.
    widths = 0
    for line in text.splitlines():
        if line.startswith("|"):
            cells = line.count("|")
            assert cells == (widths or cells), line
            widths = cells
        else:
            widths = 0


def test_hostile_names_survive_as_json(hostile):
    document = json.loads(as_json(hostile))
    assert document["only_in_a"][0]["label"] == "<b>only</b>"
    assert {pair["a"]["label"] for pair in document["pairs"]} == set(HOSTILE)
