"""The page: complete, self-contained, escaped, the same for the same records."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robusteval.errors import UserError
from robusteval.records import Reason
from robusteval.report import write_report
from robusteval.report.board.leaderboard import leaderboard
from robusteval.report.board.rows import board
from robusteval.report.page.details import charts, transfers
from robusteval.report.page.html import page_text
from robusteval.report.page.sections import sections
from robusteval.store import StoredRun

GOLDEN = Path(__file__).parent / "golden"
VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page with their attributes and text, and whether tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "script" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attrs in self.elements for key, value in attrs.items() if key == name]


def read(folder: Path) -> str:
    return (folder / "leaderboard.html").read_text("utf-8")


def rows(text: str) -> list[list[str]]:
    """The leaderboard's body: the ``data-v`` of every cell from the name on."""
    body = text[text.index('<table class="board"') : text.index("</table>")]
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", body[body.index("<tbody>") :], re.DOTALL)
    return [
        re.findall(r'data-v="([^"]*)"', re.sub(r"^<td></td><td.*?</td>", "", row, flags=re.DOTALL)) for row in found
    ]


def test_page_is_the_golden_one(report: Path) -> None:
    """Byte for byte but for style, script, figures, the numbers of comparisons, and line breaks to read it by.

    ``ROBUSTEVAL_REFRESH=1 python -m pytest tests/report`` writes it anew.
    """
    text = re.sub(r"<(style|script)([^>]*)>.*?</\1>", r"<\1\2></\1>", read(report), flags=re.DOTALL)
    text = re.sub(r"<figure>.*?<figcaption>", "<figure><figcaption>", text, flags=re.DOTALL)
    text = re.sub(r"sha256-[A-Za-z0-9+/=]+", "sha256", text)
    text = text.replace("><", ">\n<")
    path = GOLDEN / "leaderboard.html"
    if os.environ.get("ROBUSTEVAL_REFRESH"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    assert text == path.read_bytes().decode()


def test_files(report: Path) -> None:
    names = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    tables = {f"leaderboard.{ending}" for ending in ("html", "csv", "md", "tex", "json")}
    plots = {
        "clean-vs-corruption-error-generated",
        "cost-vs-corruption-accuracy-generated",
        "cost-vs-pgd-20-linf-8-255",
        "pgd-20-linf-8-255-vs-clean-accuracy",
        "pgd-20-linf-8-255-vs-corruption-accuracy-generated",
        "heat-corruption-accuracy-generated",
        "training-loss",
        "training-accuracy",
    }
    endings = {name.rpartition(".")[2] for name in names if name.startswith("plots/")} - {"json"}
    assert endings >= {"svg", "png"}
    assert names == tables | {"leaderboard-long.csv", "plots/written.json"} | {
        f"plots/{name}.{ending}" for name in plots for ending in endings
    }


def test_same_records_same_bytes(
    report: Path, tmp_path: Path, runs: list[StoredRun], cards: dict[str, dict[str, Any]]
) -> None:
    again = write_report(tmp_path, runs[::-1], cards=cards).parent
    for path in sorted(report.rglob("*.*")):
        assert path.read_bytes() == (again / path.relative_to(report)).read_bytes(), path.name


def test_every_section_has_its_place_in_the_navigation(report: Path, full_report: Path) -> None:
    def sections_of(folder: Path) -> list[str]:
        text = read(folder)
        return re.findall(r'<a href="#([^"]+)">', text[text.index("<nav") : text.index("</nav>")])

    assert sections_of(report) == ["board-1", "figures-1", "corruptions-1", "runs", "definitions"]
    assert sections_of(full_report) == [
        "board-1", "published-1", "figures-1", "stopping-1", "corruptions-1", "runs", "definitions",
    ]  # fmt: skip
    assert re.findall(r'<h2 id="([^"]+)"', read(full_report)) == sections_of(full_report)


def test_figures_have_names(full_report: Path) -> None:
    text = read(full_report)
    figures = re.findall(r"<figure>\s*(<svg.*?)</figure>", text, re.DOTALL)
    assert len(figures) == 10
    for figure in figures:
        (label,) = re.findall(r'^<svg[^>]* role="img" aria-labelledby="([^"]+)"', figure)
        names = [re.findall(rf'<(?:title|desc) id="{name}">([^<]+)<', figure) for name in label.split()]
        assert all(len(name) == 1 for name in names)
    assert sum("<desc" in figure for figure in figures) == 3  # those of late stopping say their numbers


def test_nothing_is_fetched(report: Path) -> None:
    page = Page(read(report))
    assert not {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "embed", "base", "image"}
    assert page.attributes("src") == []
    assert page.attributes("srcset") == []
    outside = {address for address in page.attributes("href") + page.attributes("xlink:href") if address[:1] != "#"}
    assert outside == {"https://arxiv.org/abs/2405.18931"}  # the card's link; javascript: became text
    assert not re.search(r"@import|url\((?!#)", read(report))


@pytest.mark.parametrize("example", ["report", "full_report"])
def test_links_inside_the_page_have_a_target_and_ids_are_unique(example: str, request: pytest.FixtureRequest) -> None:
    page = Page(read(request.getfixturevalue(example)))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = {a[1:] for a in page.attributes("href") + page.attributes("xlink:href") if a[:1] == "#"}
    clips = {match for value in page.attributes("clip-path") for match in re.findall(r"url\(#([^)]+)\)", value)}
    labels = {label for value in page.attributes("aria-labelledby") for label in value.split()}
    assert targets | clips | labels <= set(ids)
    assert {"run-1", "definitions", "m-o"} <= targets


def test_only_our_script_may_run(report: Path) -> None:
    text = read(report)
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    assert json.loads(data).keys() == {"papers", "boards"}
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [value for value in Page(text).attributes("content") if "default-src" in value]
    assert policy.split("; ")[0] == "default-src 'none'"
    assert f"script-src 'sha256-{digest}'" in policy


def test_leaderboard_shows_the_numbers(report: Path) -> None:
    text, page = read(report), Page(read(report))
    table = rows(text)
    assert [row[0] for row in table if row and not re.match(r"[0-9.]+$", row[0])] == [
        "entprop", "mixup", "advprop", "standard", "pgd_at", "mixup-a02", "advprop-lr1",
    ]  # fmt: skip
    by_name = {row[0]: row for row in table}
    # clean, corrupted, error, H, PGD, passes, FLOPs, time, attack, data, memory, parameters
    assert by_name["pgd_at"][5:10] == ["0.252", "8", str(by_name["pgd_at"][7]), "276", "221"]
    assert float(by_name["pgd_at"][7]) == pytest.approx(17 / 3, abs=1e-4)
    assert by_name["mixup-a02"][1:7] == ["0.705", "", "", "", "", "1"]
    assert by_name["advprop-lr1"][1:] == [""] * 11 + ["272474"]
    assert "48.7 45.6–51.8" in page.text  # noqa: RUF001 - the interval as shown
    assert "1 main + 6 aux" in page.text
    assert "aux branch not deployed" in page.text
    assert "Failed advprop-lr1 , seed 0: train: loss is not finite (nan) at step 118 of epoch 3" in page.text
    assert "they are cifar10-c-gen, not the published CIFAR-10-C files" in page.text


def marks(text: str) -> dict[tuple[str, int], str]:
    """(method, place of the column) -> the mark of a cell."""
    found = {}
    for body in re.findall(r"<tbody>(.*?)</tbody>", text[text.index('<table class="board"') :], re.DOTALL):
        cells = re.findall(r"<t[dh][^>]*>", body[: body.index("</tr>")])
        name = re.findall(r'data-v="([^"]*)"', cells[2]) if len(cells) > 2 else []
        found |= {
            (name[0], i): mark[0] for i, cell in enumerate(cells) if (mark := re.findall(r'class="(best|tied)"', cell))
        }
    return found


def test_best_and_tied_are_marked(ranked: list[StoredRun]) -> None:
    found = leaderboard(ranked)
    (part,) = found.parts
    expected = {
        (group.head.stored.run.label, 3 + place): part.ranking.marks[id(group.head), column.key]
        for group in part.groups
        for place, column in enumerate(part.columns)
        if (id(group.head), column.key) in part.ranking.marks
    }
    assert marks(page_text(ranked)) == expected
    assert {*expected.values()} == {"best", "tied"}


def test_ranks_are_shown_with_what_is_open(ranked: list[StoredRun], report: Path) -> None:
    (part,) = leaderboard(ranked).parts
    body = page_text(ranked)
    cells = re.findall(r'<tr><td></td><td([^>]*)>(.*?)</td><th scope="row" data-v="([^"]+)"', body, re.DOTALL)
    shown = {name: Page(cell).text for _, cell, name in cells}
    every = [part.ranking.place(group.head) for group in part.groups]
    for group, place in zip(part.groups, every, strict=True):
        label = group.head.stored.run.label
        if place is None:
            assert shown[label] == "– missing: not compared image by image"  # noqa: RUF001 - as shown
        else:
            equal = sum(other is not None and other.best == place.best for other in every) > 1
            span = f" {place.best}–{place.worst}" if place.worst > place.best else ""  # noqa: RUF001 - as shown
            assert shown[label] == f"{'=' if equal else ''}{place.best}{span}"
    assert any(text.startswith("=") for text in shown.values())
    assert "by H-score" in Page(body).text
    # Without outcomes nothing can be compared.
    assert read(report).count("missing: not compared image by image") == 7


def test_every_heading_sorts(report: Path) -> None:
    text = read(report)
    head = text[text.index('<table class="board"') : text.index("</thead>")]
    assert re.findall(r'data-k="([^"]+)" data-first="(\w)', head) == [
        ("rank", "a"), ("name", "a"), ("clean_accuracy", "d"), ("corruption_accuracy_generated", "d"),
        ("corruption_error_generated", "a"), ("h_score_generated", "d"), ("PGD-20 Linf 8/255", "d"), ("passes", "a"),
        ("flops", "a"), ("time", "a"), ("attack_time", "a"), ("data_time", "a"), ("memory", "a"), ("parameters", "a"),
    ]  # fmt: skip
    assert head.count('<button type="button" class="sort"') == 14


def test_every_line_has_a_cell_per_column(report: Path, seeds: list[StoredRun]) -> None:
    for text in (read(report), page_text(seeds)):
        table = text[text.index('<table class="board"') : text.index("</table>")]
        lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table[table.index("</thead>") :], re.DOTALL)
        assert {len(re.findall(r"<t[dh]\b", line)) for line in lines} == {16}
        assert "colspan" not in table[table.index("</thead>") :]


