"""The page about CIFAR-10-C against the tables that images are made with."""

import re
import tomllib
from pathlib import Path

import pytest

from robusteval.corruptions import CBAR, CORRUPTIONS, HELD_OUT, adapter
from robusteval.corruptions.bar import CIFAR_BAR, IMAGENET_BAR
from robusteval.corruptions.strengths import CIFAR, IMAGENET
from robusteval.options import build
from robusteval.tasks import Corruption

PAGE = (Path(__file__).parents[2] / "docs" / "corruptions.md").read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


TABLES = {"cifar": CIFAR, "imagenet": IMAGENET, "cifar-bar": CIFAR_BAR, "imagenet-bar": IMAGENET_BAR}


@pytest.mark.parametrize("table", TABLES)
def test_the_strengths_on_the_page_are_those_that_images_are_made_with(table: str) -> None:
    block = re.search(rf"<!-- strengths: {table} -->\n(.*?)<!-- /strengths -->", PAGE, re.DOTALL)
    assert block
    _, _, *rows = map(cells, block[1].strip().splitlines())
    shown = {name.strip("`"): numbers for name, _, *numbers in rows}
    made = {name: [" ".join(f"{x:.4g}" for x in part) for part in TABLES[table][name]] for name in shown}
    assert list(shown) == ([*TABLES[table]] if table.endswith("bar") else [*CORRUPTIONS, *HELD_OUT])
    assert shown == made


def test_every_corruption_is_either_equal_to_the_byte_or_equal_in_distribution() -> None:
    ((same,), (like,)) = (
        [line for line in PAGE.splitlines() if line.startswith("| `") and phrase in line]
        for phrase in ("the published one |", "other draws from the same distribution")
    )
    named = [re.findall(r"`(\w+)`", cells(line)[0]) for line in (same, like)]
    assert sorted(named[0] + named[1]) == sorted(CORRUPTIONS + HELD_OUT)


def test_the_suite_on_the_page_names_the_ten() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (table,) = tomllib.loads(block)["tasks"]
    assert build(Corruption, {"names": table["names"]}, "page").names == CBAR


def test_the_page_names_the_adapters_prefix() -> None:
    assert f"`{adapter.PREFIX}fog`" in PAGE
