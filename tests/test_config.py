"""Suites: TOML to checked tables, ``--set``, ``--only``, ``--seed``."""

import subprocess
import sys

import pytest

from robusteval.cells import tasks_of
from robusteval.config import MethodTable, Suite, TaskTable, change, load_suite, narrowed, parse_suite, shipped
from robusteval.errors import UserError
from robusteval.tasks import Clean, Corruption, Pgd

SUITE = """
name = "mine"
datasets = ["cifar10-sample"]
seeds = [3, 4]

[training]
epochs = 2

[[methods]]
name = "standard"

[[methods]]
name = "entprop"
label = "big k"
k = 0.6
[methods.training]
lr = 0.05

[[tasks]]
name = "pgd"
epsilon = "4/255"
"""


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


def test_a_suite_is_read_as_written(suite_file):
    assert load_suite(str(suite_file)) == Suite(
        name="mine",
        datasets=("cifar10-sample",),
        architectures=("resnet8",),
        seeds=(3, 4),
        training={"epochs": 2},
        methods=(
            MethodTable(name="standard"),
            MethodTable(name="entprop", label="big k", options={"k": 0.6}, training={"lr": 0.05}),
        ),
        tasks=(TaskTable(name="pgd", options={"epsilon": "4/255"}),),
    )


def test_settings_change_what_they_name(suite_file):
    suite = load_suite(
        str(suite_file),
        [
            "training.epochs=5",
            "training.schedule=step",
            "training.milestones=[0.3, 0.6]",
            "seeds=[7]",
            "methods.big k.k=0.2",
            "methods.entprop.training.lr=0.2",
            "methods.standard.training.epochs=9",
            "tasks.pgd.epsilon=2/255",
            'name="other"',
        ],
    )
    assert suite.training == {"epochs": 5, "schedule": "step", "milestones": [0.3, 0.6]}
    assert suite.methods[0].training == {"epochs": 9}
    assert (suite.methods[1].options, suite.methods[1].training) == ({"k": 0.2}, {"lr": 0.2})
    assert suite.tasks[0].options == {"epsilon": "2/255"}
    assert (suite.name, suite.seeds) == ("other", (7,))