def test_rows_are_counted_as_shown(report: Path, seeds: list[StoredRun]) -> None:
    for text, expected in ((read(report), "9 rows from 7 runs"), (page_text(seeds), "22 rows from 15 runs")):
        assert expected in Page(text).text
        assert f"{len([row for row in rows(text) if row])} rows" == expected[: expected.index(" from")]


def test_the_mean_comes_first_in_the_table_of_corruptions(report: Path, runs: list[StoredRun]) -> None:
    text = read(report)
    table = text[text.index('<table class="heat">') :]
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)[1:3] == ["mean", "gaussian noise"]
    line = next(row for row in board(runs).rows if row.stored.run.label == "entprop")
    mean = 100 * (line.value("corruption_accuracy_generated") or 0)
    body = table[table.index("<tbody>") :]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", body[: body.index("</tr>")])[0] == f"{mean:.1f}"


def test_details_of_a_run(report: Path, runs: list[StoredRun]) -> None:
    text = read(report)
    accuracy = 100 * next(stored for stored in runs if stored.run.label == "entprop").history[-1].logs["accuracy"]
    first, second = (text.index(f'<details class="run" id="run-{number}">') for number in (1, 2))
    part = Page(text[first:second]).text
    for expected in (
        "EntProp: High Entropy Propagation",
        "Enomoto, UAI 2024",
        "Pixels are clipped.",
        "1m 00s, 1.25× standard",  # noqa: RUF001 - the sign
        "aux 0.2 0.2",
        "loss_aux",
        "Training accuracy, %",
        f"accuracy {accuracy:.1f}",
    ):
        assert expected in part
    assert "<b>Adversarial</b>" in Page(text).text  # shown, not obeyed
    common = text[text.index("<summary>The same for all runs: ") :]
    told_once = Page(common[: common.index("</details>")]).text
    for expected in ("batch_size 128", "AMD EPYC 9654", "4,000 images of cifar10-sample"):
        assert expected in told_once
        assert expected not in part
    assert "epsilon 8/255" in Page(text).text


