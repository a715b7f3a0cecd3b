"""Costs side by side, and what changed."""

from __future__ import annotations

import pytest

from robusteval.comparison import compare
from robusteval.comparison.changes import common, without

TIME, MEMORY = "Training time", "Peak memory"


def pair(first, second, **options):
    (found,) = compare(first, second, by="side", **options).pairs
    return found, {cost.name: cost for cost in found.costs}


def test_costs_are_per_training_and_ratios_are_b_over_a(make):
    cost = {
        "forward": {"main": 3000, "aux": 1000},
        "backward": {"main": 2000},
        "flops": 3 * 10**12,
        "wall_s": {"train": 100.0},
        "peak_memory_bytes": 2**30,
        "images": 2000,
    }
    _, costs = pair([make(label="ours")], [make(label="theirs", cost=cost, run={"parameters": 1500})])
    assert {name: (one.first, one.second, one.ratio) for name, one in costs.items()} == {
        "Parameters": (1000, 1500, 1.5),
        "Training images seen": (1000, 2000, 2.0),
        "Forward passes per image": (1.0, 2.0, 2.0),
        "Backward passes per image": (1.0, 1.0, 1.0),
        "FLOPs of training": (1e12, 3e12, 3.0),
        TIME: (40.0, 100.0, 2.5),
        MEMORY: (2**29, 2**30, 2.0),
    }


def test_costs_of_seeds_are_means(make):
    ours = [make(label="ours", seed=seed, cost={"wall_s": {"train": 10.0 * (seed + 1)}}) for seed in range(3)]
    _, costs = pair(ours, [make(label="theirs")])
    assert (costs[TIME].first, costs[TIME].ratio) == (20.0, 2.0)


@pytest.mark.parametrize(
    ("changes", "withheld"),
    [
        ({"cost": {"device": "H200"}}, {TIME, MEMORY}),
        ({"cost": {"threads": 8}}, {TIME}),
        ({"cost": {"precision": "float32"}}, {TIME}),
        ({"provenance": {"cpu": "Xeon"}}, {TIME}),
        ({"provenance": {"platform": "Darwin"}}, set()),
    ],
)
def test_seconds_and_bytes_are_compared_on_like_hardware_only(make, changes, withheld):
    found, costs = pair([make(label="ours")], [make(label="theirs", **changes)])
    assert {name for name, cost in costs.items() if cost.ratio is None} == withheld
    assert all(None not in (cost.first, cost.second) for cost in costs.values())
    told = {name for caution in found.cautions for name in caution.scores if caution.topic == "Different machines"}
    assert told == withheld
    assert all(line.p is not None for line in found.scores)


def test_what_differs_between_machines_is_said_at_once(make):
    theirs = make(label="theirs", cost={"device": "H200", "threads": 8}, provenance={"cpu": "Xeon"})
    (caution,) = pair([make(label="ours")], [theirs])[0].cautions
    assert caution.text == "device A cpu, B H200; processor A EPYC, B Xeon; threads A 2, B 8."
    assert caution.scores == (TIME, MEMORY)


def test_tasks_that_judged_one_side_alone_are_no_change(make):
    """What is missing shows in the scores; here it would drown what changed."""
    ours, theirs = make(label="same"), make("b", label="same", tasks=("clean",), judged={"threads": 8})
    found, _ = pair([ours], [theirs])
    assert changes_of(found) == {("Environment of evaluation", "threads"): ((2,), (8,))}
    failed = make("c", label="same", tasks=(), run={"status": "failed", "error": "x", "weights_sha256": None})
    found, _ = pair([ours], [failed])
    assert {section.title for section in found.changes} == {"Configuration"}


