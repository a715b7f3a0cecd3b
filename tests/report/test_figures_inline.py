"""Figures as elements of a page: the same drawing in fewer bytes, nothing of a name acts."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from robusteval.report.board.rows import board
from robusteval.report.figures.plots import Plot
from robusteval.report.figures.selection import figures
from robusteval.report.figures.style import VARIABLES, drawing, inline, svg
from robusteval.report.figures.terse import terse_path
from robusteval.store import StoredRun

Shape = tuple[str, str, tuple[tuple[float, float], ...]]
"""Fill, stroke, points."""


def made(runs: list[StoredRun]) -> list[Plot]:
    shown = board(runs)
    with drawing():
        return [plot for plot in figures(shown.groups, shown.columns) if not plot.name.startswith("heat")]


def tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def absolute(d: str) -> Iterator[tuple[float, float]]:
    """The points of a path, straight from the specification of SVG 1.1, section 8.3."""
    pending = re.findall(r"[A-Za-z]|-?(?:\d+\.?\d*|\.\d+)", d)
    x = y = sx = sy = 0.0
    command = ""
    while pending:
        if pending[0].isalpha():
            command = pending.pop(0)
        kind, relative = command.upper(), command.islower()
        if kind == "Z":
            x, y = sx, sy
            continue
        if kind in "HV":
            value = float(pending.pop(0))
            x = value + (x if relative else 0) if kind == "H" else x
            y = value + (y if relative else 0) if kind == "V" else y
            yield x, y
            continue
        points = []
        for _ in range({"M": 1, "L": 1, "Q": 2, "C": 3}[kind]):
            px, py = float(pending.pop(0)), float(pending.pop(0))
            points.append((px + x, py + y) if relative else (px, py))
        yield from points
        x, y = points[-1]
        if kind == "M":
            sx, sy = x, y
            command = "l" if relative else "L"


def style_of(element: ET.Element, rules: dict[str, str]) -> dict[str, str]:
    text = rules[element.get("class", "")] if "class" in element.attrib else element.get("style", "")
    for colour, variable in VARIABLES.items():
        text = text.replace(f"var(--{variable})", colour)
    return {a.strip(): b.strip() for a, b in (part.split(":", 1) for part in text.split(";") if ":" in part)}


def shapes(document: str) -> list[Shape]:
    """Everything that is painted, with where and how, whatever the way it is written in."""
    root = ET.fromstring(document)
    rules = dict(re.findall(r"\.[\w-]+ \.(s\d+)\{([^}]*)\}", document))
    defined = {one.get("id"): one for defs in root.iter() if tag(defs) == "defs" for one in defs}
    inside = {id(child) for defs in root.iter() if tag(defs) == "defs" for child in defs.iter()}
    found: list[Shape] = []
    for element in root.iter():
        if id(element) in inside or tag(element) not in ("path", "use"):
            continue
        style, d, at = style_of(element, rules), element.get("d", ""), (0.0, 0.0)
        if tag(element) == "use":
            href = next(value for name, value in element.attrib.items() if name.endswith("href"))
            shape = defined[href[1:]]
            style = style_of(shape, rules) | style
            d, at = shape.get("d", ""), (float(element.get("x", "0")), float(element.get("y", "0")))
        # A path of several lines is as many shapes.
        for part in re.findall(r"[Mm][^Mm]*", d):
            points = [(x + at[0], y + at[1]) for x, y in absolute(part)]
            points = [point for point, _ in itertools.groupby(points)]
            found.append((style.get("fill", "#000000"), style.get("stroke", "none"), tuple(points)))
    return found


def near(a: Shape, b: Shape) -> bool:
    """Whether all points of each lie within a tenth of a point of the other's: what is level may have fewer."""
    one, other = np.array(a[2]), np.array(b[2])
    gaps = np.abs(one[:, None] - other[None]).max(-1)
    return a[:2] == b[:2] and gaps.min(0).max() < 0.16 and gaps.min(1).max() < 0.16


def test_the_drawing_is_the_same(runs: list[StoredRun], make: SimpleNamespace) -> None:
    scores = [{"main": (0.5 + i / 100, 0.5 + i / 90, i / 80), "aux": (0.5, 0.4, i / 90)} for i in range(30)]
    many = [make.run(f"m{i}" if i else "standard", one) for i, one in enumerate(scores)]
    assert "<use" in re.sub("<defs>.*?</defs>", "", inline(svg(made(many)[1].figure), "f", "t"))  # shapes that repeat
    for plot in (*made(runs)[:5], *made(many)[:2]):
        document = svg(plot.figure)
        before, after = shapes(document), shapes(inline(document, "f0-0", plot.title))
        assert len(before) == len(after)
        assert all(near(a, b) for a, b in zip(before, after, strict=True))


