import pytest

from robusteval.records import Measurement
from robusteval.report.board.columns import attack_name, columns, names

BENCHMARK = {"corruptions": 15, "severities": 5, "source": "generated", "generator": "1"}


def mean(**where):
    return Measurement(task="corruption", metric="mean_accuracy", value=0.5, n=10, where={"branch": "main"} | where)


def test_chosen_corruptions_never_share_a_column_with_the_benchmarks():
    found = names([mean(**BENCHMARK), mean(**BENCHMARK, names="fog saturate")])
    assert sorted(found.values()) == ["corruption_accuracy_generated", "corruption_accuracy_generated_15x5_chosen"]
    texts = {column.key: column.definition for column in columns(found)}
    assert "15 corruptions (fog saturate)" in texts["corruption_accuracy_generated_15x5_chosen"]
    assert "fog" not in texts["corruption_accuracy_generated"]


LINF = {"norm": "Linf", "epsilon": "8/255"}


@pytest.mark.parametrize(
    ("task", "where", "name"),
    [
        ("autoattack", {"attack": "standard"}, "AutoAttack Linf 8/255"),
        ("pyautoattack", {"attack": "standard", "package": "pyautoattack 0.2"}, "AutoAttack (pyautoattack) Linf 8/255"),
        (
            "autoattack",
            {"attack": "apgd-ce apgd-t fab-t square", "steps": 50, "queries": 5000},
            "APGD-CE + APGD-T + FAB-T + Square Linf 8/255 50 steps 5000 queries",
        ),
        ("autoattack", {"attack": "apgd-dlr", "steps": 100}, "APGD-DLR Linf 8/255 100 steps"),
        ("autoattack", {"attack": "standard|x"}, "standard|x Linf 8/255"),
        ("autoattack", {}, "Unnamed ensemble Linf 8/255"),
        ("apgd", {"steps": 100, "restarts": 1, "loss": "dlr"}, "APGD-100 Linf 8/255 dlr loss"),
        ("pgd", {"steps": 20, "restarts": 5, "loss": "ce"}, "PGD-20 Linf 8/255 5 restarts"),
    ],
)
def test_only_the_standard_ensemble_is_called_autoattack(task, where, name):
    assert attack_name(task, LINF | where) == name
    one = Measurement(task=task, metric="robust_accuracy", value=0.5, n=10, where=LINF | where | {"branch": "main"})
    (column,) = columns(names([one]))
    assert (column.label, column.kind) == (name, "attack")


def test_the_names_of_an_ensembles_parts_are_those_that_the_task_records():
    """Every part that a custom ensemble may have is written in capitals, and none of them as AutoAttack."""
    from typing import get_args

    from robusteval.tasks.ensemble import Part

    for part in get_args(Part):
        name = attack_name("autoattack", {"attack": part})
        assert name.upper() == part.upper()
        assert name != part


def test_the_definition_of_an_h_score_says_which_interval_it_has():
    (found,) = (column for column in columns(names([mean(**BENCHMARK)])) if column.kind == "h_score")
    assert "delta method" in found.definition
    assert "Where the outcomes of single images were not kept" in found.definition
