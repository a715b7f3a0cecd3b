"""Differences, intervals and p-values against a recomputation from the files."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from robusteval.comparison import compare
from robusteval.records import Reason
from robusteval.stats import difference_interval

CELLS = ["fog1", "fog2", "snow1", "snow2"]


def arrays(stored, task):
    """The outcomes of a task straight from its file."""
    with np.load(io.BytesIO((stored.folder / "tasks" / f"{task}-0a1b.npz").read_bytes())) as archive:
        return [archive[str(place)] for place in range(len(archive.files))]


def lines(first, second, **options):
    (pair,) = compare(first, second, by="side", **options).pairs
    return {line.key: line for line in pair.scores}, pair


def kinds(first, second, **options):
    found, pair = lines(first, second, **options)
    return {line.kind: line for line in found.values()}, pair


def exact(b, c):
    """McNemar's exact p-value: the binomial sum."""
    fewer = min(b, c)
    return min(1.0, 2 * sum(math.comb(b + c, k) for k in range(fewer + 1)) / 2 ** (b + c))


@pytest.fixture
def two(make):
    """Two runs of which the second is better."""
    rng = np.random.default_rng(5)
    ours = make(label="ours")
    right = {"clean": arrays(ours, "clean")[0], "pgd": arrays(ours, "pgd")[0]}
    right |= dict(zip(CELLS, arrays(ours, "corruption"), strict=True))
    better = {name: (one & (rng.random(200) > 0.02)) | (rng.random(200) < 0.25) for name, one in right.items()}
    return ours, make(label="theirs", outcomes=better)


@pytest.mark.parametrize(("kind", "task"), [("clean", "clean"), ("attack", "pgd")])
def test_right_and_wrong_are_compared_by_mcnemar(two, kind, task):
    a, b = (arrays(stored, task)[0] for stored in two)
    line = kinds([two[0]], [two[1]])[0][kind]
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    assert (line.first, line.second) == (a.mean(), b.mean())
    assert line.difference == pytest.approx(b.mean() - a.mean(), abs=1e-12)
    assert (line.first_only, line.second_only) == (only_a, only_b)
    assert line.test == "McNemar, exact"
    assert line.p == pytest.approx(exact(only_a, only_b), rel=1e-9)
    low, high = difference_interval(only_b, only_a, 200)
    assert (line.low, line.high) == pytest.approx((float(low), float(high)))
    assert line.low < line.difference < line.high
    assert line.verdict == "better"