def test_the_cost_of_a_teacher_is_not_hidden(make):
    teacher = make(label="teacher", cost={"flops": 5 * 10**12})
    pupil = make(label="pupil", run={"teacher": teacher.run.id})
    found, costs = pair([make(label="ours")], [pupil], beside=[teacher])
    own = {"Forward passes per image", "Backward passes per image", "FLOPs of training", TIME}
    assert {name for name, cost in costs.items() if cost.ratio is None} == own
    together = costs["FLOPs with the teacher's"]
    assert (together.first, together.second, together.ratio) == (1e12, 6e12, 6.0)
    (caution,) = found.cautions
    assert caution.topic == "Different teachers"
    assert all(line.p is not None for line in found.scores)
    same, _ = pair([pupil], [make("b", label="pupil", seed=1, run={"teacher": teacher.run.id})], beside=[teacher])
    assert same.cautions == ()


def test_a_training_that_did_not_finish_has_no_cost(make):
    failed = make(label="theirs", run={"status": "failed", "weights_sha256": None})
    _, costs = pair([make(label="ours")], [failed])
    assert (costs[TIME].second, costs[TIME].ratio) == (None, None)


def changes_of(found):
    return {(section.title, one.name): (one.first, one.second) for section in found.changes for one in section.changes}


def test_everything_that_changed_is_listed_and_nothing_else(make):
    ours = make(label="same", options={"start": "random"})
    theirs = make(
        "b",
        label="same",
        run={
            "id": ours.run.id,
            "options": {"epsilon": 0.5, "awp": {"gamma": 0.01}},
            "training": {"epochs": 2, "lr": 0.2},
            "train_data": ours.run.train_data.model_copy(update={"n": 300, "digest": "ff" * 32}),
        },
        options={"start": "zero"},
        version=2,
        source={"generator": "2"},
        provenance={"threads": 8, "packages": {"torch": "2.16.0"}, "robusteval": "0.2.0", "commit": None},
        judged={"device": "H200"},
    )
    found, _ = pair([ours], [theirs])
    assert changes_of(found) == {
        ("Options", "epsilon"): ((), (0.5,)),
        ("Options", "awp.gamma"): ((), (0.01,)),
        ("Training", "lr"): ((0.1,), (0.2,)),
        ("Training data", "n"): ((400,), (300,)),
        ("Training data", "digest"): (("1f" * 32,), ("ff" * 32,)),
        ("Tasks", "corruption.images.generator"): (("1",), ("2",)),
        ("Tasks", "pgd.version"): ((1,), (2,)),
        ("Tasks", "pgd.start"): (("random",), ("zero",)),
        ("Environment of training", "robusteval"): (("0.1.0",), ("0.2.0",)),
        ("Environment of training", "commit"): (("01" * 20,), (None,)),
        ("Environment of training", "packages.torch"): (("2.15.0",), ("2.16.0",)),
        ("Environment of training", "threads"): ((2,), (8,)),
        ("Environment of evaluation", "device"): (("cpu",), ("H200",)),
    }


def test_the_values_of_all_seeds_are_listed(make):
    ours = [make(label="same", seed=seed, provenance={"threads": 2 + seed}) for seed in (0, 1)]
    found, _ = pair(ours, [make(label="same", seed=2, run={"options": {}})])
    assert changes_of(found) == {
        ("Configuration", "seed"): ((0, 1), (2,)),
        ("Environment of training", "threads"): ((2, 3), (2,)),
    }


def test_what_all_pairs_share_is_split_off(make):
    before = [make("a", label=label) for label in ("one", "two")]
    after = [
        make("b", label=label, provenance={"robusteval": "0.2.0"}, run={"options": {"k": k}})
        for k, label in enumerate(("one", "two"))
    ]
    sections = [found.changes for found in compare(before, after).pairs]
    shared = common(sections)
    assert [(section.title, [one.name for one in section.changes]) for section in shared] == [
        ("Environment of training", ["robusteval"])
    ]
    assert [[section.title for section in without(own, shared)] for own in sections] == [["Options"], ["Options"]]
    assert common(sections[:1]) == ()
