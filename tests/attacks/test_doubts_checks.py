"""Each check against a recomputation written out, on small networks whose answers are known."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from robusteval.attacks import OBJECTIVES, PgdSearch, pgd, random_start
from robusteval.attacks.doubts import CHECKS, Subject, examine, state_of
from robusteval.attacks.doubts.planted import Detectors, _plant
from robusteval.attacks.doubts.rivals import NoiseSearch
from robusteval.attacks.doubts.subject import exceeds, judging, predictions
from robusteval.attacks.geometry import distance
from robusteval.attacks.search import Query, State, Threat
from robusteval.attacks.square import SquareSearch
from robusteval.options import Norm
from robusteval.randomness import Stream

N = 60
CE = OBJECTIVES["ce"]


class Net(nn.Module):
    """A random network with BatchNorm and dropout; ``change`` comes before it."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            conv, linear = nn.Conv2d(3, 12, 3, 2, 1), nn.Linear(12 * 16, 5)
        layers = [conv, nn.BatchNorm2d(12), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), linear]
        self.layers = nn.Sequential(*layers)
        self.change = change
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.change(x) - 0.5)


def lazy(model: nn.Module | None = None, *, norm: Norm = "Linf", epsilon: float = 0.04, **values: Any) -> Subject:
    """An attack that did nothing: what the network says of images is their label, and all count as robust."""
    model = model or Net()
    index = torch.arange(100, 100 + N)
    x = Stream.of(5).uniform(index, 3, 8, 8)
    subject = Subject(
        model=model,
        attacked=model,
        x=x,
        y=predictions(model, x),
        index=index,
        classes=5,
        threat=Threat(norm, epsilon),
        robust=torch.arange(N) % 6 > 0,
        examples=x,
        rng=Stream.of(7),
    )
    return replace(subject, **values)


def find(check: str, subject: Subject) -> str:
    return CHECKS[check].find(subject) or ""


def names(subject: Subject) -> set[str]:
    return {reason.name for reason in examine(subject)}


@pytest.mark.parametrize("share", [0.002, 0.005, 0.05])
@pytest.mark.parametrize("n", [1, 16, 100, 10_000])
def test_a_share_is_exceeded_where_the_exact_binomial_test_says_so(share: float, n: int) -> None:
    for count in {0, 1, 2, 3, 4, 7, round(n * share), round(n * share * 1.5), n} - set(range(n + 1, 8)):
        expected = count > 0 and scipy.stats.binom.sf(count - 1, n, share) < 0.01
        assert exceeds(count, n, share) == expected, (count, n)


def test_the_counts_that_the_page_promises() -> None:
    for share, least in ((0.002, (3, 7, 32)), (0.005, (4, 12, 68))):
        for n, count in zip((100, 1000, 10_000), least, strict=True):
            assert exceeds(count, n, share)
            assert not exceeds(count - 1, n, share)


def wrong_after(subject: Subject, points: Tensor) -> Tensor:
    return subject.robust & (predictions(subject.model, points) != subject.y)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_single_step_counts_what_fgsm_breaks(norm: Norm) -> None:
    subject = lazy(norm=norm, epsilon=0.04 if norm == "Linf" else 0.3)
    x = subject.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(CE(subject.model(x), subject.y).sum(), x)
    unit = gradient.sign() if norm == "Linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    count = int(wrong_after(subject, (subject.x + subject.threat.epsilon * unit).clamp(0, 1)).sum())
    assert 5 < count < 45
    assert find("single-step", subject) == f"a single step breaks {count} of {N} images that the attack did not"


def iterates(subject: Subject, search: PgdSearch, *, epsilon: float = 0.04, steps: int | None = None) -> Tensor:
    """Survivors that are wrong at any iterate of PGD, all images and all steps."""
    ball = Threat(subject.threat.norm, epsilon).ball(subject.x)
    point = subject.x
    if search.rng is not None:
        norm = subject.threat.norm
        point = ball.point(random_start(point, epsilon=epsilon, norm=norm, rng=search.rng, index=subject.index))
    wrong = wrong_after(subject, point)
    for _ in range(search.steps if steps is None else steps):
        leaf = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(search.loss(subject.model(leaf), subject.y).sum(), leaf)
        point = ball.step(point, gradient, search.size)
        wrong |= wrong_after(subject, point)
    return wrong


