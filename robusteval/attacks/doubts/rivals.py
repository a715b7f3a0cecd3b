"""Does something that should not be stronger than the attack break images that survived it?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from robusteval.attacks.doubts.subject import Subject, exceeds, predictions
from robusteval.attacks.objectives import Objective, negative_margin
from robusteval.attacks.pgd import PgdSearch, pgd
from robusteval.attacks.search import Query, State, Threat
from robusteval.attacks.square import SquareSearch
from robusteval.randomness import Stream

WEAKER = 0.002
"""Share of images that a weaker attack may break and the attack not: the 0.2 points of AutoAttack's own check."""

STRONGER = 0.005
"""Share that more steps may break: what PGD-20 costs on an adversarially trained network (0.4 points)."""

_STEPS = 20
_MANY_STEPS = 100
_DRAWS = 20
_QUERIES = 150
_LIMIT = 2**20


@dataclass(frozen=True)
class NoiseSearch:
    """Random points of the ball: uniform ones, and corners of an Linf ball in turn.

    Attributes:
        threat: the ball.
        steps: number of draws.
        rng: of the draws.
    """

    threat: Threat
    steps: int
    rng: Stream

    def begin(self, query: Query, state: State) -> State:
        """See `Search`."""
        return state

    def step(self, query: Query, state: State) -> State:
        """See `Search`; a draw depends on the image's number and on the number of the draw."""
        x, step = state["x"], state["step"]
        draw = self.rng.normal(state["index"] * _LIMIT + step, *x.shape[1:])
        if self.threat.norm == "Linf":
            uniform = self.rng.at("uniform").uniform(state["index"] * _LIMIT + step, *x.shape[1:]) * 2 - 1
            draw = torch.where((step % 2 == 0).view(-1, *[1] * (x.ndim - 1)), draw.sign(), uniform)
        else:
            draw = draw / torch.linalg.vector_norm(draw, dim=tuple(range(1, x.ndim)), keepdim=True)
        point = self.threat.ball(x).point(draw * self.threat.epsilon)
        return state | {"example": point, "hit": query.logits(point).argmax(dim=1) != state["y"]}


def noise(subject: Subject) -> str | None:
    """Random points of the ball, 20 an image."""
    search = NoiseSearch(subject.threat, _DRAWS, subject.rng.at("noise"))
    return _surplus(subject, subject.broken_by(search), WEAKER, f"{_DRAWS} random perturbations break")


def black_box(subject: Subject) -> str | None:
    """A random search that sees nothing but logits, 150 queries an image."""
    search = SquareSearch(subject.threat, subject.rng.at("square"), steps=_QUERIES)
    return _surplus(subject, subject.broken_by(search), WEAKER, f"Square with {_QUERIES} queries breaks")


def single_step(subject: Subject) -> str | None:
    """One step of the whole radius, from the image."""
    if not subject.losses:
        return None
    search = PgdSearch(subject.threat, subject.threat.epsilon, 1, rng=None, loss=_loss(subject))
    return _surplus(subject, subject.broken_by(search), WEAKER, "a single step breaks")


def smaller_epsilon(subject: Subject) -> str | None:
    """An attack with half the radius: what it finds, the attack could have found."""
    threat = subject.threat._replace(epsilon=subject.threat.epsilon / 2)
    rng = subject.rng.at("smaller")
    search = PgdSearch(threat, threat.epsilon / 4, _STEPS, rng=rng, loss=_loss(subject))
    count = subject.broken_by(search)
    return _surplus(subject, count, WEAKER, f"PGD-{_STEPS} with half the epsilon breaks")


def more_steps(subject: Subject) -> str | None:
    """A hundred steps of the same loss from a new start."""
    if not subject.losses:
        return None
    threat = subject.threat
    search = PgdSearch(threat, threat.epsilon / 10, _MANY_STEPS, rng=subject.rng.at("more"), loss=_loss(subject))
    count = subject.broken_by(search)
    return _surplus(subject, count, STRONGER, f"PGD-{_MANY_STEPS} from a new start breaks")


def other_loss(subject: Subject) -> str | None:
    """Twenty steps that drive up the margin, where the attack drove up something else only."""
    if not subject.losses or negative_margin in subject.losses:
        return None
    threat, rng = subject.threat, subject.rng.at("margin")
    search = PgdSearch(threat, threat.epsilon / 4, _STEPS, rng=rng, loss=negative_margin)
    count = subject.broken_by(search)
    return _surplus(subject, count, STRONGER, f"PGD-{_STEPS} on the margin breaks")


def white_box(subject: Subject) -> str | None:
    """Twenty steps that drive up the margin, where the attack saw no gradient."""
    if subject.losses:
        return None
    threat, rng = subject.threat, subject.rng.at("margin")
    search = PgdSearch(threat, threat.epsilon / 4, _STEPS, rng=rng, loss=negative_margin)
    return _surplus(subject, subject.broken_by(search), WEAKER, f"PGD-{_STEPS} on the margin breaks")


def wrong_network(subject: Subject) -> str | None:
    """The attack followed another network's gradients, and those of the judged one break more."""
    if subject.white_box:
        return None
    threat = subject.threat
    search = PgdSearch(threat, threat.epsilon / 4, _STEPS, rng=subject.rng.at("own"), loss=_loss(subject))
    count = subject.broken_by(search)
    return _surplus(subject, count, WEAKER, f"PGD-{_STEPS} through the judged network itself breaks")


def transfer(subject: Subject) -> str | None:
    """Examples made on other networks."""
    rows, threat = subject.survivors(), subject.threat
    if not len(rows):
        return None
    x, y = subject.x[rows], subject.y[rows]
    for name, other in subject.others.items():
        found = pgd(
            other,
            x,
            y,
            epsilon=threat.epsilon,
            step=threat.epsilon / 4,
            steps=_STEPS,
            norm=threat.norm,
            loss=negative_margin,
        )
        count = int((predictions(subject.model, found) != y).sum())
        evidence = _surplus(subject, count, WEAKER, f"examples made on {name} break")
        if evidence:
            return evidence
    return None


def large_epsilon(subject: Subject) -> str | None:
    """With every image allowed, no network can be right more often than by chance."""
    side = subject.x[0].numel()
    whole = Threat(subject.threat.norm, 1.0 if subject.threat.norm == "Linf" else math.sqrt(side))
    search = PgdSearch(whole, whole.epsilon / 8, _STEPS, rng=subject.rng.at("large"), loss=_loss(subject))
    rows = torch.nonzero(predictions(subject.model, subject.x) == subject.y).squeeze(1)
    if not len(rows):
        return None
    found = subject.attack(search, subject.model, rows)
    right, n = int((predictions(subject.model, found) == subject.y[rows]).sum()), len(subject.x)
    if not exceeds(right, n, 1 / subject.classes):
        return None
    return f"{right} of {n} images stay right with epsilon {whole.epsilon:g}, which allows every image"


def _loss(subject: Subject) -> Objective:
    """What the attack drove up first, or the margin where it followed no gradient."""
    return subject.losses[0] if subject.losses else negative_margin


def _surplus(subject: Subject, count: int, share: float, what: str) -> str | None:
    """The evidence, if so many survivors show that more than a share of all images are such."""
    n = len(subject.x)
    return f"{what} {count} of {n} images that the attack did not" if exceeds(count, n, share) else None