def test_every_corruption_at_every_severity(report: Path, runs: list[StoredRun]) -> None:
    text = read(report)
    part = text[text.index('<details class="run" id="run-1">') :]
    head, *lines = [line.split() for line in part[part.index("<pre>") + 5 : part.index("</pre>")].splitlines()]
    stored = next(stored for stored in runs if stored.run.label == "entprop")
    (task,) = (task for task in stored.tasks if task.task == "corruption")
    values = {
        (str(m.where["corruption"]), str(m.where["severity"])): f"{100 * (m.value or 0):.1f}"
        for m in task.measurements
        if m.metric == "accuracy" and m.where["branch"] == "main"
    }
    assert head == ["severity", "1", "2", "3", "4", "5"]
    assert [line[0] for line in lines][:4] == ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur"]
    assert {(line[0], step): cell for line in lines for step, cell in zip(head[1:], line[1:], strict=True)} == values


def test_reasons_lead_to_what_their_check_means(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.1)}, tasks=("pgd",))
    found = (
        Reason(name="zero-gradient", evidence="12 of 20", text="It stood still."),
        Reason(name="subset", evidence="n = 64", text="Few images.", level="remark"),
    )
    m = run.tasks[0].measurements[0].model_copy(update={"trust": "flagged", "reasons": found})
    task = run.tasks[0].model_copy(update={"measurements": (m,)})
    text = page_text([StoredRun(run.folder, run.run, run.history, (task,))])
    for place, reason in enumerate(sorted(found, key=lambda one: one.name)):
        assert f'<a href="#check-{place}">{reason.name}</a>, {reason.evidence}.' in text
        assert f'<dt id="check-{place}">Check: {reason.name}</dt><dd>{reason.text}</dd>' in text


