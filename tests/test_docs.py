"""README and docs against the program: what they show is executed, and what they name exists.

Every command and every block of Python of a page is executed in the order of the page, in a folder of its own that has
the results of two methods in ``results``; so is the notebook. ``RUN`` stands for the id of the run of `standard`. An
HTML comment before a block says how else to treat it:

- ``<!-- test: tiny ... -->``, ``<!-- test: with ... -->``: the options that follow are added to each command, ``tiny``
  standing for `TINY`;
- ``<!-- test: parsed; REASON -->``: its commands are parsed, and suites in them resolved, but not executed;
- ``<!-- test: file NAME -->``: it is written to that file, which later blocks use;
- ``<!-- test: elsewhere; REASON -->``: another test executes it.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import matplotlib.font_manager  # noqa: F401 - its list of fonts is written at the first import: not into a test's cache
import pytest
import torch

from robusteval.cells import check, expand, tasks_of
from robusteval.cli import app, main
from robusteval.cli.cards import markdown_table
from robusteval.config import load_suite, narrowed, parse_suite
from robusteval.methods import METHODS
from robusteval.tasks import TASKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md")])

TINY = [
    *("--limit", "128", "--threads", "1", "--set", "training.epochs=1", "--set", "tasks.corruption.limit=20"),
    *("--set", "tasks.pgd.steps=2", "--set", "tasks.pgd.limit=20", "--set", "tasks.pgd.checked=0"),
]
"""Options with which the suite quick takes seconds."""

README_ONLY_PARSED = {
    "robusteval run": "trains for minutes; docs/index.md has the same, executed",
    "robusteval eval resnet20": "needs the complete CIFAR-10 and a published checkpoint",
    "robusteval run mine.toml": "needs the complete CIFAR-10",
    "robusteval run methods": "trains for half an hour",
}


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and what the comment before it says."""

    language: str
    text: str
    how: str = ""


def blocks_of(text):
    """The fenced blocks of a page, in order."""
    found = re.findall(r"(?:<!-- test: ([^>]*) -->\n)?^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(language, block, how) for how, language, block in found]


def commands_of(block):
    """The command lines of a block, without comments, one for each ``&&``."""
    if block.language not in ("", "bash", "console", "sh"):
        return []
    lines = block.text.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.removeprefix("$ ").split(" #")[0].split("&&")]
    return [part for part in parts if part.startswith(("robusteval ", "pytest "))]


