"""README and docs against the program: its commands parse, its suite resolves, its links and its method table hold."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from robusteval.cells import expand, tasks_of
from robusteval.cli import app
from robusteval.cli.cards import markdown_table
from robusteval.config import parse_suite
from robusteval.methods import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(text, language=""):
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for of, block in fences if of == language]


COMMANDS = [
    command.strip()
    for block in blocks(README)
    for line in block.replace("\\\n", " ").splitlines()
    for command in line.split("#")[0].split("&&")
    if command.strip().startswith("robusteval")
]


def test_there_are_commands_to_check():
    assert "robusteval run" in COMMANDS
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_parse(command):
    app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


def test_inline_commands_name_commands_that_exist():
    named = {*re.findall(r"`robusteval ([a-z]+)", README), *re.findall(r"^\| `([a-z]+)[ `]", README, re.MULTILINE)}
    known = {name for name in app if not name.startswith("-")}
    assert {"run", "eval", "show", "doctor"} <= named & known
    assert named - {*METHODS} <= known


def test_the_suite_of_the_readme_resolves():
    (text,) = blocks(README, "toml")
    suite = parse_suite(tomllib.loads(text), "README.md")
    assert len(expand(suite)) == 12
    assert [task.name for task in tasks_of(suite)] == ["clean", "corruption", "pgd"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_methods_of_the_readme_are_those_that_ls_prints():
    """``robusteval ls methods --markdown`` prints what belongs between the markers."""
    (block,) = re.findall(r"^<!-- methods -->$(.*?)^<!-- /methods -->$", README, re.DOTALL | re.MULTILINE)
    assert block.strip() == markdown_table()
    assert re.findall(r"^\| `(\w+)` \|", block, re.MULTILINE) == list(METHODS)


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert not re.search(r"\b[A-Z]+_TABLE\b|\bTBD\b", page.read_text(encoding="utf-8")), page.name
