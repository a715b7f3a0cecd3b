"""Branches that face each other: which do, what is tested together, and two branches of the same trainings."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console
from scipy.stats import binomtest
from scipy.stats import t as student

from robusteval.comparison import as_json, as_markdown, as_terminal, compare
from robusteval.errors import UserError
from robusteval.records import Reason


def shown(comparison, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(as_terminal(comparison))
    return console.file.getvalue()


def only_pair(*args, **options):
    found = compare(*args, by="side", **options)
    return found.pairs[0], found


def names(pair):
    return [(one.first, one.second) for one in pair.others]


def share(right):
    """The share of right answers, and what rises with it in the other tasks."""
    return np.arange(200) < right


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((("main",), "main"), (("main",), "main"), []),
        ((("main",), "main"), (("main", "aux"), "main"), [(None, "aux")]),
        ((("main", "aux"), "main"), (("main", "aux"), "main"), [("aux", "aux")]),
        # What faces another name as deployed faces its own as well, where there is one.
        ((("main",), "main"), (("adv", "main"), "adv"), [("main", "main")]),
        ((("main", "aux"), "main"), (("aux", "main"), "aux"), [("main", "main"), ("aux", "aux")]),
        ((("main", "b"), "main"), (("main", "c"), "main"), [("b", None), (None, "c")]),
    ],
)
def test_deployed_branches_face_each_other_and_the_others_their_names(make, ours, theirs, expected):
    def run(label, branches, deployed):
        others = {name: {} for name in branches if name != deployed}
        return make(label=label, others=others, run={"deployed": deployed, "branches": branches})

    pair, _ = only_pair([run("ours", *ours)], [run("theirs", *theirs)])
    assert names(pair) == expected
    assert (pair.first.branch, pair.second.branch) == (ours[1], theirs[1])
    for facing in pair.others:
        assert len(facing.scores) == 4
        if facing.both:
            assert all(line.p is not None for line in facing.scores)
        else:
            assert {line.verdict for line in facing.scores} == {"missing"}
            side = "second" if facing.first is None else "first"
            assert all(getattr(line, side) is not None for line in facing.scores)


def test_scores_are_those_of_the_branch(make):
    ours = make(label="ours", others={"aux": {"clean": share(100), "fog1": share(50)}})
    theirs = make(label="theirs", others={"aux": {"clean": share(120), "fog1": share(90)}})
    pair, _ = only_pair([ours], [theirs])
    (aux,) = pair.others
    lines = {line.kind: line for line in aux.scores}
    assert (lines["clean"].first, lines["clean"].second) == (0.5, 0.6)
    assert (lines["clean"].first_only, lines["clean"].second_only) == (0, 20)
    assert lines["clean"].p == pytest.approx(binomtest(0, 20).pvalue)
    with np.load(io.BytesIO((theirs.folder / "tasks/corruption-0a1b.npz").read_bytes())) as arrays:
        of_aux = [arrays[str(place)] for place in range(4, 8)]  # the four of main come first
    assert lines["corruption"].second == pytest.approx(np.mean(of_aux))
    assert np.array_equal(of_aux[0], share(90))


def adjusted(lines):
    """Holm's correction, written out."""
    p = sorted(line.p for line in lines)
    raised = np.minimum(np.maximum.accumulate([(len(p) - place) * one for place, one in enumerate(p)]), 1)
    return dict(zip(p, raised, strict=True))


def test_deployed_branches_are_one_family_of_tests_and_the_others_another(make):
    def runs(folder, right):
        return [
            make(folder, label=label, outcomes={"clean": share(right)}, others={"aux": {}, "third": {}})
            for label in ("one", "two")
        ]

    def alone(folder, right):
        return [make(folder, label=label, outcomes={"clean": share(right)}) for label in ("one", "two")]

    before, after = runs("a", 100), runs("b", 112)
    for one in after:
        changed = np.load(io.BytesIO((one.folder / "tasks/clean-0a1b.npz").read_bytes()))
        assert len(changed.files) == 3
    found = compare(before, after)
    deployed = [line for pair in found.pairs for line in pair.scores]
    others = [line for pair in found.pairs for facing in pair.others for line in facing.scores]
    assert (found.tests, found.tests_of_others) == (len(deployed), len(others)) == (8, 16)
    for family in (deployed, others):
        expected = adjusted(family)
        for line in family:
            assert line.p_holm == pytest.approx(expected[line.p])
    # So branches that nobody ships cost the deployed ones nothing: 12 images of 200, in a family of 8 and of 24.
    plain = compare(alone("c", 100), alone("d", 112))
    assert [line.p_holm for pair in plain.pairs for line in pair.scores] == [line.p_holm for line in deployed]
    (p,) = {line.p for line in deployed if line.kind == "clean"}
    assert p * 8 < 0.05 < p * 24 * 5


