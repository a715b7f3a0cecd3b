"""Methods' cards: for the terminal, as the README's table, and as the plain data that a report shows."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from robusteval.cli.output import line, table

if TYPE_CHECKING:
    from robusteval.method import Method, Passes, Published


def write_card(name: str) -> None:
    """Writes a method's card: the paper, what training costs by branch, what departs from the paper, its numbers."""
    from robusteval.methods import METHODS

    method = METHODS[name]()
    card = method.card
    line(f"{name}: {card.title}")
    line(f"{card.authors}, {card.venue} {card.year}, {card.url}")
    line(_wrapped(card.summary))
    line(_wrapped(f"reference code: {card.reference}"))
    line("")
    line(f"branches: {' '.join(method.branches)}; deployed: {method.deployed}")
    line(f"FLOPs of training, with the default options: {_flops(method)} times standard training's")
    line("passes per training image:")
    _passes(method.passes())
    if card.deviations:
        line("")
        line("what the paper leaves open, or what differs from it:")
        for deviation in card.deviations:
            line(_wrapped(f"- {deviation}"))
    if card.published:
        line("")
        line("published:")
        table(("data set", "model", "options", "metric", "%", "source"), map(_published, card.published))


def _wrapped(text: str) -> str:
    """A text in lines of a terminal's width; those after the first are indented."""
    return textwrap.fill(text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _flops(method: Method) -> str:
    """FLOPs as multiples of standard training, a teacher's apart: it is trained once for all its students."""
    teacher = method.teacher()
    own = f"{method.passes().flops:.2f}"
    return own if teacher is None else f"{own} + {teacher.passes().flops:.2f} (teacher)"


def _passes(law: Passes) -> None:
    names = dict.fromkeys((*law.train, *law.attack, *law.forward))
    kinds = (law.train, law.attack, law.forward)
    rows = [(name, *(f"{kind.get(name, 0):g}" for kind in kinds)) for name in names]
    table(("branch", "to learn", "to attack", "forward only"), rows)


def _published(entry: Published) -> tuple[str, ...]:
    options = " ".join(f"{key}={value}" for key, value in entry.options.items()) or "default"
    sd = "" if entry.sd is None else f" (sd {100 * entry.sd:.2f})"
    return entry.dataset, entry.architecture, options, entry.metric, f"{100 * entry.value:.2f}{sd}", entry.source


def markdown_table() -> str:
    """The README's table of methods, with the branch that is deployed in bold where there are several."""
    from robusteval.methods import METHODS

    rows = ["| method | branches | passes per image | FLOPs (standard = 1) | paper |", "|" + " --- |" * 5]
    for name, kind in METHODS.items():
        method, card = kind(), kind.card
        several = len(method.branches) > 1
        branches = ", ".join(f"**{b}**" if several and b == method.deployed else b for b in method.branches)
        passes = sum(method.passes().backward_by_branch.values())
        title = card.title.replace("|", "\\|")
        paper = f"[{title}]({card.url}), {card.venue} {card.year}"
        rows.append(f"| `{name}` | {branches} | {passes:.4g} | {_flops(method)} | {paper} |")
    return "\n".join(rows)


def plain_cards() -> dict[str, Mapping[str, Any]]:
    """The cards as `robusteval.report` reads them: published numbers with all options that they belong to."""
    from robusteval.methods import METHODS

    return {
        name: asdict(kind.card) | {"published": [_entry(kind, entry) for entry in kind.card.published]}
        for name, kind in METHODS.items()
    }


def _entry(kind: type[Method], entry: Published) -> dict[str, Any]:
    from robusteval.cells import plain
    from robusteval.data import DATASETS
    from robusteval.options import build

    info = DATASETS.get(entry.dataset)
    options = plain(build(kind, entry.options, f"{kind.name}: published"))
    sizes = {f"{split}_images": info.sizes[split] if info else None for split in ("train", "test")}
    return entry._asdict() | {"options": options} | sizes