def test_means_over_corruptions_are_compared_by_paired_t(two):
    a, b = (np.mean(arrays(stored, "corruption"), axis=0) for stored in two)
    line = kinds([two[0]], [two[1]])[0]["corruption"]
    expected = ttest_rel(b, a)
    assert (line.first, line.second) == pytest.approx((a.mean(), b.mean()), abs=1e-12)
    assert line.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (line.low, line.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert line.first_only is None
    assert line.test == "paired t"


def test_h_scores_are_compared_by_the_delta_method(two):
    def shares(stored):
        clean, shifted = arrays(stored, "clean")[0], np.mean(arrays(stored, "corruption"), axis=0)
        c, s, tiny = clean.mean(), shifted.mean(), 1e-6
        of_clean, of_shifted = (
            (2 * (c + dc) * (s + ds) / (c + dc + s + ds) - 2 * c * s / (c + s)) / tiny
            for dc, ds in ((tiny, 0), (0, tiny))
        )
        return 2 * c * s / (c + s), of_clean * clean + of_shifted * shifted

    (h_a, a), (h_b, b) = map(shares, two)
    line = kinds([two[0]], [two[1]])[0]["h_score"]
    assert (line.first, line.second) == pytest.approx((h_a, h_b), abs=1e-9)
    assert line.difference == pytest.approx(h_b - h_a, abs=1e-9)
    assert line.p == pytest.approx(ttest_rel(b, a).pvalue, rel=1e-3)
    assert line.reason == ""


def test_h_scores_of_unequal_numbers_of_images_are_of_those_of_both_parts(make):
    def more(seed):
        return {"clean": np.random.default_rng(seed).random(300) < 0.6}

    pair = [make(label="ours", outcomes=more(1))], [make(label="theirs", outcomes=more(2))]
    line = kinds(*pair)[0]["h_score"]
    clean = arrays(pair[0][0], "clean")[0][:200].mean()
    shifted = np.mean(arrays(pair[0][0], "corruption"))
    assert line.first == pytest.approx(2 * clean * shifted / (clean + shifted))
    assert line.n == 200
    assert line.reason == "of the 200 images of both parts"


def test_each_corruption_is_compared_over_its_severities(two):
    found, _ = lines([two[0]], [two[1]], each_corruption=True)
    for name, places in (("fog", slice(0, 2)), ("snow", slice(2, 4))):
        (line,) = (line for line in found.values() if line.corruption == name)
        a, b = (np.mean(arrays(stored, "corruption")[places], axis=0) for stored in two)
        assert (line.first, line.second) == pytest.approx((a.mean(), b.mean()))
        assert line.p == pytest.approx(ttest_rel(b, a).pvalue, rel=1e-9)
    assert len(found) == 6


def test_p_values_are_corrected_for_all_lines_of_all_pairs(make):
    before = [make("a", label=label) for label in ("one", "two")]
    after = [make("b", label=label, outcomes={"clean": np.arange(200) < 150}) for label in ("one", "two")]
    found = compare(before, after, each_corruption=True)
    every = [line for pair in found.pairs for line in pair.scores]
    p = sorted(line.p for line in every)
    adjusted = np.minimum(np.maximum.accumulate([(len(p) - place) * one for place, one in enumerate(p)]), 1)
    assert found.tests == len(p) == 12
    assert sorted(line.p_holm for line in every) == pytest.approx(list(adjusted))
    for line in every:
        told = "not distinguishable" if line.p_holm > 0.05 else "better" if line.difference > 0 else "worse"
        assert line.verdict == told
    assert {line.verdict for line in every} >= {"better", "not distinguishable"}


def test_the_other_way_round_everything_changes_its_sign(two):
    forth, _ = lines([two[0]], [two[1]])
    back, _ = lines([two[1]], [two[0]])
    for key, line in forth.items():
        other = back[key]
        assert (other.difference, other.low, other.high) == pytest.approx((-line.difference, -line.high, -line.low))
        assert (other.p, other.first_only) == (pytest.approx(line.p), line.second_only)
        assert {line.verdict, other.verdict} in ({"better", "worse"}, {"not distinguishable"})


def test_seeds_count_as_draws_of_their_own(make):
    ours = [make(label="ours", seed=seed) for seed in range(3)]
    theirs = [make(label="theirs", seed=seed) for seed in range(2)]
    found, pair = kinds(ours, theirs)
    a, b = (np.array([arrays(stored, "clean")[0] for stored in side], float) for side in (ours, theirs))
    of_images = (b.mean(0) - a.mean(0)).var(ddof=1) / 200
    of_a, of_b = a.mean(1).var(ddof=1) / 3, b.mean(1).var(ddof=1) / 2
    variance = of_images + of_a + of_b
    freedom = variance**2 / (of_images**2 / 199 + of_a**2 / 2 + of_b**2 / 1)
    line = found["clean"]
    assert line.test == "t over seeds and images"
    assert line.difference == pytest.approx(b.mean() - a.mean())
    assert line.p == pytest.approx(2 * student.sf(abs(line.difference) / math.sqrt(variance), freedom))
    half = student.ppf(0.975, freedom) * math.sqrt(variance)
    assert (line.low, line.high) == pytest.approx((line.difference - half, line.difference + half))
    assert line.first_only is None
    assert (pair.first.seeds, pair.second.seeds) == ((0, 1, 2), (0, 1))


def test_a_run_does_not_differ_from_itself(make):
    run = make()
    found, pair = lines([run], [run], each_corruption=True)
    assert {(line.difference, line.p, line.verdict) for line in found.values()} == {(0.0, 1.0, "not distinguishable")}
    assert pair.same_weights
    assert pair.same
    assert (pair.changes, pair.cautions) == ((), ())
    assert all(cost.ratio == 1 for cost in pair.costs)


def test_seeds_do_not_differ_from_themselves(make):
    runs = [make(seed=seed) for seed in range(3)]
    found, pair = lines(runs, runs)
    assert {(line.difference, line.p, line.verdict) for line in found.values()} == {(0.0, 1.0, "not distinguishable")}
    assert pair.same


def test_without_outcomes_there_is_a_difference_and_no_test(make):
    found, _ = lines([make(label="ours")], [make(label="theirs", keep=False)], each_corruption=True)
    for line in found.values():
        assert line.difference == pytest.approx(line.second - line.first)
        assert (line.p, line.p_holm, line.low, line.verdict) == (None, None, None, "not tested")
        assert line.reason == "the outcomes of single images are not there for B"


def test_what_one_side_lacks_is_missing(make):
    found, pair = kinds([make(label="ours")], [make(label="theirs", tasks=("clean",))])
    assert found["clean"].verdict != "missing"
    for kind in ("corruption", "h_score", "attack"):
        line = found[kind]
        assert (line.second, line.difference, line.verdict) == (None, None, "missing")
        assert line.reason == "not measured in B"
    assert pair.cautions == ()


def test_a_damaged_file_is_told_and_the_other_scores_are_tested(make):
    ours, theirs = make(label="ours"), make(label="theirs")
    (theirs.folder / "tasks" / "pgd-0a1b.npz").write_bytes(b"damaged")
    comparison = compare([ours], [theirs], by="side", each_corruption=True)
    verdicts = {line.kind: line.verdict for line in comparison.pairs[0].scores}
    assert verdicts.pop("attack") == "not tested"
    assert "not tested" not in verdicts.values()
    (told,) = comparison.unreadable
    assert "pgd-0a1b.npz: damaged" in told


DOUBT = Reason(name="masking", evidence="loss is flat", text="why")

INCOMPARABLE = [
    ({"digest": "3d" * 32}, "Different images", {"clean", "corruption", "h_score", "attack"}),
    ({"n": 150}, "Different numbers of images", {"clean", "corruption", "h_score", "attack"}),
    ({"version": 2}, "Different task version", {"attack"}),
    ({"attack": {"step": "1/255"}}, "Different attacks", {"attack"}),
    ({"attack": {"steps": 50}}, "Different attacks", {"attack"}),
    ({"attack": {"epsilon": "4/255"}}, "Different attacks", {"attack"}),
    ({"source": {"generator": "2"}}, "Different corruptions", {"corruption", "h_score"}),
    ({"source": {"source": "official"}}, "Different corruptions", {"corruption", "h_score"}),
    ({"cell": {"generator": "2"}}, "Different corruptions", {"corruption", "h_score"}),
    ({"reasons": (DOUBT,)}, "Doubtful number", {"attack"}),
    ({"options": {"start": "zero"}}, "Different options", {"attack"}),
]


@pytest.mark.parametrize(("change", "topic", "concerned"), INCOMPARABLE)
@pytest.mark.parametrize("changed", ["first", "second"])
def test_what_is_not_comparable_is_shown_and_never_subtracted(make, change, topic, concerned, changed):
    plain = {"options": {"start": "random"}}
    recipes = [plain, plain | change] if changed == "second" else [plain | change, plain]
    ours, theirs = (make(label=name, **recipe) for name, recipe in zip(("ours", "theirs"), recipes, strict=True))
    found, pair = lines([ours], [theirs], each_corruption=True)
    assert {line.kind for line in found.values() if line.verdict == "not comparable"} == concerned
    for line in found.values():
        assert None not in (line.first, line.second)
        if line.kind in concerned:
            assert (line.difference, line.low, line.p, line.p_holm) == (None,) * 4
            assert topic.lower() in line.reason
        else:
            assert line.p is not None
    cautions = [caution for caution in pair.cautions if caution.topic == topic]
    means = {line.label for line in found.values() if line.kind in concerned and not line.corruption}
    assert {label for caution in cautions for label in caution.scores} == means


def test_other_attacks_stand_side_by_side(make):
    theirs = make(label="theirs", attack={"steps": 50}, options={"steps": 50})
    found, pair = kinds([make(label="ours", options={"steps": 20})], [theirs])
    assert found["attack"].label == "PGD-20 Linf 8/255 / PGD-50 Linf 8/255"
    (caution,) = pair.cautions
    assert caution.text == "pgd: steps A 20, B 50."


def test_an_option_that_the_older_record_does_not_have_is_no_obstacle(make):
    found, _ = kinds([make(label="ours")], [make(label="theirs", options={"start": "zero", "checked": 100})])
    assert found["attack"].p is not None


def test_seeds_that_lack_a_score_are_told(make):
    ours = [make(label="ours", seed=0), make(label="ours", seed=1, tasks=("clean",))]
    found, pair = kinds(ours, [make(label="theirs")])
    assert found["attack"].first == arrays(ours[0], "pgd")[0].mean()
    told = [caution for caution in pair.cautions if caution.topic == "Missing seeds"]
    assert ("Missing seeds", "A: 1 of 2 runs have PGD-20 Linf 8/255.", ()) in told  # it is compared all the same
    assert not any("Clean accuracy" in caution.text for caution in told)
    assert found["attack"].difference is not None


def test_seeds_that_were_not_judged_alike_are_not_subtracted(make):
    ours = [make(label="ours", seed=0), make(label="ours", seed=1, digest="4c" * 32)]
    found, pair = kinds(ours, [make(label="theirs")])
    assert {line.verdict for line in found.values()} == {"not comparable"}
    assert any("2e2e2e2e2e2e and 4c4c4c4c4c4c, B 2e2e2e2e2e2e" in caution.text for caution in pair.cautions)


def test_a_run_that_did_not_finish_is_told(make):
    failed = make(label="theirs", run={"status": "failed", "error": "loss is nan", "weights_sha256": None})
    found, pair = kinds([make(label="ours")], [failed])
    assert {line.verdict for line in found.values()} == {"missing"}
    assert pair.cautions[0] == ("Not finished", "B, seed 0: failed: loss is nan", ())
    assert not pair.same_weights
