"""What the gate says of numbers that fell, rose, are gone or were measured otherwise, and of costs."""

import numpy as np
import pytest

from robusteval import cells
from robusteval.check.changes import NO_INFLUENCE, changed_quantity
from robusteval.check.gate import judge
from robusteval.check.rules import ruled
from robusteval.errors import UserError

N = 400


def outcomes(share, seeds=5, n=N, seed=0):
    return np.random.default_rng(seed).random((seeds, n)) < share


@pytest.fixture
def before(baseline):
    return baseline({("a", "main", "clean"): outcomes(0.8), ("a", "main", "PGD"): outcomes(0.4, seed=1)})


def verdicts(gate):
    return {(one.cell, one.branch, one.subject): (one.verdict, one.weight) for one in gate.findings}


def test_equal_numbers_are_green(before):
    gate = judge(before, before)
    assert not gate.red
    assert {one.verdict for one in gate.findings} == {"same"}
    assert gate.compared == 2


def test_a_drop_is_red_and_is_told(before, baseline):
    now = baseline({("a", "main", "clean"): outcomes(0.5, 1, seed=2), ("a", "main", "PGD"): outcomes(0.4, 1, seed=3)})
    gate = judge(before, now)
    (error,) = gate.errors
    assert (error.verdict, error.subject) == ("regression", "clean")
    assert error.drop.low > 0.1
    assert error.text.startswith(f"fell by {100 * error.drop.value:.1f} points (")
    assert f"from {100 * error.before:.1f} % to {100 * error.now:.1f} %; tolerated: 1.0 points" in error.text
    assert judge(ruled(before, {"clean": 0.5}), now).red is False
    assert judge(ruled(before, {None: 0.5}), now).red is False
    assert judge(ruled(before, {"attack": 0.5}), now).red is True


def test_a_rise_is_news(before, baseline):
    now = baseline({("a", "main", "clean"): outcomes(0.99, 1, seed=2), ("a", "main", "PGD"): outcomes(0.9, 1, seed=3)})
    gate = judge(before, now)
    assert {one.subject: (one.verdict, one.weight) for one in gate.findings} == {
        "clean": ("better", "news"),
        "PGD": ("better", "warning"),
    }
    assert not gate.red
    (warning,) = gate.of("warning")
    assert warning.text.endswith("if that is meant: `--update`; or did the attack get weaker?")


def test_numbers_that_cannot_turn_red_are_counted(baseline):
    # With 20 images even a fall from 20 % to nothing is chance, with 2,000 it is not.
    told = "1 of 2 numbers could fall to 0 without an error"
    few, many = (("a", "main", name) for name in ("few", "many"))
    old = {few: outcomes(0.2, n=20), many: outcomes(0.2, n=2000)}
    parts = [baseline({place: scores}) for place, scores in old.items()]
    numbers = {key: number for part in parts for *_, key, number in part.numbers()}
    quantities = {key: quantity for part in parts for key, quantity in part.quantities.items()}
    cell = parts[0].cells["a"].model_copy(update={"numbers": {"main": numbers}})
    both = parts[0].model_copy(update={"quantities": quantities, "cells": {"a": cell}})
    assert [note[: len(told)] for note in judge(both, both).notes] == [told]
    nothing = judge(parts[0], baseline({few: outcomes(0.0, n=20)}))
    assert not nothing.red
    assert nothing.notes
    assert judge(parts[1], baseline({many: outcomes(0.0, n=2000)})).red
    assert not judge(parts[1], parts[1]).notes