def test_two_branches_of_one_run(make):
    run = make(label="ours", others={"aux": {}})
    pair, found = only_pair([run], [run], branches=("main", "aux"))
    assert (pair.first.branch, pair.second.branch, pair.others) == ("main", "aux", ())
    assert pair.same_weights
    assert pair.same_runs
    assert not pair.same
    assert (pair.changes, pair.cautions) == ((), ())
    assert found.tests == 4
    back, _ = only_pair([run], [run], branches=("aux", "main"))
    for line, other in zip(pair.scores, back.scores, strict=True):
        assert line.difference == pytest.approx(-other.difference)
    text = shown(found)
    assert "ours: main (A), aux (B): two branches of the same network" in text
    assert "A and B: " in text
    assert "Backward passes" not in text
    same, _ = only_pair([run], [run], branches=("aux", "aux"))
    assert same.same


def test_seeds_of_two_branches_of_the_same_trainings_are_paired(make):
    """Seeds lift both branches alike, so their part of the variance is that of the seeds' differences."""
    rng = np.random.default_rng(8)
    runs = []
    for seed, right in enumerate((90, 120, 150)):
        aux = share(right) ^ (rng.random(200) < 0.1)
        runs.append(make(label="ours", seed=seed, outcomes={"clean": share(right)}, others={"aux": {"clean": aux}}))
    pair, _ = only_pair(runs, runs, branches=("main", "aux"))
    line = next(line for line in pair.scores if line.kind == "clean")

    def outcomes(place):
        files = [io.BytesIO((stored.folder / "tasks/clean-0a1b.npz").read_bytes()) for stored in runs]
        return np.array([np.load(file)[place] for file in files], float)

    differences = outcomes("1") - outcomes("0")
    of_images = differences.mean(axis=0).var(ddof=1) / 200
    of_seeds = differences.mean(axis=1).var(ddof=1) / 3
    freedom = (of_images + of_seeds) ** 2 / (of_images**2 / 199 + of_seeds**2 / 2)
    error = np.sqrt(of_images + of_seeds)
    assert line.difference == pytest.approx(differences.mean())
    assert line.p == pytest.approx(2 * student.sf(abs(differences.mean()) / error, freedom))
    half = student.ppf(0.975, freedom) * error
    assert (line.low, line.high) == pytest.approx((differences.mean() - half, differences.mean() + half))
    # As if they had been drawn apart, the seeds would drown everything.
    apart = outcomes("1").mean(axis=1).var(ddof=1) / 3 + outcomes("0").mean(axis=1).var(ddof=1) / 3
    assert of_seeds < apart / 5


def test_runs_without_the_branch_are_left_out_and_an_unknown_branch_is_told(make):
    both = [make(label="one", others={"aux": {}}), make(label="two")]
    found = compare(both, both, branches=("aux", "aux"))
    assert [pair.first.label for pair in found.pairs] == ["one"]
    found = compare(both, both, branches=("main", "aux"))
    assert [stored.run.label for stored in found.only_first] == ["two"]
    told = re.escape("A: unknown branch 'axu'; did you mean 'aux'?; allowed: aux, main")
    with pytest.raises(UserError, match=told):
        compare(both, both, branches=("axu", "aux"))
    with pytest.raises(UserError, match=re.escape("B (two): unknown branch 'aux'; allowed: main")):
        compare(both, both[1:], branches=(None, "aux"))