def own_module(name):
    """A module of the docs folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


generated = own_module("generated")
MADE = {DOCS / path for path in generated.generated()} | {DOCS / "tour.md"}
COMMANDS = [
    pytest.param(command, id=f"{page.stem}: {command}")
    for page in PAGES
    for block in blocks_of(page.read_text(encoding="utf-8"))
    for command in commands_of(block)
    if command.startswith("robusteval")
]


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 50
    assert "robusteval run" in [command for block in blocks_of(README) for command in commands_of(block)]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse_and_their_suites_resolve(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, bound, _ = app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)
    given = bound.arguments
    name = given.get("suite", "quick")
    if function.__name__ == "run" and not name.endswith(".toml"):
        check(load_suite(name, given.get("settings", ())))
        chosen = narrowed(load_suite(name, given.get("settings", ())), only=given.get("only", ()))
        assert expand(chosen)


def test_inline_commands_name_commands_that_exist():
    known = {name for name in app if not name.startswith("-")}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = {*re.findall(r"`robusteval ([a-z]+)", text)}
        if page.name == "README.md":
            named |= {*re.findall(r"^\| `([a-z]+)[ `]", README, re.MULTILINE)} - {*METHODS}
            assert {"run", "eval", "show", "doctor"} <= named
        assert named <= known, page.name


def test_every_command_has_a_page_with_all_its_options():
    asked = {
        name
        for page in DOCS.glob("guide/*.md")
        for name in re.findall(r"<!-- options: ([a-z ]+) -->", page.read_text(encoding="utf-8"))
    }
    commands = {name for name in app if not name.startswith("-")}
    inner = {f"data {name}" for name in app["data"] if not name.startswith("-")}
    assert asked == (commands - {"data"}) | inner
    for name in sorted(asked):
        table = generated.command_table(name)
        command = app
        for word in name.split():
            command = command[word]
        for argument in command.assemble_argument_collection(default_parameter=app.default_parameter):
            assert f"`{argument.names[0]}" in table, (name, argument.names)
        rows = table.splitlines()[2:]
        assert all(re.search(r"\| [^|]+ \|$", row) for row in rows), f"{name}: an option without a meaning"


def test_methods_and_tasks_have_pages_with_all_their_options():
    pages = generated.generated()
    for folder, registry in (("methods", METHODS), ("tasks", TASKS)):
        assert {path for path in pages if path.startswith(folder)} == {
            f"{folder}/{name}.md" for name in [*registry, "index"]
        }
        for name, kind in registry.items():
            page = pages[f"{folder}/{name}.md"]
            assert all(f"| `{option.name}` |" in page for option in fields(kind)), name
            assert f"({name}.md)" in pages[f"{folder}/index.md"]
    for name, kind in METHODS.items():
        card, page = kind.card, pages[f"methods/{name}.md"]
        assert card.url in page
        assert page.count("\n- ") == len(card.deviations), name
        assert all(f"{100 * one.value:.2f}" in page for one in card.published)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_suites_and_data_on_the_pages_parse(page):
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.language == "toml":
            table = tomllib.loads(block.text)
            fragment = {"name": "page", "datasets": ["cifar10"], "architectures": ["resnet8"], "seeds": [0]}
            suite = parse_suite(fragment | {"methods": [{"name": "standard"}]} | table, page.name)
            check(suite)
            assert expand(suite)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            yaml = pytest.importorskip("yaml", reason="PyYAML comes with the extra [docs]")
            assert yaml.safe_load(block.text)


def test_commands_within_workflows_parse():
    text = (DOCS / "use-it-in-ci.md").read_text(encoding="utf-8")
    found = re.findall(r"(?:run|entry): (robusteval .*)$", text, re.MULTILINE)
    assert len(found) == 2
    for command in found:
        app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


def test_the_suite_of_the_readme_resolves():
    (text,) = [block.text for block in blocks_of(README) if block.language == "toml"]
    suite = parse_suite(tomllib.loads(text), "README.md")
    assert len(expand(suite)) == 12
    assert [task.name for task in tasks_of(suite)] == ["clean", "corruption", "pgd"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        path = Path(os.path.normpath(page.parent / target))
        assert path.exists() or path in MADE, f"{page.name}: {target}"


def test_the_methods_of_the_readme_are_those_that_ls_prints():
    """``robusteval ls methods --markdown`` prints what belongs between the markers."""
    (block,) = re.findall(r"^<!-- methods -->$(.*?)^<!-- /methods -->$", README, re.DOTALL | re.MULTILINE)
    assert block.strip() == markdown_table()
    assert re.findall(r"^\| `(\w+)` \|", block, re.MULTILINE) == list(METHODS)


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert not re.search(r"\b[A-Z]+_TABLE\b|\bTBD\b", page.read_text(encoding="utf-8")), page.name


def test_comments_for_the_tests_are_all_understood():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        hows = [block.how for block in blocks_of(text) if block.how]
        assert len(hows) == text.count("<!-- test:"), f"{page.name}: a comment that is not right before a block"
        for how in hows:
            word, _, rest = how.partition(" ")
            assert word in ("tiny", "with", "file") or (word in ("parsed;", "elsewhere;") and rest), how


SITE = os.environ.get("ROBUSTEVAL_SITE")
needs_site = pytest.mark.skipif(SITE is None, reason="ROBUSTEVAL_SITE names no built site; `tox -e docs` builds one")


@needs_site
def test_the_site_has_every_page_and_asks_no_other_host():
    site = Path(SITE)
    pages = {str(page.relative_to(DOCS)) for page in [*DOCS.glob("**/*.md"), *MADE]}
    for page in pages:
        built = site / ("index.html" if page == "index.md" else re.sub(r"(/index)?\.md$", "/index.html", page))
        text = built.read_text(encoding="utf-8")
        assert "<!-- options:" not in text, page
        # Whatever a browser fetches by itself; ordinary links may lead anywhere.
        fetched = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"' >]+)", text)
        links = re.findall(r"<link\b[^>]*>", text)
        fetched += [found[1] for link in links if (found := re.search(r"\bhref=[\"']?([^\"' >]+)", link))]
        assert fetched, page
        assert not [address for address in fetched if re.match(r"(?:[a-z]+:)?//", address)], page
    for sheet in site.glob("**/*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), sheet.name
    assert len(pages) >= len(METHODS) + len(TASKS) + 25


@pytest.fixture
def calm():
    """Undoes what commands set for the process."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with the results of two methods, made by the first command of the quick start, made tiny."""
    folder = tmp_path_factory.mktemp("docs") / "results"
    assert main(["run", "--only", "standard", "--only", "entprop", *TINY, "--out", str(folder), "--quiet"]) == 0
    return folder