def test_the_same_weights_leave_no_room_for_seeds(baseline):
    rng = np.random.default_rng(5)
    noisy = np.stack([rng.random(N) < share for share in (0.5, 0.6, 0.7, 0.8, 0.9)])
    before = baseline({("a", "main", "clean"): noisy, ("a", "main", "PGD"): noisy}, weights="w")
    worse = noisy[:1].copy()
    worse[:, np.flatnonzero(worse[0])[:60]] = False
    numbers = {("a", "main", "clean"): worse, ("a", "main", "PGD"): ~worse | noisy[:1]}
    retrained, rejudged = (judge(before, baseline(numbers, weights=one)) for one in ("v", "w"))
    assert {one.verdict for one in retrained.findings} == {"within"}
    assert [one.verdict for one in rejudged.findings] == ["regression", "weaker attack"]
    assert rejudged.red


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quantity": {"version": 2}}, "version of the task was 1 and is 2"),
        ({"quantity": {"images": "ff" * 32}}, "digest of the test images was abababababab and is ffffffffffff"),
        ({"quantity": {"where": {"epsilon": "4/255"}}}, "epsilon was 8/255 and is 4/255"),
        ({"quantity": {"options": {"steps": 9}}}, "option steps was 5 and is 9"),
        ({"quantity": {"options": {}}}, "option steps was 5 and is gone"),
        ({"cell": {"options": {"k": 2}}}, "option k was 1 and is 2"),
        ({"cell": {"training": {"epochs": 3}}}, "training.epochs was 2 and is 3"),
        ({"cell": {"train_images": ("cd" * 32, 99)}}, "number of training images was 100 and is 99"),
        ({"cell": {"method": "mixup"}}, "method was standard and is mixup"),
    ],
)
def test_what_was_measured_otherwise_is_an_error(before, baseline, change, told):
    numbers = {("a", "main", "clean"): outcomes(0.8), ("a", "main", "PGD"): outcomes(0.4, seed=1)}
    gate = judge(before, baseline(numbers, **change))
    assert {one.verdict for one in gate.findings} == {"not comparable"}
    assert gate.red
    assert all(one.text.startswith(told) and "--update" in one.text for one in gate.findings)


def test_an_option_that_is_new_is_no_difference(before, baseline):
    numbers = {("a", "main", "clean"): outcomes(0.8), ("a", "main", "PGD"): outcomes(0.4, seed=1)}
    now = baseline(numbers, cell={"options": {"k": 1, "added": 0}}, quantity={"options": {"steps": 5, "added": 0}})
    assert {one.verdict for one in judge(before, now).findings} == {"same"}


def test_what_cannot_change_the_weights_is_no_difference(baseline):
    numbers = {("a", "main", "clean"): outcomes(0.8)}
    old, new = (baseline(numbers, cell={"training": dict.fromkeys(NO_INFLUENCE, value)}) for value in (1, 2))
    assert not judge(old, new).red
    assert NO_INFLUENCE == cells._NO_INFLUENCE


def test_an_option_that_names_the_quantity_is_told_once(before):
    known = before.quantities["PGD"]
    old, new = (
        known.model_copy(update={"where": {"epsilon": told}, "options": {"epsilon": value, "steps": 5}})
        for told, value in (("8/255", 8 / 255), ("4/255", 4 / 255))
    )
    assert changed_quantity(old, new) == "epsilon was 8/255 and is 4/255"
    bare = old.model_copy(update={"where": {}})
    assert changed_quantity(bare, new).startswith("option epsilon was 0.03")


def test_fewer_images_are_not_comparable(before, baseline):
    now = baseline({("a", "main", "clean"): outcomes(0.8, n=N - 1), ("a", "main", "PGD"): outcomes(0.4, seed=1)})
    (error,) = judge(before, now).errors
    assert (error.subject, error.verdict) == ("clean", "not comparable")
    assert "test images was 400 and is 399" in error.text


def test_what_disappears_is_an_error_and_what_appears_is_news(before, baseline):
    now = baseline({("a", "main", "clean"): outcomes(0.8), ("b", "main", "clean"): outcomes(0.8)})
    assert verdicts(judge(before, now)) == {
        ("a", "main", "PGD"): ("missing", "error"),
        ("b", "main", "clean"): ("new", "news"),
        ("a", "main", "clean"): ("same", "fine"),
    }
    other = judge(before, baseline({("b", "main", "clean"): outcomes(0.8)}))
    assert {one.text for one in other.errors} == {
        "the baseline has this cell and the runs do not; if that is meant: `--update`"
    }
    branch = judge(before, baseline({("a", "aux", "clean"): outcomes(0.8), ("a", "aux", "PGD"): outcomes(0.8)}))
    assert {one.text for one in branch.errors} == {
        "there is no branch main any more; there are: aux; if that is meant: `--update`"
    }