def test_a_branch_that_was_not_judged_on_both_sides_is_missing_not_zero(make):
    ours = make(label="ours", others={"aux": {}})
    theirs = make(label="theirs", others={"aux": {}}, tasks=("clean",))
    pair, _ = only_pair([ours], [theirs])
    (aux,) = pair.others
    assert {line.kind: line.verdict == "missing" for line in aux.scores} == {
        "clean": False,
        "corruption": True,
        "h_score": True,
        "attack": True,
    }
    nowhere = make("c", label="x", run={"branches": ("main", "aux")})
    pair, _ = only_pair([nowhere], [nowhere])
    assert pair.others == ()


def test_a_doubtful_number_that_stands_alone_is_told_all_the_same(make):
    doubt = Reason(name="masking", evidence="loss is flat", text="why")
    theirs = make(label="theirs", others={"aux": {}}, reasons=(doubt,))
    pair, _ = only_pair([make(label="ours")], [theirs])
    (caution,) = pair.cautions
    assert caution.topic == "Doubtful number"
    assert caution.scores == ("PGD-20 Linf 8/255", "PGD-20 Linf 8/255 (aux)")
    pair, _ = only_pair([make("c", label="ours", tasks=("clean",))], [theirs])
    assert [caution.topic for caution in pair.cautions] == ["Doubtful number"]


def test_cautions_name_the_branch(make):
    ours, theirs = (make(label=name, others={"aux": {}}, version=v) for name, v in (("ours", 1), ("theirs", 2)))
    pair, _ = only_pair([ours], [theirs])
    (caution,) = pair.cautions
    assert caution.topic == "Different task version"
    assert caution.scores == ("PGD-20 Linf 8/255", "PGD-20 Linf 8/255 (aux)")
    assert pair.others[0].scores[-1].verdict == "not comparable"


@pytest.fixture
def full(make):
    """Pairs with branches of both sides, of one, and deployed ones of other names."""
    hostile = "[red] `<b>` | @x\n"
    before = [make("a", label="one", others={"aux": {}, hostile: {}, "mine": {}}), make("a", label="two")]
    after = [
        make("b", label="one", weights="9" * 64, others={"aux": {}, hostile: {}}),
        make(
            "b",
            label="two",
            weights="8" * 64,
            others={"x" * 70: {}},
            run={"deployed": "adv", "branches": ("adv", "x" * 70)},
        ),
    ]
    return compare(before, after)


@pytest.mark.parametrize("width", [80, 120])
def test_branches_are_shown_in_a_terminal(full, width):
    text = shown(full, width)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
    for told in ("Deployed: main\n", "Branch aux\n", "Branch mine, only A: Clean accuracy"):
        assert told in re.sub(r" +\n", "\n", text), told
    flat = " ".join(text.split())
    assert "Deployed: main (A), adv (B)" in flat
    assert "Scores of B's other branches: 8 not distinguishable" in flat
    assert "over the 8 tests of deployed branches, and apart from them over the 8 tests of other branches" in flat
    assert re.search(r"^one, branch( aux)? ", text, re.MULTILINE)
    assert "…" not in text.replace("x…", "")


def test_branches_are_shown_in_markdown(full):
    text = as_markdown(full)
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    assert "Branch <code>[red] `&lt;b&gt;` | @x</code>" in page
    assert "Branch <code>mine</code>, only A: Clean accuracy " in page
    assert "<strong>Deployed: main (A), adv (B)</strong>" in page
    assert page.count("<th>Score</th>") == 4
    assert "Scores of B's other branches: <strong>8 not distinguishable</strong>" in page


def test_branches_are_in_the_document(full):
    document = json.loads(as_json(full))
    one, two = document["pairs"]
    assert (document["tests"], document["tests_of_other_branches"]) == (8, 8)
    assert (two["branches"], one["branches"]) == ({"a": "main", "b": "adv"}, {"a": "main", "b": "main"})
    assert {(found["a"], found["b"]) for found in one["other_branches"]} >= {("aux", "aux"), ("mine", None)}
    alone = next(found for found in one["other_branches"] if found["b"] is None)
    assert alone["a"] == "mine"
    assert all(line["b"] is None is line["difference"] and line["a"] is not None for line in alone["scores"])
