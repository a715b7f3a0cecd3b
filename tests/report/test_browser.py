"""The page in a real browser, opened from its file: every control, both themes, keys alone, nothing fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from robusteval.records import Reason
from robusteval.report import write_report
from robusteval.report.page.html import page_text
from robusteval.stats import compare_scores, difference_interval
from robusteval.store import StoredRun
from robusteval.tags import Label, write_label

NAMES = ("chromium", "chromium-browser", "google-chrome")


def _runs(path: str) -> bool:
    """Whether it is a browser: some systems have a stand-in that only says where to get one."""
    return subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0


BROWSER = next((path for name in NAMES if (path := shutil.which(name)) and _runs(path)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
driver = pytest.importorskip("playwright.sync_api", reason="Playwright, which drives the browser, is not installed")

ORDER = ["entprop", "mixup", "advprop", "standard", "pgd_at", "mixup-a02", "advprop-lr1"]
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Opens a report in a window of its own; afterwards nothing must have been said or fetched."""
    contexts, said, fetched = [], [], []

    def opened(folder: Path, *, hash_: str = "", **options: Any) -> Any:
        context = chromium.new_context(**({"viewport": WIDE} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto((folder / "leaderboard.html").as_uri() + hash_)
        return page

    yield opened
    assert said == []
    assert {url.split("#")[0].rsplit("/", 1)[-1] for url in fetched} <= {"leaderboard.html"}
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def compared(ranked: list[StoredRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose rows can be compared image by image."""
    return write_report(tmp_path_factory.mktemp("compared"), ranked).parent


def names(page: Any) -> list[str]:
    """The methods of the leaderboard that can be seen, from top to bottom."""
    found: list[str] = page.evaluate(
        """[...document.querySelector('.board').tBodies].filter((body) => body.offsetHeight)
            .map((body) => body.rows[0].cells[2].dataset.v)"""
    )
    return found


def headings(page: Any) -> list[str]:
    """The keys of the columns that can be seen."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('.board [data-k]')].filter((h) => h.offsetWidth).map((h) => h.dataset.k)"
    )
    return found


def settled(page: Any, pattern: str) -> None:
    """Waits until the address says so."""
    page.wait_for_function("(pattern) => new RegExp(pattern).test(location.hash)", arg=pattern)


def unfold(page: Any) -> None:
    """Opens all there is to open, also what the page fetches from its own text when it is opened."""
    for _ in range(2):
        page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("noscript").count() == 0


def heading(page: Any, key: str) -> Any:
    return page.locator(f'.board th[data-k="{key}"]')


def test_headings_sort_and_missing_values_stay_last(open_page: Open, report: Path) -> None:
    page = open_page(report)
    missing = ["mixup-a02", "advprop-lr1"]
    assert names(page) == ORDER
    for key, order, expected in (
        ("PGD-20 Linf 8/255", "descending", ["pgd_at", "advprop", "entprop", "mixup", "standard", *missing]),
        ("PGD-20 Linf 8/255", "ascending", ["standard", "mixup", "entprop", "advprop", "pgd_at", *missing]),
        ("corruption_error_generated", "ascending", ["entprop", "mixup", "advprop", "standard", "pgd_at", *missing]),
        ("name", "ascending", sorted(ORDER)),
    ):
        heading(page, key).locator("button").click()
        assert heading(page, key).get_attribute("aria-sort") == order
        assert names(page) == expected
        assert page.locator("[aria-sort$=ending]").count() == 1
    page.locator("button[type=reset]").click()
    page.wait_for_function("document.querySelector('[aria-sort$=ending]') === null")
    assert names(page) == ORDER


def test_search_finds_names_and_papers(open_page: Open, report: Path) -> None:
    page = open_page(report)
    count = page.locator(".tools output")
    assert count.text_content() == "9 of 9 rows shown"
    page.keyboard.press("/")
    page.keyboard.type("enomoto")  # of the paper alone
    assert names(page) == ["entprop"]
    assert count.text_content() == "2 of 9 rows shown"
    page.keyboard.press("Escape")
    assert (names(page), page.locator("[name=q]").input_value()) == (ORDER, "")
    page.keyboard.type("MIXUP resnet20")
    assert names(page) == ["mixup", "mixup-a02"]
    page.keyboard.type(" nothing")
    assert names(page) == []


def test_filters(open_page: Open, report: Path) -> None:
    page = open_page(report)
    assert page.locator(".tools label:visible select").evaluate_all("(all) => all.map((one) => one.name)") == [
        "method", "branches", "trust",
    ]  # fmt: skip
    page.locator("[name=branches]").select_option("several")
    assert names(page) == ["entprop", "advprop", "advprop-lr1"]
    page.locator("[name=trust]").select_option("unchecked")
    assert names(page) == ["entprop", "advprop"]
    page.locator("[name=method]").select_option("advprop")
    assert names(page) == ["advprop"]
    assert page.locator(".board .other:visible").count() == 1
    page.locator("[name=deployed]").check()
    assert page.locator(".board .other:visible").count() == 0
    assert page.locator(".tools output").text_content() == "1 of 9 rows shown"


def test_tags_are_a_filter_and_are_found(open_page: Open, make: SimpleNamespace, tmp_path: Path) -> None:
    stored = [make.run(name, {"main": (0.7, 1.0, 0.1)}, tasks=("clean",)) for name in ("a", "b")]
    runs = [make.kept(tmp_path / "runs" / run.run.label, run) for run in stored]
    write_label(runs[1].folder, Label(tags=("<b>thesis</b>",), note="for chapter 4"))
    page = open_page(write_report(tmp_path, runs).parent)
    page.locator("[name=tags]").select_option("<b>thesis</b>")
    assert names(page) == ["b"]
    page.locator("button[type=reset]").click()
    page.locator("[name=q]").fill("thesis")
    assert names(page) == ["b"]
    page.locator(".board tbody a:visible").click()
    assert page.locator("details[open]").get_by_text("for chapter 4").is_visible()


def test_data_sets_are_a_filter(open_page: Open, make: SimpleNamespace, tmp_path: Path) -> None:
    runs = [make.run(name, {"main": (0.7, 1.0, 0.1)}, id=name, dataset=name, tasks=("clean",)) for name in ("b1", "b2")]
    page = open_page(write_report(tmp_path, runs).parent)
    page.locator("[name=set]").select_option("b2")
    assert page.locator("table.board:visible").count() == 1
    assert page.locator("#board-2").is_visible()
    settled(page, "set=1")


def test_columns_are_chosen_and_remembered(open_page: Open, report: Path) -> None:
    page = open_page(report)
    every = headings(page)
    assert every[:3] == ["rank", "name", "clean_accuracy"]
    page.locator(".menu summary").click()
    page.get_by_label("H-score (generated)").uncheck()
    page.get_by_label("Checks and data").uncheck()
    gone = {"h_score_generated", "trust"}
    assert headings(page) == [key for key in every if key not in gone]
    cells = page.locator(".board tbody tr").first.locator("td:visible, th:visible").count()
    assert cells == len(every) - len(gone) + 1  # and the box that ticks
    assert page.locator(".groups th:visible").all_text_contents() == ["Scores, %", "Cost of training"]
    page.goto(page.url.split("#")[0])
    assert headings(page) == [key for key in every if key not in gone]
    page.locator(".menu summary").click()
    page.locator("[name=usual]").click()
    assert headings(page) == every


def test_narrow_windows_show_fewer_columns_first(open_page: Open, report: Path) -> None:
    page = open_page(report, viewport=NARROW)
    minor = {"corruption_error_generated", "attack_time", "data_time", "memory", "parameters"}
    assert not minor & {*headings(page)}
    assert {"clean_accuracy", "flops", "trust"} <= {*headings(page)}
    page.locator("#corruptions-1").scroll_into_view_if_needed()
    page.locator(".heat").wait_for()
    page.wait_for_function("() => !document.querySelector('.heat').closest('section').querySelector('.hint').hidden")
    hints = page.locator(".hint").evaluate_all(
        "(all) => all.map((hint) => [hint.hidden, hint.nextElementSibling.className])"
    )
    assert hints == [[False, "scroll more"]] * 2
    name = page.locator(".board tbody th").first
    before = name.bounding_box()["x"]
    page.locator(".scroll").first.evaluate("(box) => { box.scrollLeft = 300; }")
    assert 0 <= name.bounding_box()["x"] < before  # it stays in sight


def test_the_address_holds_the_view(open_page: Open, compared: Path) -> None:
    page = open_page(compared)
    page.locator("[name=q]").fill("prop")
    heading(page, "flops").locator("button").click()
    page.locator(".menu summary").click()
    page.get_by_label("Time", exact=True).uncheck()
    page.keyboard.press("Escape")
    page.get_by_label("Compare entprop").check()
    page.get_by_label("Compare advprop", exact=True).check()
    settled(page, "compare=.*compare=")
    view = [names(page), headings(page), page.locator(".versus").inner_text()]
    again = open_page(compared, hash_=page.evaluate("location.hash"))
    assert [names(again), headings(again), again.locator(".versus").inner_text()] == view
    assert again.locator("[name=q]").input_value() == "prop"
    assert heading(again, "flops").get_attribute("aria-sort") == "ascending"


def of_table(page: Any) -> dict[str, list[str]]:
    """The table of the comparison: score -> cells."""
    lines = page.locator(".versus table").first.locator("tbody tr")
    return {
        line.locator("th").inner_text(): [text.replace("\n", " ") for text in line.locator("td").all_inner_texts()]
        for line in lines.all()
    }


def in_points(*values: float) -> list[str]:
    """Differences the way that the page writes them."""
    return [f"{value:+.2f}".replace("-", "\N{MINUS SIGN}") for value in (round(100 * value, 2) for value in values)]


def test_two_rows_are_compared_image_by_image(open_page: Open, compared: Path, ranked: list[StoredRun]) -> None:
    page = open_page(compared)
    page.get_by_label("Compare advprop", exact=True).check()
    assert not page.locator(".versus").is_visible()
    page.get_by_label("Compare pgd_at").check()
    shown = of_table(page)
    runs = [next(run for run in ranked if run.run.label == label) for label in ("advprop", "pgd_at")]
    tasks = [{task.task: task for task in run.tasks} for run in runs]

    def scores(place: int, task: str, metric: str) -> np.ndarray[Any, Any]:
        kept = [
            m.outcomes for m in tasks[place][task].measurements if m.metric == metric and m.where["branch"] == "main"
        ]
        return np.stack([runs[place].outcomes(tasks[place][task].key, str(key)) for key in kept])

    for label, task, metric in (
        ("Clean accuracy", "clean", "accuracy"), ("PGD-20 Linf 8/255", "pgd", "robust_accuracy"),
    ):  # fmt: skip
        a, b = scores(0, task, metric)[0], scores(1, task, metric)[0]
        only = int((a & ~b).sum()), int((b & ~a).sum())
        low, high = (float(end) for end in difference_interval(*map(np.array, only), len(a), 0.95))
        p = float(f"{binomtest(only[0], sum(only)).pvalue:.1e}")
        difference, ends = (a.mean() - b.mean()), in_points(low, high)
        assert shown[label][2] == f"{in_points(difference)[0]} {ends[0]} to {ends[1]}"
        assert float(shown[label][3]) == p
        winner = ("advprop" if difference > 0 else "pgd_at") + " is better"
        assert shown[label][4] == (winner if p <= 0.05 else "not distinguishable at 1,000 images")
    means = np.stack([scores(place, "corruption", "accuracy").mean(axis=0) for place in (0, 1)])
    found = compare_scores(means)
    ends = in_points(found.low[0, 1], found.high[0, 1])
    assert (
        shown["Corruption accuracy (generated)"][2] == f"{in_points(found.difference[0, 1])[0]} {ends[0]} to {ends[1]}"
    )
    turned = in_points(-found.difference[0, 1], -found.high[0, 1], -found.low[0, 1])
    assert shown["Corruption error (generated)"][2] == f"{turned[0]} {turned[1]} to {turned[2]}"
    assert shown["Corruption error (generated)"][3:] == shown["Corruption accuracy (generated)"][3:]
    assert shown["Corruption error (generated)"][4].endswith(" is better")
    text = page.locator(".versus").inner_text()
    flops = [run.run.cost.flops for run in runs if run.run.cost]
    assert f"FLOPs of training {flops[0] / flops[1]:.3g}" in text
    assert re.search(r"Options: epsilon\s+\N{EN DASH}\s+8/255", text)


def test_the_order_of_ticks_turns_the_signs(open_page: Open, compared: Path) -> None:
    page = open_page(compared)
    for label in ("Compare pgd_at", "Compare standard"):
        page.get_by_label(label).check()
    one = of_table(page)["Clean accuracy"]
    page.get_by_label("Compare pgd_at").uncheck()
    page.get_by_label("Compare pgd_at").check()
    other = of_table(page)["Clean accuracy"]
    assert [other[1], other[0], other[3:]] == [one[0], one[1], one[3:]]
    plain = [re.sub(r"[^0-9.]+", " ", cells[2]).split() for cells in (one, other)]
    assert plain[0] == [plain[1][0], plain[1][2], plain[1][1]]
    assert one[2][0] != other[2][0]
    page.get_by_label("Compare advprop", exact=True).check()  # the third lets the first go
    assert page.locator(".board input:checked").count() == 2
    assert page.locator(".versus h2").inner_text() == "pgd_at against advprop"


def test_what_cannot_be_compared_says_why(open_page: Open, compared: Path) -> None:
    page = open_page(compared)
    page.get_by_label("Compare mixup-a02").check()
    page.get_by_label("Compare standard").check()
    shown = of_table(page)
    assert shown["PGD-20 Linf 8/255"][4] == "not compared: not measured of mixup-a02"
    assert "other attacks, corruptions or generator versions do not compare" in page.locator(".versus").inner_text()


def test_rows_that_do_not_compare_are_warned_of(open_page: Open, make: SimpleNamespace, tmp_path: Path) -> None:
    stored = [make.run(name, {"main": (share, 1.0, 0.1)}, tasks=("clean",)) for name, share in (("a", 0.5), ("b", 0.6))]
    origin = stored[1].run.provenance.model_copy(update={"cpu": "another"})
    data = stored[1].run.train_data.model_copy(update={"digest": "5a" * 32})
    moved = stored[1].run.model_copy(update={"provenance": origin, "train_data": data, "architecture": "resnet8"})
    test = make.TEST.model_copy(update={"digest": "3f" * 32})
    tasks = make.tasks({"main": (0.6, 1.0, 0.1)}, ("clean",), test)
    runs = [stored[0], StoredRun(stored[1].folder, moved, stored[1].history, tasks)]
    kept = [make.kept(tmp_path / "runs" / run.run.label, run) for run in runs]
    page = open_page(write_report(tmp_path, kept).parent)
    for label in ("Compare a", "Compare b"):
        page.get_by_label(label).check()
    assert page.locator(".caution").all_inner_texts() == [
        "Clean accuracy was measured on other images.",
        "They were trained on other images.",
        "They are of different architectures.",
        "They ran on different machines: seconds do not compare.",
    ]
    assert of_table(page)["Clean accuracy"][2:] == ["", "", "not compared: other images"]
    assert "time of training" not in page.locator(".versus").inner_text()


def test_seeds_are_told(open_page: Open, compared: Path) -> None:
    page = open_page(compared)
    for label in ("Compare entprop", "Compare mixup"):
        page.get_by_label(label, exact=True).check()
    assert of_table(page)["Clean accuracy"][4] == "not distinguishable at 1,000 images, 2 and 2 seeds"


def test_everything_is_reached_by_keys_alone(open_page: Open, compared: Path) -> None:
    page = open_page(compared)
    press = page.keyboard.press

    def focused() -> str:
        return str(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"))

    def walk(to: str, key: str = "Tab") -> None:
        for _ in range(80):
            press(key)
            if focused() == to:
                break
        assert focused() == to
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline not in ("none", ""), to

    walk("Columns")
    press("Enter")
    press("Tab")
    press("Space")  # the first column, the rank
    assert "rank" not in headings(page)
    press("Escape")
    assert focused() == "Columns"
    walk("Clean accuracy")
    press("Enter")
    assert heading(page, "clean_accuracy").get_attribute("aria-sort") == "descending"
    walk("Compare mixup")
    press("Space")
    walk("Compare standard")
    press("Space")
    assert "Comparing mixup with standard" in page.locator(".tools .sr[role=status]").inner_text()
    press("Enter")
    assert focused() == "Close"
    press("Escape")
    assert not page.locator(".versus").is_visible()
    assert focused() == "Compare standard"
    press("/")
    page.keyboard.type("adv")
    assert names(page) == ["advprop", "advprop-lr1"]
    page.locator("#run-1 summary").first.focus()
    press("Enter")
    assert page.locator("#run-1").evaluate("(one) => one.open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_changes_page_and_figures(open_page: Open, report: Path, scheme: str) -> None:
    page = open_page(report, color_scheme=scheme)
    inks = {"light": "rgb(27, 31, 36)", "dark": "rgb(230, 233, 236)"}
    papers = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}
    for theme in (scheme, "dark" if scheme == "light" else "light"):
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == papers[theme]
        texts = "[...document.querySelectorAll('figure text')].map((text) => getComputedStyle(text).fill)"
        assert inks[theme] in page.evaluate(texts)
        page.locator(".theme").click()


def test_the_best_is_bolder_than_the_rest(open_page: Open, report: Path) -> None:
    page = open_page(report)
    weight = "(all) => all.map((one) => Number(getComputedStyle(one).fontWeight))"
    assert min(page.locator(".board .best b").evaluate_all(weight)) >= 700
    assert max(page.locator(".board td:not(.best), .board td:not(.best) *").evaluate_all(weight)) <= 650  # a doubt
    assert {*page.locator(".board td.tied b, .board tr:not(.sub) td:nth-child(5)").evaluate_all(weight)} == {500}
    assert {*page.locator(".board td small, .board .sub td").evaluate_all(weight)} == {400}


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_page_with_everything_unfolded_does_not_scroll_sideways(
    open_page: Open, full_report: Path, size: dict[str, int]
) -> None:
    page = open_page(full_report, viewport=size)
    unfold(page)
    page.add_style_tag(content="section { content-visibility: visible !important }")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    inside = """(all) => all.map((one) => {
        const [inner, outer] = [one, one.closest('.set > section, .runs')].map((part) => part.getBoundingClientRect());
        return inner.left >= outer.left && inner.right <= outer.right;
    })"""
    skipped = ":is(.set > section + section, .runs) :is(figure > svg, .scroll)"  # a browser cuts them at the edges
    assert {*page.locator(skipped).evaluate_all(inside)} == {True}


def test_links_open_the_details(open_page: Open, report: Path) -> None:
    page = open_page(report)
    page.locator(".board tbody a").nth(1).click()
    page.wait_for_function("document.getElementById('run-2').open")
    page.locator("#run-2 > summary").click()
    page.locator(".board tbody a").nth(1).click()  # to where the address is already
    page.wait_for_function("document.getElementById('run-2').open")


def test_a_map_of_severities_is_coloured_when_it_is_seen(open_page: Open, report: Path) -> None:
    plain = open_page(report, java_script_enabled=False).locator("#run-1 pre").text_content()
    text = [line.split() for line in plain.strip().splitlines()]
    page = open_page(report)
    run = page.locator("#run-1")
    assert page.locator("#run-1 .heat").count() == 0
    run.locator("> summary").click()
    assert page.locator("#run-1 .heat").count() == 1
    assert run.locator("pre").count() == 0
    cells = run.locator(".heat tbody tr").evaluate_all(
        "(all) => all.map((tr) => [...tr.cells].map((td) => td.textContent))"
    )
    assert [list(column) for column in zip(*cells, strict=True)] == [
        ["1", "2", "3", "4", "5"],
        *(line[1:] for line in text[1:]),
    ]
    steps = run.locator(".heat td").evaluate_all(
        "(all) => all.map((td) => [Number(td.textContent), Number(td.className.slice(1))])"
    )
    low, high = min(value for value, _ in steps), max(value for value, _ in steps)
    assert all(abs(step - 20 * (value - low) / (high - low)) <= 0.5 + 1e-9 for value, step in steps)


def test_without_scripts_the_tables_stay_readable(open_page: Open, report: Path) -> None:
    page = open_page(report, java_script_enabled=False)
    assert page.locator(".board tbody th:visible").count() == 9
    assert page.locator(".board thead th[data-k]:visible").count() == 15
    assert not page.locator(".tools").is_visible()
    page.locator("#run-1 > summary").click()
    assert page.locator("#run-1 table").first.is_visible()
    assert page.locator("#run-1 pre").is_visible()
    assert page.locator(".set .heat tbody tr:visible").count() == 7
    assert not page.locator(".blocked").is_visible()


@pytest.fixture(scope="module")
def crowd(make_session: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of more rows than are laid out at once; every second one has another branch."""
    branches = ({"main": (0.7, 1.0, 0.1)}, {"main": (0.7, 1.0, 0.1), "aux": (0.6, 1.0, 0.2)})
    runs = [
        make_session.run("mixup", branches[i % 2], label=f"mixup{i:03}", options={"alpha": i}, id=f"r{i}")
        for i in range(200)
    ]
    folder = tmp_path_factory.mktemp("crowd")
    (folder / "leaderboard.html").write_text(page_text(runs), "utf-8")
    return folder


def test_a_crowd_opens_with_little_to_lay_out(open_page: Open, crowd: Path) -> None:
    """What opening costs is elements, and of these the ones that are laid out: counted, since seconds would vary."""
    page = open_page(crowd)
    count = "document.querySelectorAll('*').length"
    first, rows = page.evaluate(count), 200
    board = page.evaluate("document.querySelectorAll('.board *').length")
    assert board < 60 * rows  # with the lines of other branches
    assert first - board < 10 * rows + 2_500
    assert page.locator(".board tbody:visible").count() == 60
    assert page.locator(".set .heat, .run .parts").count() == 0
    page.evaluate("document.getElementById('run-3').open = true")
    assert page.locator("#run-3 .parts").is_visible()
    assert page.evaluate(count) - first < 400
    assert page.locator("noscript").count() == 200  # the map of all runs, and 199 others


def test_a_crowd_is_laid_out_as_far_as_one_looks(open_page: Open, crowd: Path) -> None:
    page = open_page(crowd)
    every = sorted(f"mixup{i:03}" for i in range(200))
    heading(page, "name").locator("button").click()
    assert names(page) == every[:60]
    heading(page, "name").locator("button").click()
    assert names(page) == every[:-61:-1]
    page.locator("[name=q]").fill("mixup1")  # a hundred
    assert names(page) == every[199:139:-1]
    page.locator("[name=q]").fill("mixup07")
    assert names(page) == every[79:69:-1]
    page.locator("button[type=reset]").click()
    page.wait_for_function("() => document.querySelector('[aria-sort$=ending]') === null")
    assert len(names(page)) == 60
    for left in (80, 20, 0):
        page.locator(".board tbody:visible").last.scroll_into_view_if_needed()
        page.wait_for_function("(left) => document.querySelectorAll('.far').length <= left", arg=left)
    assert len(names(page)) == 200


def test_a_tall_window_is_filled_when_the_search_is_cleared(open_page: Open, crowd: Path) -> None:
    page = open_page(crowd, hash_="#q=mixup07", viewport={"width": 1440, "height": 6000})
    assert len(names(page)) == 10
    page.locator("[name=q]").fill("")
    page.wait_for_function("() => document.querySelector('.board').getBoundingClientRect().bottom > innerHeight")


def test_keys_reach_every_row_of_a_crowd(open_page: Open, crowd: Path) -> None:
    page = open_page(crowd, viewport=NARROW)
    page.locator(".board tbody a:visible").first.focus()
    seen = []
    while (href := page.evaluate("document.activeElement.getAttribute('href')")) or len(seen) < 2:
        seen += [href] * (href is not None and href.startswith("#run-"))
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type === 'checkbox'"):
            page.keyboard.press("Tab")
    assert seen == [f"#run-{i}" for i in range(1, 201)]


def test_what_waits_is_there_to_be_searched_and_printed(open_page: Open, crowd: Path) -> None:
    page = open_page(crowd)
    assert page.locator("noscript").count() == 201
    page.keyboard.press("Control+f")
    assert page.locator("noscript").count() == 0
    assert len(names(page)) == 200
    page = open_page(crowd)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator(".set .heat tbody tr:visible").count() == 300
    assert page.locator(".board tbody:visible").count() == 200


@pytest.mark.parametrize("allowed", [True, False])
def test_a_script_that_may_not_run_is_missed(chromium: Any, crowd: Path, tmp_path: Path, allowed: bool) -> None:
    text = (crowd / "leaderboard.html").read_text("utf-8").replace("blocked 0s 4s", "blocked 0s 0s")
    if not allowed:
        text = text.replace("script-src &#39;sha256-", "script-src &#39;sha384-")
    (tmp_path / "leaderboard.html").write_text(text, "utf-8")
    page = chromium.new_page(viewport=WIDE)
    page.goto((tmp_path / "leaderboard.html").as_uri())
    page.locator(".blocked").wait_for(state="detached" if allowed else "visible")
    page.close()


def test_paper_has_no_controls(open_page: Open, report: Path) -> None:
    page = open_page(report, color_scheme="dark")
    page.locator("#run-2 > summary").click()
    page.emulate_media(media="print", color_scheme="dark")
    assert not any(page.locator(one).is_visible() for one in (".tools", ".theme", "nav", "#run-1"))
    assert page.locator("#run-2").is_visible()
    assert page.locator(".board input:visible").count() == 0
    assert {*page.locator(".sort").evaluate_all("(all) => all.map((one) => getComputedStyle(one).display)")} == {
        "contents"  # the only way in which further pages have the headings, too
    }
    size = "(all) => all.map((one) => parseFloat(getComputedStyle(one).fontSize))"
    numbers, ends = (page.locator(one).evaluate_all(size) for one in (".board td", ".board td small"))
    assert max(ends) < min(numbers)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("example", ["compared", "full_report"])
def test_no_barrier_is_found(open_page: Open, example: str, scheme: str, request: pytest.FixtureRequest) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = open_page(request.getfixturevalue(example), color_scheme=scheme)
    unfold(page)
    page.add_style_tag(content="section { content-visibility: visible !important }")
    page.locator(".board input").first.check()
    page.locator(".board input").nth(1).check()
    found = axe.Axe().run(page).response
    assert [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found["violations"]] == []


MARKUP = (
    "<script>hit()</script>",
    "</script><script>hit()</script>",
    "<img src=x onerror=hit()>",
    '"><svg onload=hit()>',
    "' onmouseover='hit()' x='",
    "javascript:hit()",
    "{{ hit() }}",
    "</style><script>hit()</script>",
    "</title><script>hit()</script>",
    "--><script>hit()</script>",
    "</noscript><script>hit()</script>",
    "\u202eabc",
    "a\x00b\x1b[2J",
    "$\\foo$",
    "[/]",
    "=hit()",
    "x" * 10_000,
    "__proto__",
    "~&=#%<\u2028",
)


def test_a_thousand_hostile_names_run_nothing(open_page: Open, make: SimpleNamespace, tmp_path: Path) -> None:
    names = iter(f"{MARKUP[i % len(MARKUP)]}{i}" for i in range(1000))
    runs = []
    for _ in range(50):
        label, method, id_, branch, architecture, option, value, cpu, error, topic, evidence, text, *more = (
            next(names) for _ in range(20)
        )
        run = make.run(
            method,
            {branch: (0.5, 0.5, 0.1)},
            label=label,
            id=id_,
            tasks=("clean", "pgd"),
            deployed=branch,
            architecture=architecture,
            options={option: value},
            training={more[0]: [more[1]], more[6]: more[7]},
            error=error,
        )
        changes = {"cpu": cpu, "command": (more[2],), "packages": {more[3]: more[4]}}
        origin = run.run.provenance.model_copy(update=changes)
        reasons = (Reason(name=topic, evidence=evidence, text=text),)
        where = {"branch": branch} | ({more[6]: more[7]} if len(runs) < 3 else {})
        changes = {"trust": "flagged", "note": more[5], "reasons": reasons, "where": where}
        reason = run.tasks[0].measurements[0].model_copy(update=changes)
        tasks = (run.tasks[0].model_copy(update={"measurements": (reason,)}), *run.tasks[1:])
        runs.append(StoredRun(run.folder, run.run.model_copy(update={"provenance": origin}), run.history, tasks))
    assert next(names, None) is None
    cards = {
        run.run.method: dict.fromkeys(("title", "authors", "venue", "url", "summary"), run.run.label) for run in runs
    }
    (tmp_path / "leaderboard.html").write_text(page_text(runs, cards=cards), "utf-8")
    page = open_page(tmp_path)
    unfold(page)
    page.locator(".menu summary").click()
    page.keyboard.press("Escape")
    for place in (0, 7):
        page.locator(".board input").nth(place).check()
    assert page.locator(".versus").is_visible()
    settled(page, "compare=")
    again = open_page(tmp_path, hash_=page.evaluate("location.hash"))
    assert again.locator(".versus h2").inner_text() == page.locator(".versus h2").inner_text()
    page.locator("[name=method]").select_option(index=1)
    assert page.evaluate("document.scripts.length") == 2
    assert page.locator("img, iframe, [onload], [onerror], [onmouseover]").count() == 0
