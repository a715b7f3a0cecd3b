"""The page in a real browser: sorting, themes, no sideways scrolling, nothing on the console, nothing fetched."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

PROBE = """
const found = {errors: [], order: {}};
addEventListener("error", (event) => found.errors.push(event.message));
addEventListener("load", () => {
  const table = document.querySelector("table.board");
  const names = () => [...table.tBodies].map((body) => body.rows[0].cells[0].dataset.v);
  found.order.start = names();
  const weight = (selector) => [...table.querySelectorAll(selector)].map((cell) => getComputedStyle(cell).fontWeight);
  found.weights = {best: weight(".best .v"), other: weight("td:not(.best) .v")};
  const click = (column) => {
    const head = table.querySelector(`th[data-column="${column}"]`);
    const button = head.querySelector("button");
    button.focus();
    found.focused = document.activeElement === button;
    button.click();
    return [head.getAttribute("aria-sort"), table.querySelectorAll("[aria-sort$=ending]").length, names()];
  };
  found.order.pgd = click(5);
  found.order.pgdAgain = click(5);
  found.order.error = click(3);
  found.order.name = click(0);
  const paper = () => getComputedStyle(document.body).backgroundColor;
  found.papers = [paper()];
  document.querySelector(".theme").click();
  found.papers.push(paper());
  const texts = [...document.querySelectorAll("figure text")];
  found.inks = [...new Set(texts.map((text) => getComputedStyle(text).fill))];
  location.hash = "#run-2";
  setTimeout(() => {
    found.opened = document.getElementById("run-2").open;
    const hints = [...document.querySelectorAll(".hint")];
    found.hints = hints.map((hint) => [hint.hidden, hint.nextElementSibling.className]);
    found.width = [document.documentElement.scrollWidth, innerWidth];
    found.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
    const shown = document.createElement("pre");
    shown.textContent = JSON.stringify(found);
    document.body.replaceChildren(shown);
  }, 50);
});
"""


def dump(page: Path, profile: Path, width: int) -> str:
    """The page's elements after its scripts ran; nothing may be said on the console."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={profile}", f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(report: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a script sees that uses the page; the page's policy would not let it run, so the copy has none."""
    folder = tmp_path_factory.mktemp("browser")
    text = (report / "leaderboard.html").read_text("utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    page = folder / "page.html"
    page.write_text(text.replace("</head>", f"<script>{PROBE}</script></head>"), "utf-8")
    shown = dump(page, folder / "profile", 500)
    result: dict[str, Any] = json.loads(html.unescape(re.findall(r"<pre>(.*?)</pre>", shown, re.DOTALL)[0]))
    return result


def test_the_page_runs_under_its_policy(report: Path, tmp_path: Path) -> None:
    shown = dump(report / "leaderboard.html", tmp_path, 1440)
    assert re.search(r'aria-label="Switch to the \w+ theme">(Dark|Light)</button>', shown)


@pytest.mark.parametrize("width", [500, 1440])
def test_a_page_with_everything_unfolded_does_not_scroll_sideways(
    full_report: Path, tmp_path: Path, width: int
) -> None:
    text = re.sub(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", (full_report / "leaderboard.html").read_text()
    )
    measure = "document.title = [document.documentElement.scrollWidth, innerWidth].join(' of ')"
    script = f"<script>addEventListener('load', () => setTimeout(() => {{ {measure} }}, 50))</script>"
    page = tmp_path / "page.html"
    page.write_text(text.replace("<details", "<details open").replace("</head>", f"{script}</head>"), "utf-8")
    (found,) = re.findall(r"<title>(\d+) of (\d+)</title>", dump(page, tmp_path / "profile", width)[:5000])
    assert int(found[0]) <= int(found[1])


def test_headings_sort_and_missing_values_stay_last(found: dict[str, Any]) -> None:
    order = found["order"]
    missing = ["mixup-a02", "advprop-lr1"]
    assert order["start"] == ["entprop", "mixup", "advprop", "standard", "pgd_at", *missing]
    assert order["pgd"] == ["descending", 1, ["pgd_at", "advprop", "entprop", "mixup", "standard", *missing]]
    assert order["pgdAgain"] == ["ascending", 1, ["standard", "mixup", "entprop", "advprop", "pgd_at", *missing]]
    assert order["error"] == ["ascending", 1, ["entprop", "mixup", "advprop", "standard", "pgd_at", *missing]]
    assert order["name"] == ["ascending", 1, sorted(order["start"])]
    assert found["focused"]


def test_the_theme_changes_page_and_figures(found: dict[str, Any]) -> None:
    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 27)"
    assert set(found["papers"]) == {light, dark}
    ink = {dark: "rgb(230, 233, 236)", light: "rgb(27, 31, 36)"}[found["papers"][1]]
    assert ink in found["inks"]


def test_the_best_is_bolder_than_the_rest(found: dict[str, Any]) -> None:
    assert found["weights"]["best"]
    assert min(map(int, found["weights"]["best"])) >= 700
    assert max(map(int, found["weights"]["other"])) <= 500


def test_tables_wider_than_the_window_say_so(found: dict[str, Any]) -> None:
    assert found["hints"] == [[False, "scroll more"]] * 2


def test_links_open_the_details(found: dict[str, Any]) -> None:
    assert found["opened"]


def test_nothing_scrolls_sideways_and_nothing_is_fetched(found: dict[str, Any]) -> None:
    width, window = found["width"]
    assert width <= window
    assert found["requests"] == []
    assert found["errors"] == []
