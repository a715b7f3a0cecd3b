"""Texts in Markdown, rendered: they show as they are wherever they stand."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from itertools import product

import pytest
from markdown_it import MarkdownIt

from robusteval.report.escaping import code, escaped
from robusteval.wording import clean

PARTS = (
    *("_", "*", "`", "~~", "\\", "|", "[", "](x)", "![", "<b>", "</code>", "&lt;", "&#60;", "$", "#", "@a", "-", "+ "),
    *(
        "=",
        "1. ",
        "2)",
        "www.",
        "http://",
        "a",
        "Z9",
        " ",
        "é",
        "\u0301",
        "<!--",
        "<script>",
        "\n",
        "\t",
        "&amp",
        "---",
    ),
)
NAMES = (
    "pgd_at",
    "k=0.2 n=1, awp (0.01)",
    "cifar10-sample",
    "Šimůnek & co",
    "a_b_c",
    "x__y",
    "_x_",
    "1.5",
    "+1.2",
    "v2.",
)
TEXTS = [*NAMES, *map("".join, product(PARTS, PARTS)), *(f"a{b}c{d}e" for b, d in product(PARTS, PARTS))]


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def text_of(page: str, tags: Sequence[str]) -> str:
    """What a reader sees of HTML that holds these tags alone."""
    assert {*re.findall(r"<[^>]*>", page)} == {*tags}, page
    return html.unescape(re.sub(r"<[^>]*>", "", page))


PLACES = [
    ("{}", ["<p>", "</p>"], escaped),
    ("- {}", ["<ul>", "<li>", "</li>", "</ul>"], escaped),
    ("## {}", ["<h2>", "</h2>"], escaped),
    ("**so**: {}.", ["<p>", "<strong>", "</strong>", "</p>"], escaped),
    ("x {}", ["<p>", "<code>", "</code>", "</p>"], code),
    ("<details><summary>{}</summary>\n\n</details>", ["<details>", "<summary>", "</summary>", "</details>"], escaped),
    ("<details><summary>x{}y</summary>", ["<details>", "<summary>", "<code>", "</code>", "</summary>"], code),
]


@pytest.mark.parametrize(("place", "tags", "write"), PLACES)
def test_texts_show_as_they_are(place, tags, write):
    for text in TEXTS:
        wanted = clean(text).strip()
        if wanted:
            found = text_of(rendered(place.format(write(text))), tags)
            expected = re.sub(r"[*#]|^- |<.*?>", "", place).format(wanted)
            assert found.split() == expected.split(), text


def test_cells_of_tables_show_texts_as_they_are():
    texts = [text for text in TEXTS if clean(text).strip()]
    lines = ["| a | b |", "| --- | --- |", *(f"| {escaped(text)} | {code(text)} |" for text in texts)]
    page = rendered("\n".join(lines))
    cells = [html.unescape(re.sub("</?code>", "", cell)) for cell in re.findall("<td>(.*?)</td>", page, re.DOTALL)]
    assert [cell.split() for cell in cells] == [clean(text).split() for text in texts for _ in "ab"]


@pytest.mark.parametrize("name", ["pgd_at", "entprop k=0.2 n=1", "PGD-20 Linf 8/255", "+1.2", "1 - x"])
def test_what_does_not_act_stays_readable_in_the_source(name):
    assert escaped(name) == name


@pytest.mark.parametrize("character", [*"\\`*_[]<>#|~$&@"])
def test_no_acting_character_is_left(character):
    """Dollars and ats are GitHub's own, which no renderer here knows."""
    assert character not in re.sub(r"&#\d+;", "", escaped(f"a {character}b {character}"))
