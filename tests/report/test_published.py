"""Published numbers stand beside measured ones only where both are of the same kind."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from robusteval.report.board.published import Comparison, comparisons
from robusteval.report.board.rows import board
from robusteval.report.page.html import page_text
from robusteval.store import StoredRun

OPTIONS = {"k": 0.2, "steps": 1}
SCORES = {"main": (0.7, 1.0, 0.25), "aux": (0.9, 1.0, 0.9)}


def entry(metric: str = "clean", value: float = 0.72, **changes: Any) -> dict[str, Any]:
    fields = {"dataset": "cifar10-sample", "architecture": "resnet20", "options": OPTIONS, "metric": metric}
    numbers = {"value": value, "sd": None, "source": "A. Author, Table 1", "train_images": 4000, "test_images": 1000}
    return fields | numbers | changes


def compared(runs: list[StoredRun], *entries: dict[str, Any]) -> list[Comparison]:
    found = board(runs)
    return comparisons(found.groups, found.columns, {"entprop": {"published": list(entries)}})


@pytest.fixture
def run(make: SimpleNamespace) -> StoredRun:
    stored: StoredRun = make.run("entprop", SCORES, options=OPTIONS)
    return stored


def test_difference_and_interval_of_a_run(run: StoredRun) -> None:
    (one,) = compared([run], entry(sd=0.002))
    assert (one.value, one.sd, one.measured.value) == (0.72, 0.002, 0.7)
    assert one.difference == pytest.approx(-0.02)
    assert one.interval == (one.measured.low, one.measured.high)
    assert one.remarks == ()


def test_interval_over_seeds_is_students(make: SimpleNamespace) -> None:
    values = [0.70, 0.71, 0.74]
    runs = [make.run("entprop", {"main": (value, 1.0, 0.2)}, options=OPTIONS, seed=i) for i, value in enumerate(values)]
    (one,) = compared(runs, entry())
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert one.interval == pytest.approx(expected)
    assert one.difference == pytest.approx(np.mean(values) - 0.72)


def test_equal_seeds_claim_no_certainty(make: SimpleNamespace) -> None:
    runs = [make.run("entprop", {"main": (0.7, 1.0, 0.2)}, options=OPTIONS, seed=i) for i in range(2)]
    (one,) = compared(runs, entry())
    assert one.interval is None


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "cifar10"},
        {"architecture": "resnet18"},
        {"options": OPTIONS | {"k": 0.6}},
        {"options": {"k": 0.2}},
        {"options": {}},
        {"train_images": 50_000},
        {"train_images": None},
        {"metric": "accuracy"},
        {"metric": "autoattack Linf 8/255"},
        {"metric": "pgd L2 8/255"},
        {"metric": "pgd Linf 4/255"},
        {"metric": "pgd"},
    ],
)
def test_what_is_not_the_same_is_not_compared(run: StoredRun, changes: dict[str, Any]) -> None:
    assert compared([run], entry(**changes)) == []


def test_unverified_images_are_not_compared(make: SimpleNamespace) -> None:
    unknown = make.TRAIN.model_copy(update={"verified": False})
    assert compared([make.run("entprop", SCORES, options=OPTIONS, train_data=unknown)], entry()) == []


def test_another_method_is_not_compared(make: SimpleNamespace) -> None:
    assert compared([make.run("advprop", SCORES, options=OPTIONS)], entry()) == []


def test_generated_corruptions_are_marked(run: StoredRun) -> None:
    (one,) = compared([run], entry("corruption", 0.5))
    assert one.column.kind == "corruption"
    assert any("not the same files" in remark for remark in one.remarks)


def test_official_corruptions_are_not_marked(run: StoredRun) -> None:
    task = next(task for task in run.tasks if task.task == "corruption")
    official = [m.model_copy(update={"where": m.where | {"source": "official"}}) for m in task.measurements]
    changed = task.model_copy(update={"measurements": tuple(official)})
    stored = StoredRun(run.folder, run.run, run.history, (run.tasks[0], changed))
    (one,) = compared([stored], entry("corruption", 0.5))
    assert one.remarks == ()


@pytest.mark.parametrize("change", [{"corruptions": 3}, {"severities": 1}, {"names": "fog"}])
def test_a_mean_over_other_corruptions_is_not_compared(make: SimpleNamespace, change: dict[str, Any]) -> None:
    where = {"branch": "main", "corruptions": 15, "severities": 5, "source": "official"} | change
    run = make.run("entprop", SCORES, options=OPTIONS, tasks=("clean",))
    stored = make.with_task(run, "corruption", [make.measured("corruption", "mean_accuracy", 0.5, **where)])
    assert compared([stored], entry("corruption")) == []


def test_attacks_are_compared_with_the_same_attack(run: StoredRun, make: SimpleNamespace) -> None:
    (one,) = compared([run], entry("pgd Linf 8/255", 0.3), entry("autoattack Linf 8/255", 0.2))
    assert one.column.label == "PGD-20 Linf 8/255"
    where = {"branch": "main", "attack_branch": "main", "norm": "Linf", "epsilon": "8/255"}
    parts = make.with_task(
        run, "autoattack", [make.measured("autoattack", "robust_accuracy", 0.3, **where, attack="apgd-ce square")]
    )
    assert len(compared([parts], entry("autoattack Linf 8/255", 0.2))) == 0
    where |= {"attack": "standard"}
    whole = make.with_task(run, "autoattack", [make.measured("autoattack", "robust_accuracy", 0.21, **where)])
    found = compared([whole], entry("pgd Linf 8/255", 0.3), entry("autoattack Linf 8/255", 0.2))
    assert [(c.column.measured[0], c.measured.value, c.value) for c in found] == [
        ("pgd", 0.25, 0.3),
        ("autoattack", 0.21, 0.2),
    ]


def test_fewer_test_images_are_told(make: SimpleNamespace) -> None:
    run = make.run("entprop", SCORES, options=OPTIONS, tasks=())
    stored = make.with_task(run, "clean", [make.measured("clean", "accuracy", 0.5, n=200, branch="main")])
    (one,) = compared([stored], entry())
    assert one.remarks == ("measured on 200 of 1,000 test images",)


def test_the_page_shows_them(run: StoredRun, runs: list[StoredRun]) -> None:
    hostile = "<script>alert(1)</script>"
    cards = {"entprop": {"published": [entry(sd=0.0021, source=hostile), entry("corruption", 0.5)]}}
    text = page_text([run], cards=cards)
    part = text[text.index('<h2 id="published-1">') :]
    plain = " ".join(re.sub(r"<[^>]+>", " ", part[: part.index("</section>")]).split())
    assert "entprop Clean accuracy resnet20, 15 epochs 72.0 sd 0.2 70.0 1 seed, n 1,000 −2.0 −4.9 to +0.8" in plain  # noqa: RUF001 - as shown
    assert "not the same files" in plain
    assert hostile not in text
    assert "Beside published" not in page_text(runs, cards=cards)