def test_a_failed_seed_is_an_error(before, baseline):
    numbers = {("a", "main", "clean"): outcomes(0.8), ("a", "main", "PGD"): outcomes(0.4, seed=1)}
    (error,) = judge(before, baseline(numbers, failed={"7": "training: Diverged"})).errors
    assert (error.subject, error.text) == ("seed 7", "it failed: training: Diverged")


@pytest.mark.parametrize(("was", "red"), [("ok", True), ("unchecked", True), ("flagged", False)])
def test_lost_trust_is_an_error(baseline, was, red):
    numbers = {("a", "main", "PGD"): outcomes(0.4)}
    gate = judge(baseline(numbers, trust=was), baseline(numbers, trust="flagged"))
    assert gate.red is red
    assert [one.verdict for one in gate.errors] == ["flagged"] * red


def bill(baseline, *costs, wall=None):
    numbers = {("a", "main", "clean"): outcomes(0.8, len(costs))}
    return baseline(numbers, cost={"a": list(costs)}, wall=wall)


def test_costs_are_compared_to_the_last_pass(baseline):
    old = bill(baseline, ({"main": 100, "aux": 50}, 1000))
    for now, subject, verdict in (
        (({"main": 101, "aux": 50}, 1000), "forward passes", "costlier"),
        (({"main": 100, "aux": 50}, 1001), "FLOPs", "costlier"),
        (({"main": 100, "aux": 50, "new": 1}, 1000), "backward passes", "costlier"),
        (({"main": 99, "aux": 50}, 1000), "forward passes", "cheaper"),
        (({"main": 100, "aux": 50}, 1000), "FLOPs", "same"),
    ):
        gate = judge(old, bill(baseline, now))
        assert verdicts(gate)["a", "", subject][0] == verdict
        assert gate.red is (verdict == "costlier")
    (rise,) = judge(old, bill(baseline, ({"main": 100, "aux": 50}, 1001))).errors
    assert rise.text == "rose: 1,000 to 1,001 (+0.1 %)"


def test_costs_that_differ_by_seed_are_compared_seed_by_seed(baseline):
    old = bill(baseline, ({"main": 100}, 10), ({"main": 120}, 12))
    assert not judge(old, bill(baseline, ({"main": 100}, 10))).red
    assert judge(old, bill(baseline, ({"main": 120}, 10))).red  # seed 0 took 100


def test_costs_that_disappear_are_an_error(baseline):
    (error,) = judge(bill(baseline, ({"main": 1}, 1)), baseline({("a", "main", "clean"): outcomes(0.8, 1)})).errors
    assert (error.subject, error.verdict) == ("passes and FLOPs", "missing")


def test_time_only_warns_and_only_if_it_rose_a_lot(baseline):
    cost = ({"main": 1}, 1)
    old = bill(baseline, cost, wall=10.0)
    for wall, verdict in ((14.9, "within"), (15.1, "slower"), (1.0, "within")):
        gate = judge(old, bill(baseline, cost, wall=wall))
        assert verdicts(gate)["a", "", "training time"][0] == verdict
        assert not gate.red
    assert judge(old, bill(baseline, cost, wall=15.1), slow_fails=True).red
    assert ("a", "", "training time") not in verdicts(judge(old, bill(baseline, cost)))


def test_one_training_without_another_is_said_to_be_one(baseline):
    gate = judge(*(baseline({("a", "main", "clean"): outcomes(0.8, 1, seed=seed)}) for seed in (0, 1)))
    assert "how much trainings differ from each other is not known" in gate.notes[0]


def test_a_tolerance_for_nothing_is_a_mistake(before):
    with pytest.raises(UserError, match="unknown number 'claen'; did you mean 'clean'"):
        ruled(before, {"claen": 0.1})
