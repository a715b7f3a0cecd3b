"""``open``: a browser gets the page's address, and nothing waits where there is none."""

import os
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

import robusteval

VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")


@pytest.fixture
def opened(monkeypatch):
    """The addresses that the browser was given."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return addresses


def page(folder: Path) -> Path:
    folder.mkdir()
    (folder / "leaderboard.html").write_text("<p>")
    return folder / "leaderboard.html"


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_page_is_opened_by_its_whole_quoted_address(cli, opened, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, ":0")
    path = page(tmp_path / "my results #1")
    assert cli("open", "--out", "my results #1") == (0, "my results #1/leaderboard.html\n", "")
    assert opened == [path.resolve().as_uri()]
    assert opened[0].endswith("my%20results%20%231/leaderboard.html")


@pytest.mark.parametrize(("platform", "asked"), [("linux", 0), ("darwin", 1), ("win32", 1)])
def test_without_a_display_no_browser_of_the_terminal_is_taken(cli, opened, tmp_path, monkeypatch, platform, asked):
    monkeypatch.setattr(sys, "platform", platform)
    path = page(tmp_path / "out")
    code, out, err = cli("open", "--out", path.parent)
    assert (code, out) == (0, f"{path}\n")
    assert err == ("" if asked else "no browser to open it with here\n")
    assert len(opened) == asked


def test_a_browser_that_cannot_be_started_is_told(cli, tmp_path, monkeypatch, opened):
    monkeypatch.setenv("BROWSER", "none")
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    path = page(tmp_path / "out")
    assert cli("open", "--out", path.parent) == (0, f"{path}\n", "no browser to open it with here\n")


def test_without_a_report_it_says_how_to_make_one(cli, opened, tmp_path):
    (tmp_path / "out" / "leaderboard.html").mkdir(parents=True)  # not a page either
    for folder in ("nowhere", "out"):
        code, out, err = cli("open", "--out", folder)
        assert (code, out) == (2, "")
        assert err == (
            f"error: open: {folder}/leaderboard.html: no report here; `robusteval report --out {folder}` writes one\n"
        )
    assert opened == []


def test_a_real_browser_gets_it(tmp_path):
    """Through the standard library and a process: BROWSER names a program that writes down what it is given."""
    path = page(tmp_path / "out")
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path / "given"}\n')
    program.chmod(0o755)
    environ = os.environ | {"BROWSER": str(program), "PYTHONPATH": str(Path(robusteval.__file__).parents[1])}
    command = [sys.executable, "-m", "robusteval", "open", "--out", str(path.parent)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (f"{path}\n", "")
    assert (tmp_path / "given").read_text() == path.as_uri()
