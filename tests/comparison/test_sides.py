"""Which runs face which."""

from __future__ import annotations

import pytest

from robusteval.comparison import match
from robusteval.errors import UserError


def ids(pairs):
    return [tuple([stored.run.id for stored in side.runs] for side in pair) for pair in pairs]


def test_cells_are_matched_by_place_label_and_seed(make):
    before = [make("a", label=label, seed=seed) for label in ("one", "two") for seed in (0, 1)]
    after = [make("b", label=label, seed=seed) for label in ("two", "three") for seed in (1, 2)]
    found = match(before, after)
    assert ids(found.pairs) == [(["two-s1-c0ffee"], ["two-s1-c0ffee"])]
    assert [stored.run.id for stored in found.only_first] == ["one-s0-c0ffee", "one-s1-c0ffee", "two-s0-c0ffee"]
    assert [stored.run.id for stored in found.only_second] == ["three-s1-c0ffee", "three-s2-c0ffee", "two-s2-c0ffee"]


@pytest.mark.parametrize("field", ["dataset", "architecture", "label"])
def test_cells_that_differ_do_not_match(make, field):
    found = match([make("a")], [make("b", run={field: "another"})])
    assert not found.pairs
    assert (len(found.only_first), len(found.only_second)) == (1, 1)


def test_seeds_of_one_configuration_make_one_pair_even_where_options_changed(make):
    before = [make("a", seed=seed) for seed in range(3)]
    after = [make("b", seed=seed, run={"options": {"k": 2}, "id": f"new-{seed}"}) for seed in range(3)]
    (pair,) = match(before, after).pairs
    assert [side.seeds for side in pair] == [(0, 1, 2), (0, 1, 2)]


def test_runs_of_one_cell_are_matched_by_their_ids(make):
    before = [make("a", run={"id": name, "options": {"k": name}}) for name in ("x", "y")]
    after = [make("b", run={"id": name, "options": {"k": name}}) for name in ("y", "z")]
    found = match(before, after)
    assert ids(found.pairs) == [(["y"], ["y"]), (["x"], ["z"])]
    more = match(before, [*after, make("b", run={"id": "w", "options": {"k": "w"}})])
    assert ids(more.pairs) == [(["y"], ["y"])]
    assert [stored.run.id for stored in more.only_second] == ["w", "z"]


def test_sides_are_matched_whatever_their_labels(make):
    found = match([make(label="one", seed=seed) for seed in (1, 0)], [make(label="two")], by="side")
    assert ids(found.pairs) == [(["one-s0-c0ffee", "one-s1-c0ffee"], ["two-s0-c0ffee"])]


def test_sides_at_several_places_are_matched_by_place(make):
    def side(label, places):
        return [make(label=label, run={"architecture": place, "id": f"{label}-{place}"}) for place in places]

    found = match(side("one", ("r8", "r20")), side("two", ("r20", "r32")), by="side")
    assert ids(found.pairs) == [(["one-r20"], ["two-r20"])]
    assert [stored.run.id for stored in (*found.only_first, *found.only_second)] == ["one-r8", "two-r32"]


@pytest.mark.parametrize("changes", [{"options": {"k": 2}}, {"label": "other"}, {"training": {"lr": 1.0}}, {"seed": 0}])
def test_a_side_is_one_configuration(make, changes):
    runs = [make(run={"id": "x"}), make(run={"id": "y", "seed": 1} | changes)]
    with pytest.raises(UserError, match=r"B: runs that are not seeds of one configuration: x, y; allowed"):
        match([make("c")], runs, by="side")