def test_definitions_of_every_column(report: Path, runs: list[StoredRun]) -> None:
    text = Page(read(report)).text
    for column in board(runs).columns:
        assert f"{column.label} {column.definition}" in text


def test_hostile_texts_act_nowhere(hostile_report: Path, report: Path) -> None:
    text = read(hostile_report)
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert {tag for tag, _ in page.elements} <= {
        tag for tag, _ in Page(text).elements if re.fullmatch(r"[a-z0-9]+", tag)
    }
    assert all(address[:1] == "#" for address in page.attributes("href") + page.attributes("xlink:href"))
    assert not set(text) & {"\0", "\x1b", "\u202e", "\r"}
    assert "<script>alert(1)</script>" in page.text
    assert "$x_1$" in page.text
    assert {path.suffix for path in hostile_report.rglob("*.*")} >= {".html", ".csv", ".svg", ".png"}


def test_missing_and_flagged_cells(make: SimpleNamespace) -> None:
    run = make.run("standard", {"main": (0.7, 1.0, 0.1)}, tasks=("clean", "pgd"))
    clean = (
        run.tasks[0]
        .measurements[0]
        .model_copy(update={"value": None, "low": None, "high": None, "note": "out of <memory>"})
    )
    reason = Reason(name="zero gradients", evidence="12 of 20", text="It stood still.")
    pgd = run.tasks[1].measurements[0].model_copy(update={"trust": "flagged", "reasons": (reason,)})
    tasks = tuple(
        task.model_copy(update={"measurements": (m,)}) for task, m in zip(run.tasks, (clean, pgd), strict=True)
    )
    other = make.run("mixup", {"main": (0.6, 1.0, 0.05)}, tasks=("clean", "pgd"))
    text = page_text([StoredRun(run.folder, run.run, run.history, tasks), other])
    page = Page(text)
    assert "missing: out of <memory>" in page.text
    assert "doubtful: zero gradients: 12 of 20" in page.text
    assert marks(text) == {}  # a doubtful number is never the best, nor is the only one beside it
    assert ["standard", "", "0.1"] in [row[:3] for row in rows(text)]


def test_attacks_through_other_branches_are_in_the_details(make: SimpleNamespace) -> None:
    run = make.run("advprop", {"main": (0.7, 1.0, 0.1), "aux": (0.6, 1.0, 0.2)}, tasks=("pgd",))
    where = make.ATTACK | {"branch": "main", "attack_branch": "aux"}
    task = run.tasks[0]
    more = (*task.measurements, make.measured("pgd", "robust_accuracy", 0.55, **where))
    stored = StoredRun(run.folder, run.run, run.history, (task.model_copy(update={"measurements": more}),))
    assert [(one.made_on, one.judged, one.score.value) for one in transfers(stored)] == [("aux", "main", 0.55)]
    assert "PGD-20 Linf 8/255 made on the aux branch: 55.0" in Page(page_text([stored])).text