def test_smaller_epsilon_counts_what_half_the_radius_breaks() -> None:
    subject = lazy()
    search = PgdSearch(subject.threat, 0.005, 20, rng=subject.rng.at("smaller"))
    count = int(iterates(subject, search, epsilon=0.02).sum())
    assert count > 5
    assert f"PGD-20 with half the epsilon breaks {count} of {N} " in find("smaller-epsilon", subject)


def test_more_steps_counts_what_a_hundred_steps_break() -> None:
    subject = lazy(losses=(CE,))
    search = PgdSearch(subject.threat, 0.004, 100, rng=subject.rng.at("more"))
    count = int(iterates(subject, search).sum())
    assert f"PGD-100 from a new start breaks {count} of {N} " in find("more-steps", subject)


def test_noise_counts_what_twenty_points_break() -> None:
    subject = lazy(epsilon=0.2)
    wrong = torch.zeros(N, dtype=torch.bool)
    for draw in range(20):
        key = subject.index * 2**20 + draw
        rng = subject.rng.at("noise")
        corner = rng.normal(key, 3, 8, 8).sign()
        uniform = 2 * rng.at("uniform").uniform(key, 3, 8, 8) - 1
        wrong |= wrong_after(subject, (subject.x + 0.2 * (uniform if draw % 2 else corner)).clamp(0, 1))
    assert int(wrong.sum()) > 5
    assert f"20 random perturbations break {int(wrong.sum())} of {N} " in find("noise", subject)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_noise_is_in_the_ball_and_reaches_its_edge(norm: Norm) -> None:
    threat = Threat(norm, 0.1)
    x = torch.full((4, 3, 8, 8), 0.5)
    state: State = {"x": x, "y": torch.zeros(4).long(), "index": torch.arange(4), "step": torch.tensor([0, 1, 0, 1])}
    point = NoiseSearch(threat, 2, Stream.of(0)).step(Query(Net()), state)["example"]
    far = distance(x, point, norm)
    assert (far <= 0.1 * (1 + 1e-6 * (norm == "L2"))).all()
    assert (far > 0.098).all()
    inner = (point - x).abs().flatten(1) < 0.09
    assert inner[:, :].any(dim=1).tolist() == ([False, True, False, True] if norm == "Linf" else [True] * 4)


def test_black_box_counts_what_square_breaks() -> None:
    subject = lazy()
    rows = subject.survivors()
    found = subject.attack(SquareSearch(subject.threat, subject.rng.at("square"), steps=150), subject.model, rows)
    count = int((predictions(subject.model, found) != subject.y[rows]).sum())
    assert count > 5
    assert f"Square with 150 queries breaks {count} of {N} " in find("black-box", subject)


def test_transfer_names_the_first_network_whose_examples_break_too_many() -> None:
    subject = lazy()
    assert find("transfer", subject) == ""
    made = pgd(Net(), subject.x, subject.y, epsilon=0.04, step=0.01, steps=20, loss=OBJECTIVES["margin"])
    count = int(wrong_after(subject, made).sum())
    evidence = find("transfer", replace(subject, others={"deaf": Net(lambda x: x.detach()), "twin": Net()}))
    assert evidence == f"examples made on twin break {count} of {N} images that the attack did not"


