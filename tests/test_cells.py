"""Cells: what decides the id of a run and the key of a task, and what does not."""

import json
import re
from dataclasses import replace

import pytest

from robusteval.cells import Cell, check, expand, plain, task_key, tasks_of
from robusteval.config import narrowed, parse_suite
from robusteval.errors import UserError
from robusteval.methods.entprop import EntProp
from robusteval.methods.standard import Standard
from robusteval.records import DataRef
from robusteval.tasks import Pgd
from robusteval.training import Training

DATA = DataRef(name="cifar10-sample", split="train", n=4000, digest="a" * 64, verified=True)
CELL = Cell("a label", EntProp(k=0.4), Training(epochs=3), "cifar10-sample", "resnet8", 7)


def suite(**changes):
    table = {"name": "mine", "methods": [{"name": "standard"}], "tasks": [{"name": "clean"}]}
    return parse_suite(table | changes, "mine.toml")


def test_the_id_is_readable_and_a_file_name():
    assert re.fullmatch(r"cifar10-sample-resnet8-entprop-s7-[0-9a-f]{8}", CELL.identity(DATA))


@pytest.mark.parametrize(
    "changed",
    [
        replace(CELL, method=EntProp(k=0.5)),
        replace(CELL, method=Standard()),
        replace(CELL, training=Training(epochs=4)),
        replace(CELL, training=Training(epochs=3, channels_last=False)),
        replace(CELL, architecture="resnet20"),
        replace(CELL, seed=8),
    ],
)
def test_the_id_depends_on_what_decides_the_weights(changed):
    assert changed.identity(DATA)[-8:] != CELL.identity(DATA)[-8:]


def test_the_id_depends_on_the_images():
    ids = {CELL.identity(DATA.model_copy(update=change)) for change in ({}, {"digest": "b" * 64}, {"n": 100})}
    assert len(ids) == 3


def test_the_id_depends_on_the_protocol(monkeypatch):
    before = CELL.identity(DATA)
    monkeypatch.setattr("robusteval.cells.PROTOCOL", 10**6)
    assert CELL.identity(DATA) != before


@pytest.mark.parametrize(
    "changed",
    [replace(CELL, label="another"), replace(CELL, training=Training(epochs=3, checkpoint_seconds=1.0))],
)
def test_the_id_does_not_depend_on_the_rest(changed):
    assert changed.identity(DATA) == CELL.identity(DATA)


def test_a_default_that_is_written_out_is_the_same_cell():
    (short,), (long,) = (
        expand(suite(methods=[{"name": "entprop"} | options])) for options in ({}, {"k": 0.2, "steps": 1})
    )
    assert short.identity(DATA) == long.identity(DATA)


def test_a_task_key_depends_on_task_images_and_weights():
    keys = {
        task_key(Pgd(), DATA, "1" * 64),
        task_key(Pgd(steps=21), DATA, "1" * 64),
        task_key(Pgd(), DATA.model_copy(update={"n": 5}), "1" * 64),
        task_key(Pgd(), DATA.model_copy(update={"digest": "c" * 64}), "1" * 64),
        task_key(Pgd(), DATA, "2" * 64),
    }
    assert len(keys) == 5
    assert all(re.fullmatch(r"pgd-[0-9a-f]{12}", key) for key in keys)


def test_a_task_key_depends_on_the_version_of_the_task(monkeypatch):
    before = task_key(Pgd(), DATA, "1" * 64)
    monkeypatch.setattr(Pgd, "version", Pgd.version + 1)
    assert task_key(Pgd(), DATA, "1" * 64) != before


def test_a_suite_expands_to_the_product_of_its_axes():
    cells = expand(
        suite(
            architectures=["resnet8", "resnet20"],
            seeds=[0, 1, 2],
            methods=[{"name": "standard"}, {"name": "entprop", "k": 0.5, "training": {"epochs": 9}}],
            training={"epochs": 5, "lr": 0.2},
        )
    )
    assert len(cells) == 12
    assert [cell.seed for cell in cells[:3]] == [0, 1, 2]
    assert cells[0].training == Training(epochs=5, lr=0.2)
    assert (cells[3].method, cells[3].training) == (EntProp(k=0.5), Training(epochs=9, lr=0.2))
    assert {cell.architecture for cell in cells[6:]} == {"resnet20"}