def executed(how, command):
    """A command as it is executed, or None where it is only parsed."""
    word, _, rest = how.partition(" ")
    if word == "parsed;":
        return None
    words = shlex.split(command)
    added = shlex.split(rest) if word in ("tiny", "with") else []
    return words + added + (TINY if word == "tiny" else [])


@pytest.mark.slow
@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks_of(page.read_text(encoding="utf-8"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_blocks_of_a_page_run_in_its_order(page, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROBUSTEVAL_DATA", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)  # `open` must not open anything
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(finished, "results")
    (run,) = Path("results/runs").glob("*-standard-*")
    space = {"__name__": page.stem}
    if page.name == "README.md":
        few_images(monkeypatch)
        space |= {"model": tiny_network()}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        kind, _, rest = block.how.partition(" ")
        if kind == "file":
            Path(rest).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and kind != "elsewhere;":
            exec(compile(block.text, page.name, "exec"), space)
        for command in commands_of(block):
            if page.name == "README.md" and any(command.startswith(one) for one in README_ONLY_PARSED):
                continue
            words = executed(block.how, command.replace("RUN", run.name))
            if words is None:
                continue
            capsys.readouterr()
            code = main(words[1:]) if words[0] == "robusteval" else outcome_of_pytest(words[1:])
            assert code == 0, f"{command}\n{capsys.readouterr().err}"


def tiny_network():
    from robusteval.models import build

    return build("resnet8", classes=10, normalize="cifar10")


def few_images(monkeypatch):
    """README shows `evaluate` on all images."""
    from robusteval import evaluation

    whole = evaluation.load
    monkeypatch.setattr(evaluation, "load", lambda *given, **named: whole(*given, **named).first(32))


def outcome_of_pytest(words):
    """The exit code of pytest in a process of its own, with the plugin as an installation has it."""
    installed = any(
        entry.value == "robusteval.pytest_plugin" for entry in importlib.metadata.entry_points(group="pytest11")
    )
    plugin = [] if installed else ["-p", "robusteval.pytest_plugin"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", *plugin, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("1 skipped" if "--robusteval-update" in words else "1 passed") in done.stdout, done.stdout + done.stderr
    return done.returncode


@pytest.mark.slow
@pytest.mark.usefixtures("calm")
def test_the_notebook_runs_and_is_stored_without_outputs():
    path = DOCS / "tour.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
    shown = own_module("notebook").executed(path)
    printed = "\n".join(cell.printed for cell in shown.cells)
    assert len(shown.figures) == 1
    assert "report: results/leaderboard.html" in printed
    assert re.search(r"clean +accuracy +0\.\d+", printed)
    assert {"standard", "entprop"} <= set(re.findall(r"\w+", printed))