def test_a_setting_changes_every_method_of_that_name():
    table = {"methods": [{"name": "a", "label": "1"}, {"name": "a", "label": "2"}, {"name": "b"}]}
    change(table, "methods.a.k=1")
    change(table, "methods.2.k=2")
    assert [method.get("k") for method in table["methods"]] == [1, 2, None]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epochs", r"not of the form key=value"),
        ("=3", r"not of the form key=value"),
        ("training..epochs=3", r"not of the form key=value"),
        ("methods.entprop=3", r"methods\.NAME\.KEY=value"),
        ("methods.entrop.k=3", r"unknown method 'entrop'; did you mean 'entprop'\?; allowed: entprop, standard"),
        ("tasks.pdg.steps=3", r"unknown task 'pdg'; did you mean 'pgd'\?"),
        ("training.epochs.x=3", r"epochs is a value, not a table"),
        ("seed=3", r"mine\.toml: unknown key 'seed'; did you mean 'seeds'\?"),
        ("seeds=3", r"mine\.toml: seeds: should be a list, e\.g\. \[3\] \(given: 3\)"),
        ("seeds=[]", r"seeds: tuple should have at least 1 item"),
        ("seeds=[-1]", r"seeds\.0: input should be greater than or equal to 0 \(given: -1\)"),
        ('seeds=["1"]', r"seeds\.0: input should be a valid integer \(given: '1'\)"),
        ("training=3", r"training: input should be a valid dictionary \(given: 3\)"),
        ("methods=3", r"not a table|say which"),
        ("name=3", r"name: input should be a valid string \(given: 3\)"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(suite_file, setting, message):
    with pytest.raises(UserError, match=message) as caught:
        load_suite(str(suite_file), ["training.epochs=3", setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", r"mine\.toml: not valid TOML: Invalid value \(at end of document\)"),
        ('name = "a"', r"methods: tuple should have at least 1 item"),
        ('name = "a"\nmethods = ["standard"]', r"methods: must be an array of tables: write \[\[methods\]\]"),
        ('name = "a"\n[[methods]]\nlabel = "b"', r"mine\.toml: methods\[0\]: name: field required"),
        ('[[methods]]\nname = "standard"', r"mine\.toml: name: field required"),
        ('name = "a"\n[[methods]]\nname = 3', r"methods\[0\]: name: input should be a valid string \(given: 3\)"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_suite(str(path))


METHOD = "name = 'a'\n[[methods]]\nname = 'standard'\n"


def test_a_suite_that_says_nothing_of_tasks_is_judged_by_all_three(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(METHOD)
    assert tasks_of(load_suite(str(path))) == (Clean(), Corruption(), Pgd())
    assert tasks_of(load_suite(str(path), ["tasks.pgd.steps=3"])) == (Clean(), Corruption(), Pgd(steps=3))
    path.write_text("tasks = []\n" + METHOD)
    assert load_suite(str(path)).tasks == ()
    method = MethodTable(name="standard")
    assert Suite(name="a", methods=(method,)) == parse_suite({"name": "a", "methods": [{"name": "standard"}]}, "a")


def test_where_a_suite_came_from_is_no_key(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("source = 'x'\n" + METHOD)
    with pytest.raises(UserError, match=r"mine\.toml: unknown key 'source'; .*allowed: architectures, datasets, desc"):
        load_suite(str(path))


def test_a_missing_suite_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="unknown suite 'quik'; did you mean 'quick'"):
        load_suite("quik")
    with pytest.raises(UserError, match=r"nothing\.toml: cannot be read: No such file"):
        load_suite(str(tmp_path / "nothing.toml"))


def test_narrowing_keeps_the_rest(suite_file):
    suite = load_suite(str(suite_file))
    assert narrowed(suite) == suite
    assert narrowed(suite, only=["big k"], seeds=[9]).methods == suite.methods[1:]
    assert narrowed(suite, only=["entprop"], seeds=[9]).seeds == (9,)
    assert narrowed(suite, only=["standard", "entprop"]).methods == suite.methods
    with pytest.raises(UserError, match=r"--only: unknown method 'entrop'; did you mean 'entprop'\?; allowed: big k"):
        narrowed(suite, only=["entrop"])


def test_the_shipped_suites_are_what_they_are_called():
    assert {"quick", "smoke", "methods", "cifar10", "cifar100"} <= set(shipped())
    for name, path in shipped().items():
        suite = load_suite(name)
        assert suite.name == name == path.stem
        assert suite.description
    quick = load_suite("quick")
    assert [table.name for table in quick.methods] == ["standard", "mixup", "pgd_at", "advprop", "entprop"]
    assert (quick.datasets, quick.architectures) == (("cifar10-sample",), ("resnet8",))


@pytest.mark.parametrize(("name", "without"), [("smoke", set()), ("methods", {"fgsm", "apgd", "autoattack"})])
def test_suites_that_mean_all_methods_have_them_all(name, without):
    from robusteval.methods import METHODS
    from robusteval.tasks import TASKS

    suite = load_suite(name)
    assert {table.name for table in suite.methods} == set(METHODS)
    others = {"pyautoattack"}  # another package's
    assert {table.name for table in suite.tasks} == set(TASKS) - others - without


def test_reading_a_suite_does_not_import_torch():
    code = "import sys; from robusteval.config import load_suite; load_suite('quick'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tables_and_lists_in_methods_pass_through():
    suite = parse_suite({"name": "a", "methods": [{"name": "m", "options": {"x": 1}, "weights": [1, 2]}]}, "a")
    assert suite.methods[0].options == {"options": {"x": 1}, "weights": [1, 2]}


def test_an_installed_package_ships_its_own_copies(tmp_path, monkeypatch):
    """Where the package holds suites, those count; in a checkout it holds none and ``benchmarks`` is beside it."""
    package = tmp_path / "robusteval"
    for folder, name in ((package / "suites", "inside"), (tmp_path / "benchmarks", "beside")):
        folder.mkdir(parents=True)
        (folder / f"{name}.toml").write_text("")
    monkeypatch.setattr("robusteval.config.__file__", str(package / "config.py"))
    assert shipped() == {"inside": package / "suites" / "inside.toml"}
    (package / "suites" / "inside.toml").unlink()
    (package / "suites").rmdir()
    assert shipped() == {"beside": tmp_path / "benchmarks" / "beside.toml"}