def test_small_charts_hold_the_history(runs: list[StoredRun]) -> None:
    stored = next(stored for stored in runs if stored.run.label == "entprop")
    loss, accuracy = charts(stored)
    assert [curve.name for curve in loss.curves] == ["loss", "loss_main", "loss_aux"]
    points = [tuple(map(float, point.split(","))) for point in loss.curves[2].points.split()]
    assert len(points) == 15
    values = [epoch.logs["loss_aux"] for epoch in stored.history]
    assert points[0][1] == 0.0  # the highest value is at the top
    assert [loss.low + (100 - y) / 100 * (loss.high - loss.low) for _, y in points] == pytest.approx(values, abs=2e-3)
    assert (points[-1][0], accuracy.epochs) == (300.0, 15)


def test_several_data_sets_have_sections_of_their_own(make: SimpleNamespace) -> None:
    runs = [make.run("standard", {"main": (0.7, 1.0, 0.1)}, id=name, dataset=name) for name in ("a/b", "a b")]
    text = page_text(runs)
    assert text.count('<table class="board"') == 2
    names = [plot.name for section in sections(leaderboard(runs), {}) for plot in section.files]
    assert len(names) == len({name.lower() for name in names}) == 16
    ids = Page(text).attributes("id")
    assert len(ids) == len(set(ids))


def test_scores_on_other_images_do_not_compete(make: SimpleNamespace) -> None:
    runs = [make.run(name, {"main": (value, 1.0, 0.1)}, tasks=("pgd",)) for name, value in (("a", 0.5), ("b", 0.5))]
    few = make.measured("pgd", "robust_accuracy", 0.9, n=100, branch="main", attack_branch="main", **make.ATTACK)
    other = make.run("c", {"main": (0.5, 1.0, 0.1)}, tasks=("pgd",))
    task = other.tasks[0].model_copy(update={"measurements": (few,)})
    text = page_text([*runs, StoredRun(other.folder, other.run, (), (task,))])
    assert marks(text) == {("a", 3): "best", ("b", 3): "best"}
    assert "n varies" in text
    assert "pgd was not judged on the same images in every row (n = 100, 1000)" in Page(text).text


def test_the_same_run_id_in_two_folders(make: SimpleNamespace) -> None:
    runs = [make.run("standard", {"main": (value, 1.0, 0.1)}, tasks=("clean",)) for value in (0.5, 0.6)]
    text = page_text(runs)
    ids = Page(text).attributes("id")
    assert len(ids) == len(set(ids))
    assert [row[:2] for row in rows(text)] == [["standard", "0.6"], ["standard s0", "0.5"]]


def test_no_runs_make_a_page_too(tmp_path: Path) -> None:
    text = read(write_report(tmp_path / "new", []).parent)
    assert "0 rows from 0 runs" in Page(text).text


def test_seeds_have_a_mean_row_in_front(seeds: list[StoredRun]) -> None:
    text = page_text(seeds)
    body = re.findall(r"<tbody>(.*?)</tbody>", text[text.index('<table class="board"') :], re.DOTALL)[0]
    shown = Page(body).text
    assert "mean of 3 seeds" in shown
    assert "72.0 best sd 0.4, n 3" in shown
    assert shown.index("mean of 3 seeds") < shown.index("seed 0") < shown.index("seed 2")


def test_unwritable_folder_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file" / "out", [])


def test_a_hundred_rows_weigh_little(make: SimpleNamespace) -> None:
    scores = {"main": (0.7, 1.0, 0.1)}
    runs = [make.run("mixup", scores, label=f"mixup{i}", options={"alpha": i}) for i in range(100)]
    text = page_text(runs)
    parts = re.findall(r'<figure>.*?</figure>|<script type="application/json".*?</script>', text, re.DOTALL)
    details = text[text.index('<details class="run"') : text.index('<section aria-labelledby="definitions"')]
    assert details.count('<details class="run"') == 100
    assert len(details) < 6_500 * 100
    assert len(text.encode()) - sum(len(part.encode()) for part in (details, *parts)) < 300_000


def test_torch_is_never_imported() -> None:
    code = "import sys, robusteval.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