def test_labels_tell_rows_apart():
    cells = expand(
        suite(
            methods=[
                {"name": "standard"},
                {"name": "entprop", "k": 0.5},
                {"name": "entprop", "k": 0.6, "training": {"lr": 0.2}},
                {"name": "entprop", "label": "mine", "k": 0.7},
            ]
        )
    )
    assert [cell.label for cell in cells] == ["standard", "entprop k=0.5", "entprop k=0.6 lr=0.2", "mine"]


def test_a_momentum_may_name_a_branch_that_only_some_methods_have():
    methods = [{"name": "standard"}, {"name": "entprop"}]
    cells = expand(suite(methods=methods, training={"bn_momentum": {"main": 0.2, "aux": 0.1}}))
    assert {cell.training.bn_momentum for cell in cells} == {(("aux", 0.1), ("main", 0.2))}
    assert len({cell.identity(DATA) for cell in cells}) == 2


def test_plain_options_are_what_json_reads_back():
    training = Training(milestones=(0.25, 0.5))
    assert plain(training)["milestones"] == [0.25, 0.5]
    assert json.loads(json.dumps(plain(training))) == plain(training)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ["cifar10-sampel"]}, "unknown dataset 'cifar10-sampel'; did you mean 'cifar10-sample'"),
        ({"architectures": ["resnet80"]}, "unknown architecture 'resnet80'; did you mean 'resnet8'"),
        ({"methods": [{"name": "advporp"}]}, "unknown method 'advporp'; did you mean 'advprop'"),
        ({"methods": [{"name": "entprop", "kk": 1}]}, r"methods\.entprop: unknown key 'kk'; did you mean 'k'"),
        ({"methods": [{"name": "entprop", "k": "1"}]}, r"methods\.entprop: k: input should be a valid number"),
        ({"methods": [{"name": "entprop", "k": 1.5}]}, r"methods\.entprop: k: .*less than or equal to 1 \(given: 1\.5"),
        ({"methods": [{"name": "advprop", "epsilon": 8}]}, r"methods\.advprop: epsilon: 8 is more than the whole"),
        (
            {"training": {"schedule": "cosin"}},
            r"schedule: input should be 'cosine', .*; did you mean 'cosine'\? \(given: 'cosin'\)",
        ),
        ({"training": {"bn_momentum": True}}, r"bn_momentum: should be a number above 0, .*given: True"),
        ({"training": {"bn_momentum": 1.5}}, r"bn_momentum: should be a number above 0, .*given: 1\.5"),
        ({"training": {"shadow_momenta": [0.1, 0.1]}}, r"shadow_momenta must differ"),
        ({"training": {"epochs": 0}}, r"mine\.toml: training: epochs: .*greater than or equal to 1"),
        (
            {"methods": [{"name": "standard", "training": {"epochs": "3"}}]},
            r"mine\.toml: methods\.standard\.training: epochs: input should be a valid integer \(given: '3'\)",
        ),
    ],
)
def test_a_wrong_cell_is_one_clear_error(changes, message):
    with pytest.raises(UserError, match=message):
        expand(suite(**changes))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "pdg"}, "unknown task 'pdg'; did you mean 'pgd'"),
        ({"name": "pgd", "stepps": 3}, r"mine\.toml: tasks\.pgd: unknown key 'stepps'; did you mean 'steps'"),
        ({"name": "pgd", "epsilon": 8}, r"tasks\.pgd: .*8"),
        ({"name": "corruption", "names": ["fogg"]}, r"tasks\.corruption: .*fog"),
        ({"name": "corruption", "severities": 5}, r"severities: should be a list, e\.g\. \[5\] \(given: 5\)"),
        ({"name": "corruption", "severities": [6]}, r"tasks\.corruption: severities\.0: .*less than or equal to 5"),
    ],
)
def test_a_wrong_task_is_one_clear_error(task, message):
    with pytest.raises(UserError, match=message):
        tasks_of(suite(tasks=[task]))


def test_a_momentum_for_a_branch_that_no_method_has_is_refused_in_whole_suites():
    mistaken = suite(training={"bn_momentum": {"auxx": 0.1}})
    with pytest.raises(UserError, match=r"mine\.toml: training\.bn_momentum: unknown branch 'auxx'; allowed: main"):
        check(mistaken)
    both = suite(methods=[{"name": "standard"}, {"name": "advprop"}], training={"bn_momentum": {"aux": 0.1}})
    check(both)
    assert len(expand(narrowed(both, only=["standard"]))) == 1  # which is run like the others of its suite


def test_a_whole_suite_is_checked_with_its_tasks():
    with pytest.raises(UserError, match=r"mine\.toml: unknown task 'pdg'"):
        check(suite(tasks=[{"name": "pdg"}]))
