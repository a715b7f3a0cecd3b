"""Runs as RobustBench's files, read back as RobustBench reads them; nothing that it would not have measured."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from robusteval.cli import main
from robusteval.corruptions.strengths import CORRUPTIONS
from robusteval.errors import UserError
from robusteval.export import TABLE, read_table, robustbench
from robusteval.records import DataRef, Measurement, Provenance, Run, TaskRecord
from robusteval.store import StoredRun, write_record

N = 10_000
TEST = DataRef(name="cifar10", split="test", n=N, digest="2e" * 32, verified=True)
PROVENANCE = Provenance(
    robusteval="0.1.0",
    commit=None,
    python="3.11.9",
    packages={},
    platform="Linux",
    cpu="EPYC",
    device="cpu",
    threads=2,
    precision="float32",
    created="2026-11-20T04:00:00+00:00",
    command=(),
)
STANDARD = {"attack": "standard", "norm": "Linf", "epsilon": "8/255"}


def number(task: str, metric: str, value: float, *, branch: str = "main", n: int = N, **where: object) -> Measurement:
    place = {"branch": branch} | where
    return Measurement(task=task, metric=metric, value=value, n=n, low=value - 0.01, high=value + 0.01, where=place)


def corrupted(source: str, *, shift: float = 0.0, leave_out: str = "", n: int = N) -> tuple[Measurement, ...]:
    cells = [
        number(
            "corruption",
            "accuracy",
            0.9 - 0.01 * row - 0.02 * severity - shift,
            corruption=name,
            severity=severity,
            source=source,
            n=n,
        )
        for row, name in enumerate(CORRUPTIONS)
        for severity in range(1, 6)
        if name != leave_out
    ]
    mean = sum(m.value for m in cells) / len(cells)
    return (*cells, number("corruption", "mean_accuracy", mean, source=source, corruptions=15, severities=5, n=n))


def stored(*measurements: Measurement, test: DataRef = TEST, dataset: str = "cifar10") -> StoredRun:
    run = Run(
        id="cifar10-resnet18-advprop-s3-00000000",
        label="advprop",
        method="advprop",
        options={},
        training={},
        dataset=dataset,
        architecture="resnet18",
        seed=3,
        status="done",
        branches=("main", "aux"),
        deployed="main",
        parameters=11_000_000,
        train_data=DataRef(name=dataset, split="train", n=50_000, digest="1f" * 32, verified=True),
        provenance=PROVENANCE,
    )
    tasks: dict[str, list[Measurement]] = {}
    for one in measurements:
        tasks.setdefault(one.task, []).append(one)
    records = [
        TaskRecord(
            task=task,
            version=1,
            key=task,
            options={},
            test_data=test,
            weights_sha256="cd" * 32,
            measurements=tuple(found),
            wall_s=1.0,
            provenance=PROVENANCE,
        )
        for task, found in tasks.items()
    ]
    return StoredRun(Path("nowhere"), run, (), tuple(records))


CLEAN = number("clean", "accuracy", 0.9108)
ATTACKED = number("autoattack", "robust_accuracy", 0.7291, attack_branch="main", **STANDARD)
THROUGH_AUX = ATTACKED.where | {"branch": "aux", "attack_branch": "aux"}
NAME = "Xie2020Adversarial_resnet18_s3"


def test_model_info_of_a_full_standard_run(tmp_path):
    flagged = ATTACKED.model_copy(update={"trust": "flagged"})
    exported = robustbench(stored(CLEAN, flagged), tmp_path)
    path = tmp_path / "model_info" / "cifar10" / "Linf" / f"{NAME}.json"
    assert exported == ((path,), ())
    assert json.loads(path.read_text()) == {
        "link": "https://arxiv.org/abs/1911.09665",
        "name": "Adversarial Examples Improve Image Recognition",
        "authors": "Xie, Tan, Gong, Wang, Yuille, Le",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "CVPR 2020",
        "architecture": "resnet18",
        "eps": "8/255",
        "clean_acc": "91.08",
        "reported": None,
        "footnote": "Trained and measured by robusteval 0.1.0: run cifar10-resnet18-advprop-s3-00000000, "
        "branch main; 95 % interval 71.91 to 73.91.",
        "autoattack_acc": "72.91",
        "unreliable": True,
    }
    # as `list_available_models` reads it
    info = json.loads(path.read_text())
    assert float(info["clean_acc"]) / 100 == pytest.approx(0.9108, abs=5e-5)
    assert float(info["autoattack_acc"]) / 100 == pytest.approx(0.7291, abs=5e-5)


@pytest.mark.parametrize(
    "other",
    [
        number("pgd", "robust_accuracy", 0.5, norm="Linf", epsilon="8/255", attack_branch="main"),
        ATTACKED.model_copy(update={"where": ATTACKED.where | {"attack": "fast"}}),
        ATTACKED.model_copy(update={"where": {k: v for k, v in ATTACKED.where.items() if k != "attack"}}),
        ATTACKED.model_copy(update={"n": 1000}),
        ATTACKED.model_copy(update={"where": ATTACKED.where | {"attack_branch": "aux"}}),
        ATTACKED.model_copy(update={"where": ATTACKED.where | {"branch": "aux"}}),
        ATTACKED.model_copy(update={"metric": "accuracy"}),
        ATTACKED.model_copy(update={"task": "pgd"}),
        ATTACKED.model_copy(update={"value": None}),
    ],
    ids=["pgd", "another attack", "unnamed attack", "subset", "transfer", "other branch", "metric", "task", "missing"],
)
def test_nothing_else_fills_autoattack_acc(other, tmp_path):
    pgd = number("pgd", "robust_accuracy", 0.5, norm="Linf", epsilon="8/255", attack_branch="main")
    exported = robustbench(stored(CLEAN, pgd, other), tmp_path)
    (path,) = exported.paths
    info = json.loads(path.read_text())
    assert (info["autoattack_acc"], info["clean_acc"], "unreliable" in info) == (None, "91.08", False)
    left_out = ("autoattack Linf was left out: of 1,000 test images of cifar10",) * (other.n == 1000)
    assert exported.notes == (*left_out, "Linf: autoattack_acc is null: no standard AutoAttack on all test images")


def test_images_that_are_not_the_verified_test_set_count_for_nothing(tmp_path):
    for test in (TEST.model_copy(update={"verified": False}), TEST.model_copy(update={"name": "arrays"})):
        with pytest.raises(UserError, match="nothing was measured of branch main on all 10,000 verified test images"):
            robustbench(stored(CLEAN, ATTACKED, test=test), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_customary_radius_is_chosen_among_several(tmp_path):
    small = ATTACKED.model_copy(update={"where": ATTACKED.where | {"epsilon": "2/255"}, "value": 0.8})
    l2 = ATTACKED.model_copy(update={"where": ATTACKED.where | {"norm": "L2", "epsilon": "128/255"}, "value": 0.6})
    exported = robustbench(stored(CLEAN, small, ATTACKED, l2), tmp_path)
    infos = {path.parent.name: json.loads(path.read_text()) for path in exported.paths}
    assert {norm: (info["eps"], info["autoattack_acc"]) for norm, info in infos.items()} == {
        "Linf": ("8/255", "72.91"),
        "L2": ("128/255", "60.00"),
    }
    again = ATTACKED.model_copy(update={"value": 0.1})
    with pytest.raises(UserError, match="autoattack: 2 different numbers for one place"):
        robustbench(stored(CLEAN, again, ATTACKED), tmp_path)


def test_the_table_of_corruptions_is_read_back_as_robustbench_does(tmp_path):
    exported = robustbench(stored(CLEAN, *corrupted("official")), tmp_path, name="First")
    robustbench(stored(CLEAN, *corrupted("official", shift=0.1)), tmp_path, name="Second")
    robustbench(stored(CLEAN, *corrupted("official", shift=0.2)), tmp_path, name="First")
    folder = tmp_path / "model_info" / "cifar10" / "corruptions"
    assert exported == ((folder / "First.json", folder / "unaggregated_results.csv"), ())
    head, severities, first, *_ = (folder / "unaggregated_results.csv").read_text().splitlines()
    assert head.split(",")[:6] == ["", *["gaussian_noise"] * 5]
    assert severities == "," + ",".join(["1,2,3,4,5"] * 15)
    assert first.startswith("Second,")
    # the statements of its eval.py
    results = pd.read_csv(folder / "unaggregated_results.csv", header=[0, 1], index_col=0)
    results.columns = results.columns.set_levels([results.columns.levels[0], results.columns.levels[1].astype(int)])
    assert list(results.index) == ["Second", "First"]
    for shift, name in ((0.1, "Second"), (0.2, "First")):
        for row, corruption in enumerate(CORRUPTIONS):
            for severity in range(1, 6):
                expected = 0.9 - 0.01 * row - 0.02 * severity - shift
                assert results.loc[name][corruption, severity] == pytest.approx(expected, abs=1e-15)
        assert json.loads((folder / f"{name}.json").read_text())["corruptions_acc"] == (
            f"{100 * results.loc[name].to_numpy().mean():.2f}"
        )
    info = json.loads((folder / "First.json").read_text())
    assert (info["eps"], "autoattack_acc" in info) == (None, False)
    assert read_table(folder / "unaggregated_results.csv").equals(results)


def test_generated_corruptions_never_stand_where_cifar_c_does(tmp_path):
    exported = robustbench(stored(CLEAN, *corrupted("generated")), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in exported.paths] == [
        "model_info/cifar10-c-gen/unaggregated_results.csv"
    ]
    assert "no CIFAR-C" in exported.notes[0]
    assert list(read_table(exported.paths[0]).index) == [NAME]


INCOMPLETE = [
    (corrupted("official", leave_out="fog"), "official corruptions were left out: 70 of 75 cells are of all 10,000"),
    (corrupted("official", n=500), "official corruptions were left out: 0 of 75 cells are of all 10,000"),
    (corrupted("generated")[:5] * 20, "generated corruptions were left out: 5 of 75 cells are of all 10,000"),
]


@pytest.mark.parametrize(("numbers", "said"), INCOMPLETE)
def test_incomplete_corruptions_are_left_out(numbers, said, tmp_path):
    exported = robustbench(stored(CLEAN, ATTACKED, *numbers), tmp_path)
    assert [path.parent.name for path in exported.paths] == ["Linf"]
    assert exported.notes == (f"{said} verified test images",)


@pytest.mark.parametrize(("numbers", "said"), [((), ""), *INCOMPLETE])
def test_nothing_to_write_is_an_error_that_tells_what_there_was(numbers, said, tmp_path):
    subset = ATTACKED.model_copy(update={"n": 1000})
    with pytest.raises(UserError) as caught:
        robustbench(stored(CLEAN, subset, *numbers), tmp_path / "out")
    parts = [
        "cifar10-resnet18-advprop-s3-00000000: nothing that RobustBench has a place for",
        "autoattack Linf was left out: of 1,000 test images of cifar10",
        *([f"{said} verified test images"] if said else []),
        "allowed: an attack (Linf or L2) or all 75 cells of corruptions, on all 10,000 verified test images",
    ]
    assert str(caught.value) == "; ".join(parts)
    assert not (tmp_path / "out").exists()


def test_unverified_attacks_are_named(tmp_path):
    unverified = TEST.model_copy(update={"verified": False})
    with pytest.raises(UserError, match="autoattack Linf was left out: of 10,000 unverified test images of cifar10"):
        robustbench(stored(CLEAN, ATTACKED, test=unverified), tmp_path)


def test_another_branch_and_a_missing_clean_accuracy(tmp_path):
    aux = ATTACKED.model_copy(update={"where": THROUGH_AUX, "value": 0.3})
    exported = robustbench(stored(CLEAN, ATTACKED, aux), tmp_path, branch="aux", name="Aux")
    info = json.loads((tmp_path / "model_info" / "cifar10" / "Linf" / "Aux.json").read_text())
    assert (info["clean_acc"], info["autoattack_acc"]) == (None, "30.00")
    assert "branch aux" in info["footnote"]
    assert exported.notes == ("clean_acc is null: no task clean on all test images",)


@pytest.mark.parametrize(
    ("run", "given", "message"),
    [
        (stored(CLEAN), {"branch": "axu"}, "unknown branch 'axu'; did you mean 'aux'"),
        (stored(CLEAN), {"name": "../up"}, "'../up' cannot be a file's"),
        (
            stored(CLEAN, dataset="cifar10-sample"),
            {},
            "RobustBench has no data set cifar10-sample; ",
        ),
        (stored(), {}, "nothing was measured of branch main"),
    ],
)
def test_mistakes(run, given, message, tmp_path):
    with pytest.raises(UserError, match=message):
        robustbench(run, tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    run = stored(CLEAN, ATTACKED, *corrupted("official"))
    write_record(tmp_path / "run", "run.json", run.run)
    for task in run.tasks:
        write_record(tmp_path / "run", f"tasks/{task.key}.json", task)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--name", "Mine"]) == 0
    place = tmp_path / "out" / "model_info" / "cifar10"
    paths = [place / "Linf" / "Mine.json", place / "corruptions" / "Mine.json", place / "corruptions" / TABLE]
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(path) for path in paths]
    assert err == ""
    assert all(path.is_file() for path in paths)


def test_the_command_with_nothing_to_write(tmp_path, capsys):
    run = stored(CLEAN)
    write_record(tmp_path / "run", "run.json", run.run)
    write_record(tmp_path / "run", "tasks/clean.json", run.tasks[0])
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "nothing that RobustBench has a place for" in err


def test_a_table_that_is_none_is_not_overwritten(tmp_path):
    path = tmp_path / "model_info" / "cifar10" / "corruptions" / "unaggregated_results.csv"
    path.parent.mkdir(parents=True)
    path.write_text("not,a\ntable,of corruptions\n")
    with pytest.raises(UserError, match="is no table of single corruptions"):
        robustbench(stored(CLEAN, *corrupted("official")), tmp_path)
    assert path.read_text() == "not,a\ntable,of corruptions\n"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