class Lookup(nn.Module):
    """Answers for the nearest of the images that it knows: nothing else changes its mind, and it has no gradient."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.known, self.labels = subject.x, subject.y

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.flatten(1), self.known.flatten(1)).argmin(dim=1)
        return nn.functional.one_hot(self.labels[nearest], 5).float()


def test_large_epsilon_counts_who_is_right_whatever_is_allowed() -> None:
    subject = lazy()
    knowing = replace(subject, model=(model := Lookup(subject)), attacked=model)
    assert find("large-epsilon", subject) == ""
    assert find("large-epsilon", knowing) == f"{N} of {N} images stay right with epsilon 1, which allows every image"
    in_l2 = replace(knowing, threat=Threat("L2", 0.5))
    assert f"epsilon {192**0.5:g}, " in find("large-epsilon", in_l2)


@dataclass(frozen=True)
class Forgetful:
    """PGD that hands back the image, whatever it has seen."""

    pgd: PgdSearch

    @property
    def steps(self) -> int:
        return self.pgd.steps

    def begin(self, query: Query, state: State) -> State:
        return self.pgd.begin(query, state)

    def step(self, query: Query, state: State) -> State:
        following = self.pgd.step(query, state)
        return following | {"example": state["x"], "hit": torch.zeros_like(following["hit"])}


def test_silent_success_counts_images_with_an_adversarial_iterate() -> None:
    search = PgdSearch(Threat("Linf", 0.04), 0.01, 6, rng=Stream.of(9))
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(0)) + 100
    subject = lazy(search=Forgetful(search), index=shuffled)
    count = int(iterates(subject, search, steps=5).sum())  # the sixth step's point is not asked about
    assert count > 5
    evidence = f"an iterate of the attack was adversarial on {count} of {N} images that count as robust"
    assert find("silent-success", subject) == evidence
    fine = replace(subject, search=search)
    assert find("silent-success", replace(fine, robust=fine.robust & ~iterates(fine, search))) == ""


@dataclass(frozen=True)
class Glimpse:
    """Asks about another point once, then about the image."""

    size: float
    steps: int = 3

    def begin(self, query: Query, state: State) -> State:
        return state

    def step(self, query: Query, state: State) -> State:
        first = (state["step"] == 0).view(-1, 1, 1, 1)
        query.logits(torch.where(first, shifted(state["x"], self.size), state["x"]))
        return state


def shifted(x: Tensor, size: float) -> Tensor:
    """Brighter columns and darker ones in turn."""
    return (x + size * (torch.arange(8) % 2 * 2 - 1)).clamp(0, 1)


def test_a_success_is_remembered_if_it_was_allowed() -> None:
    subject = lazy(search=Glimpse(0.35), epsilon=0.36)
    count = int(wrong_after(subject, shifted(subject.x, 0.35)).sum())
    assert 5 < count < int(subject.robust.sum())
    assert f"adversarial on {count} of {N} images" in find("silent-success", subject)
    assert find("silent-success", replace(subject, threat=Threat("Linf", 0.34))) == ""


def test_no_progress_counts_examples_no_nearer_to_an_error() -> None:
    subject = lazy()
    x, y = subject.x, subject.y
    nearer = pgd(subject.model, x, y, epsilon=0.01, step=0.01, steps=1, loss=OBJECTIVES["margin"])
    further = pgd(subject.model, x, y, epsilon=0.01, step=0.01, steps=1, loss=lambda z, y: -OBJECTIVES["margin"](z, y))
    assert find("no-progress", replace(subject, examples=nearer)) == ""
    half = torch.where((torch.arange(N) % 2 == 0).view(-1, 1, 1, 1), nearer, further)
    odd = int((subject.robust & (torch.arange(N) % 2 == 1)).sum())
    evidence = f"{odd} of {int(subject.robust.sum())} examples that failed are no nearer to being misclassified"
    assert find("no-progress", replace(subject, examples=half)).startswith(evidence)


def bright(x: Tensor) -> Tensor:
    return (x[:, 0, 0, 0] > 0.5).view(-1, 1, 1, 1)


def test_zero_gradients_are_counted() -> None:
    subject = lazy(Net(lambda x: torch.where(bright(x), x.detach(), x)))
    count = int(bright(subject.x).sum())
    assert 10 < count < 50
    assert find("zero-gradient", subject) == f"the gradient of the logits is exactly 0 on {count} of {N} images"
    assert find("zero-gradient", lazy()) == ""


def test_gradients_that_are_no_numbers_are_counted() -> None:
    def change(x: Tensor) -> Tensor:
        return x + 0 * torch.sqrt(torch.where(bright(x), x - x, 1.0))  # the root's slope at 0 is infinite

    subject = lazy(Net(change))
    count = int(bright(subject.x).sum())
    assert find("wrong-gradient", subject).startswith(f"of {N} gradients {count} are not finite and 0 contradict")
    assert "not-finite" not in names(subject)


@pytest.mark.parametrize("factor", [0.45, 0.55, 1.0, 1.9, 2.2])
def test_gradients_may_be_off_by_a_factor_of_two(factor: float) -> None:
    """tanh bends by less than a hundredth over the difference."""
    found = find("wrong-gradient", lazy(Net(lambda x: factor * x + (1 - factor) * x.detach())))
    expected = f"of {N} gradients 0 are not finite and {N} contradict finite differences"
    assert found == ("" if 0.5 < factor < 2 else expected)


def test_inputs_that_are_clipped_do_not_contradict_their_gradients() -> None:
    subject = lazy(Net(lambda x: x.clamp(0, 1)))
    x = torch.where(subject.x < 0.8, subject.x.round(), subject.x)
    assert find("wrong-gradient", replace(subject, x=x, y=predictions(subject.model, x))) == ""


def test_a_loss_that_saturates_is_one_of_several() -> None:
    subject = lazy(Net())
    model = nn.Sequential(subject.model, Times(1e5)).eval()
    huge = replace(subject, model=model, attacked=model)
    assert " of 60 images, that of logits is not" in find("saturated-loss", huge)
    for losses in ((CE, OBJECTIVES["dlr"]), (OBJECTIVES["dlr"], CE)):
        assert find("saturated-loss", replace(huge, losses=losses)) == ""
    assert find("zero-gradient", huge) == ""


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return z * self.factor


def test_detectors_tell_the_planted_point_from_the_inner_ones() -> None:
    """Inner points lie on one hyperplane, the planted point on a parallel one, at -0.9 and 0.1 of their distance."""
    features = torch.randn(7, 21, 30, generator=torch.Generator().manual_seed(0))
    features[:, :, 24:] = 1.0  # of 30 features, 24 vary: 12 inner points are used
    inner, planted = features[:, 1:], features[:, 0]
    detectors = Detectors.between(inner, planted)
    place = torch.arange(7)
    assert detectors.valid.all()
    torch.testing.assert_close(detectors.score(planted, place), torch.full((7,), 0.1), rtol=0, atol=1e-4)
    for point in range(20):
        score = detectors.score(inner[:, point], place)
        fits = (score + 0.9).abs() < 1e-4
        assert fits.all() if point < 12 else not fits.any()
    # Of all directions that do so the shortest: within the span of what was fitted.
    used = torch.cat([inner[:, :12], planted.unsqueeze(1)], dim=1).double()
    span, weight = (used - used.mean(dim=1, keepdim=True)).mT, detectors.weight.double().unsqueeze(2)
    rest = weight - span @ torch.linalg.pinv(span, rtol=1e-9) @ weight
    assert rest.abs().max() < 1e-6


def test_a_point_that_features_cannot_tell_apart_is_not_planted() -> None:
    inner = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(0))
    detectors = Detectors.between(inner, torch.stack([inner[0, 3], inner[1, 3] + 1]))
    assert detectors.valid.tolist() == [False, True]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_planted_network_has_an_adversarial_example_in_every_ball(norm: Norm) -> None:
    subject = lazy(norm=norm, epsilon=0.03 if norm == "Linf" else 0.2)
    x, threat = subject.x[:32], subject.threat
    network = _plant(subject, slice(0, 32))
    assert network is not None
    assert network.valid.sum() >= 30
    with judging(network):
        assert (network(x).argmax(dim=1) == 0)[network.valid].all()
        draw = subject.rng.at("planted").at("point")
        normal = draw.normal(subject.index[:32], 3, 8, 8)
        length = normal.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = normal.sign() if norm == "Linf" else normal / length
        point = threat.ball(x).point(threat.epsilon * delta)
        assert (network(point).argmax(dim=1) == 1)[network.valid].all()
        turned = network(point.flip(0)).flip(0)
        torch.testing.assert_close(turned, network(point), rtol=1e-5, atol=1e-5)


def test_an_attack_misses_what_is_planted_where_there_is_no_gradient() -> None:
    assert find("planted", lazy()) == ""
    assert find("planted", lazy(search=PgdSearch(Threat("Linf", 0.04), 0.01, 10, rng=None))) == ""
    stuck = find("planted", lazy(Net(lambda x: x.detach())))
    assert stuck.endswith(" planted adversarial examples were not found")
    missed, n = stuck.split()[0], stuck.split()[2]
    assert missed == n
    assert int(n) >= 30


def differentiating(how: str) -> Callable[[Tensor], Tensor]:
    from torch.autograd import grad

    def change(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = torch.ones(2, requires_grad=True)
            if how == "grad":
                grad((leaf**2).sum(), leaf)
            elif how == "backward":
                (leaf**2).sum().backward()
            elif how == "func":
                torch.func.grad(lambda z: (z**2).sum())(leaf.detach())
        return x

    return change


class Recording(Net):
    """Computes its logits with gradients on."""

    @torch.enable_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_an_output_with_a_graph_is_noticed() -> None:
    evidence = "the output of a forward pass without gradients carries a graph"
    assert find("optimisation-at-inference", lazy(Recording())) == evidence


@pytest.mark.parametrize("how", ["grad", "backward", "func", "none"])
def test_optimisation_is_noticed_however_it_is_spelt(how: str) -> None:
    before = sys.getprofile()
    found = find("optimisation-at-inference", lazy(Net(differentiating(how))))
    assert sys.getprofile() is before
    assert found == ("" if how == "none" else "a forward pass without gradients ran the backward engine 1 times")


def test_a_row_that_knows_its_neighbours_is_noticed() -> None:
    assert find("train-mode", lazy(Net(lambda x: x + 0.01 * x.mean()))).startswith("logits differ by ")
    assert find("train-mode", lazy(Net(lambda x: x + 0.01 * x.mean(dim=(1, 2, 3), keepdim=True)))) == ""


def test_states_are_compared_bit_for_bit() -> None:
    model = Net()
    before = state_of(model)
    assert before.changed(state_of(model)) == []
    changed = copy.deepcopy(model)
    changed.layers[1].running_var[2] = torch.nextafter(changed.layers[1].running_var[2], torch.tensor(9.0))
    changed.layers[4].train()
    assert before.changed(state_of(changed)) == ["layers.1.running_var", "layers.4"]
    holed = copy.deepcopy(model)
    holed.layers[1].running_var[2] = torch.nan
    assert before.changed(state_of(holed)) == ["layers.1.running_var"]
    assert state_of(holed).changed(state_of(copy.deepcopy(holed))) == []
    assert state_of(holed).changed(before) == ["layers.1.running_var"]
    more = copy.deepcopy(model)
    more.register_buffer("late", torch.ones(1))
    assert before.changed(state_of(more)) == ["late"]


def test_the_network_and_the_subject_are_left_as_they_were() -> None:
    model = Net().train()
    model.layers[4].eval()
    subject = lazy(model, search=PgdSearch(Threat("Linf", 0.04), 0.01, 3, rng=None), others={"twin": Net().train()})
    before, kept = state_of(model), [t.clone() for t in (subject.x, subject.y, subject.examples, subject.robust)]
    assert names(subject) >= {"single-step", "transfer", "no-progress"}
    assert before.changed(state_of(model)) == []
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(
        torch.equal(a, b) for a, b in zip(kept, (subject.x, subject.y, subject.examples, subject.robust), strict=True)
    )


def test_nothing_is_doubted_where_nothing_is_allowed() -> None:
    assert names(lazy(epsilon=0.0, losses=())) == set()


def test_nothing_is_doubted_where_nothing_survived() -> None:
    assert names(lazy(robust=torch.zeros(N, dtype=torch.bool))) == set()


def test_an_attack_without_gradients_is_not_blamed_for_them() -> None:
    found = names(lazy(Net(lambda x: x.detach()), losses=()))
    assert not found & {"zero-gradient", "saturated-loss", "wrong-gradient", "no-progress", "planted", "more-steps"}


def test_a_subset_is_a_remark() -> None:
    (reason,) = examine(lazy(robust=torch.zeros(N, dtype=torch.bool), images=1000, available=10_000))
    assert (reason.name, reason.level, reason.evidence) == ("subset", "remark", "1000 of 10000 images")


def test_what_is_no_function_is_not_compared_any_further() -> None:
    wild = lazy(Net(lambda x: torch.where(x.mean(dim=(1, 2, 3), keepdim=True) == x[:, :1, :1, :1], torch.nan, x)))
    (reason,) = examine(wild)
    assert (reason.name, reason.level) == ("not-finite", "doubt")
    assert reason.evidence == f"1 of {3 * N + 1} images, clean and perturbed, have logits that are not finite"
    assert reason.text == CHECKS["not-finite"].text