def test_texts_are_the_same_and_where_they_were(runs: list[StoredRun]) -> None:
    def texts(document: str) -> list[tuple[str, float, float]]:
        found = [element for element in ET.fromstring(document).iter() if tag(element) == "text"]
        return [("".join(one.itertext()), float(one.get("x", "")), float(one.get("y", ""))) for one in found]

    for plot in made(runs):
        document = svg(plot.figure)
        before, after = texts(document), texts(inline(document, "f0-0", plot.title))
        assert [text for text, *_ in before] == [text for text, *_ in after]
        places = [np.array([place for _, *place in found]) for found in (before, after)]
        assert np.abs(places[0] - places[1]).max() < 0.06


def test_a_page_gets_a_third_of_the_bytes(runs: list[StoredRun], make: SimpleNamespace) -> None:
    for plot in made(runs):
        assert len(inline(svg(plot.figure), "f0-0", plot.title)) < len(svg(plot.figure)) / 2.5
    many = [
        make.run(f"m{i}" if i else "standard", {"main": (0.5 + i / 300, 0.5 + i / 250, i / 300)}) for i in range(100)
    ]
    weights = {plot.name: len(inline(svg(plot.figure), "f0-0", plot.title)) for plot in made(many)}
    assert max(weights.values()) < 26_000
    assert sum(weights.values()) < 150_000


def test_ids_and_styles_hold_for_one_figure_alone(runs: list[StoredRun]) -> None:
    plots = made(runs)[:3]
    page = "".join(inline(svg(plot.figure), f"f0-{i}", plot.title) for i, plot in enumerate(plots))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
    for rules in re.findall(r"<style>(.*?)</style>", page):
        assert all(re.fullmatch(r"\.f0-\d \.s\d+", rule.split("{")[0]) for rule in rules.split("}") if rule)
    assert "#0072b2" not in page  # colours follow the page's theme


def test_bands_are_not_clipped_away(make: SimpleNamespace) -> None:
    attack = {"branch": "main", "attack_branch": "main", "norm": "Linf", "steps": 20, "loss": "ce"}
    curve = [
        make.measured("epsilon_curve", "robust_accuracy", 0.5 - i / 20, epsilon=f"{i}/255", **attack) for i in range(9)
    ]
    run = make.with_task(make.run("standard", {"main": (0.7, 1.0, 0.1)}), "epsilon_curve", curve)
    (plot,) = (plot for plot in made([run]) if plot.name.startswith("epsilon"))
    page = inline(svg(plot.figure), "f0-0", plot.title)
    # What clips a copy would move with it, so that the copy is out of sight: see SVG 1.1, section 5.6.
    assert not re.findall(r"<use[^>]*clip-path", page)
    assert any(fill == "#0072b2" and len(points) > 15 for fill, _, points in shapes(page))


def test_what_is_clipped_stays_clipped() -> None:
    document = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><g id="a">
    <path d="M 1 1 L 99 99" clip-path="url(#p)" style="fill: none; stroke: #0072b2"/>
    <path d="M 1 1 L 2 2" clip-path="url(#p)" style="fill: none; stroke: #0072b2"/></g>
    <defs><clipPath id="p"><rect x="0" y="0" width="5" height="5"/></clipPath></defs></svg>"""
    page = inline(document, "f", "t")
    assert re.findall(r'<g clip-path="url\(#(.*?)\)"><path d="M1 1l98 98"', page) == re.findall(
        r'<clipPath id="(.*?)">', page
    )
    assert '<rect x="0" y="0" width="5" height="5"/>' in page
    assert page.endswith('<path d="M1 1l1 1" class="s0"/></svg>\n')


def test_paths_do_not_drift() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 400, (500, 2))
    d = "M " + " L ".join(f"{x:.6f} {y:.6f}" for x, y in points)
    found = np.array(list(absolute(terse_path(d, 1))))
    assert np.abs(found - points).max() < 0.051 + 1e-9


def test_hostile_names_in_a_page(hostile: list[StoredRun]) -> None:
    texts = set()
    for plot in made(hostile):
        page = inline(svg(plot.figure), "f0-0", "t", "d")
        assert "<script" not in page
        root = ET.fromstring(page)
        assert {tag(element) for element in root.iter()} <= {
            "svg", "title", "desc", "style", "defs", "clipPath", "rect", "path", "use", "text", "g"
        }  # fmt: skip
        texts |= {"".join(element.itertext()) for element in root.iter() if tag(element) == "text"}
        allowed = {
            "viewBox",
            "class",
            "stroke-linejoin",
            "role",
            "aria-labelledby",
            "id",
            "href",
            "clip-path",
            "transform",
        }
        assert {name for one in root.iter() for name in one.attrib} <= allowed | {"x", "y", "d", "width", "height"}
    assert any("<script>" in text for text in texts)
    assert any("$x_1$" in text for text in texts)


def test_equal_records_equal_bytes(runs: list[StoredRun]) -> None:
    first, second = ([inline(svg(plot.figure), "f", "t") for plot in made(runs)[:3]] for _ in range(2))
    assert first == second
