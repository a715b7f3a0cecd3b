from robusteval.records import Measurement
from robusteval.report.columns import columns, names

BENCHMARK = {"corruptions": 15, "severities": 5, "source": "generated", "generator": "1"}


def mean(**where):
    return Measurement(task="corruption", metric="mean_accuracy", value=0.5, n=10, where={"branch": "main"} | where)


def test_chosen_corruptions_never_share_a_column_with_the_benchmarks():
    found = names([mean(**BENCHMARK), mean(**BENCHMARK, names="fog saturate")])
    assert sorted(found.values()) == ["corruption_accuracy_generated", "corruption_accuracy_generated_15x5_chosen"]
    texts = {column.key: column.definition for column in columns(found)}
    assert "15 corruptions (fog saturate)" in texts["corruption_accuracy_generated_15x5_chosen"]
    assert "fog" not in texts["corruption_accuracy_generated"]
