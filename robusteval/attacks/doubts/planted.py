"""Does the attack find an adversarial example that is known to be there?

After the active test of Zimmermann et al. (2022, arXiv:2206.13991). For each image, a point on the edge of its ball is
chosen at random, and the network's last layer is replaced by a detector of that point: two classes, linear in the same
features, one for points inside the ball and one for the planted point. The planted point is an adversarial example of
the new network by construction. An attack that cannot find one, or another, has not shown that there is none.

Differences from the paper, for cost: the detector is not fitted by logistic regression on a thousand points but is
the direction of feature space in which the planted point differs from the mean of the inner points and inner points do
not differ from one another (the minimum-norm solution), from half as many inner points as features vary, at most 48.
Images whose inner points do not stay inside, and images on which as many random points as the attack has steps find
the detector's other side too, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robusteval.attacks.doubts.rivals import NoiseSearch
from robusteval.attacks.doubts.subject import Subject, exceeds, judging
from robusteval.attacks.geometry import distance, random_start
from robusteval.attacks.pgd import PgdSearch
from robusteval.attacks.search import Query, Search, Threat, run

_IMAGES = 32
_INNER = 48
_INSIDE = 0.95
"""Inner points are this far from the image at most, in epsilons; the paper's."""

_CLOSE = 0.9
"""Where the boundary is on the way from the inner points (0) to the planted one (1)."""

_SCALE = 20.0
"""Difference of the two logits over that way; losses saturate at neither end."""

_MISSED_SHARE = 0.05
"""Share of planted examples that an attack may miss; the paper asks for 95 %."""

_ROUNDING = 1e-6
"""Relative spread of inner points below which a direction of feature space is only rounding of float32."""

_TINY = 1e-4
"""Relative size of a feature difference below which float32 features are mostly rounding."""


def planted(subject: Subject) -> str | None:
    """The attack misses planted examples."""
    threat, rng = subject.threat, subject.rng.at("planted")
    if threat.epsilon == 0 or not subject.losses or not subject.white_box:
        return None
    few = slice(0, _IMAGES)
    network = _plant(subject, few)
    if network is None:
        return None
    x, index = subject.x[few], subject.index[few]
    search = subject.search or PgdSearch(threat, threat.epsilon / 4, 20, rng=rng.at("start"), loss=subject.losses[0])
    by_chance = _found(network, NoiseSearch(threat, search.steps, rng.at("chance")), threat, x, index)
    usable = network.valid & ~by_chance
    missed = int((usable & ~_found(network, search, threat, x, index)).sum())
    n = int(usable.sum())
    if not exceeds(missed, n, _MISSED_SHARE):
        return None
    return f"{missed} of {n} planted adversarial examples were not found"


class Detectors(NamedTuple):
    """A linear detector for each image: positive from the boundary on to the planted point.

    Attributes:
        mean: features of the inner points, on average (n, D).
        weight: (n, D).
        valid: bool (n,), whether the detector can be computed in float32.
    """

    mean: Tensor
    weight: Tensor
    valid: Tensor

    @classmethod
    def between(cls, inner: Tensor, planted: Tensor) -> Detectors:
        """Detectors from float32 features of the inner points (n, N, D) and the planted point (n, D).

        Of the inner points, the first are used: half as many as there are features that vary at all around the image.
        As many points as features would leave no direction in which the planted one differs from them.
        """
        varying = (inner != inner[:, :1]).any(dim=1).sum(dim=1)
        used = torch.arange(inner.shape[1], device=inner.device) < (varying // 2).clamp(min=1).unsqueeze(1)
        share = (used.double() / used.sum(dim=1, keepdim=True)).unsqueeze(2)
        mean = (inner * share).sum(dim=1)
        spread, away = (inner - mean.unsqueeze(1)) * used.unsqueeze(2), planted.double() - mean
        basis = torch.linalg.svd(spread, full_matrices=False)
        keep = basis.S.gt(_ROUNDING * basis.S[:, :1].clamp(min=torch.finfo(torch.float64).tiny))
        along = torch.where(keep, torch.einsum("nkd,nd->nk", basis.Vh, away), 0)
        rest = away - torch.einsum("nk,nkd->nd", along, basis.Vh)
        length = torch.linalg.vector_norm(rest, dim=1)
        valid = length > _TINY * torch.linalg.vector_norm(mean, dim=1)
        weight = rest / length.square().clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
        return cls(mean.float(), weight.float(), valid)

    def score(self, features: Tensor, image: Tensor) -> Tensor:
        """The scores (B,) of features (B, D) around the images with these places (int64 (B,))."""
        return ((features - self.mean[image]) * self.weight[image]).sum(dim=1) - _CLOSE


class PlantedNetwork(nn.Module):
    """The judged network with a detector of each image's planted point for a head: class 0 inside, 1 planted.

    A point's detector is that of the nearest image, so that rows stay independent of one another.
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module | None, x: Tensor, detectors: Detectors, classes: int
    ) -> None:
        super().__init__()
        self.model = model
        self.layer = [layer]  # in a list, so that it is registered once, as a part of the model
        self.x, self.detectors, self.classes = x, detectors, classes
        self.valid = detectors.valid

    def forward(self, points: Tensor) -> Tensor:
        """Logits (B, classes); those of further classes are always the lowest."""
        image = torch.cdist(points.detach().flatten(1).float(), self.x.flatten(1)).argmin(dim=1)
        score = _SCALE / 2 * self.detectors.score(_features(self.model, self.layer[0], points).float(), image)
        others = score.new_full((len(score), max(self.classes - 2, 0)), -2 * _SCALE)
        return torch.cat([torch.stack([-score, score], dim=1), others], dim=1)


def _plant(subject: Subject, few: slice) -> PlantedNetwork | None:
    """The network with planted examples; None where its features are too few."""
    model, x, index, threat = subject.model, subject.x[few], subject.index[few], subject.threat
    rng = subject.rng.at("planted")
    ball = threat.ball(x)
    with judging(model), torch.no_grad():
        layer = _last_linear(model, x)
        features = _features(model, layer, x)
        if features.ndim != 2 or features.shape[1] < 4:
            return None
        corner = threat.epsilon * rng.at("point").normal(index, *x.shape[1:])
        corner = corner.sign() * threat.epsilon if threat.norm == "Linf" else corner * 1e3
        point = ball.point(corner)
        draws = [x] + [
            ball.point(random_start(x, epsilon=_INSIDE * threat.epsilon, norm=threat.norm, rng=rng.at(i), index=index))
            for i in range(_INNER - 1)
        ]
        inner = torch.stack([_features(model, layer, draw) for draw in draws], dim=1)
        detectors = Detectors.between(inner, _features(model, layer, point))
        network = PlantedNetwork(model, layer, x, detectors, subject.classes)
        query = Query(network)
        outside = torch.stack([query.exact(draw).argmax(dim=1) != 0 for draw in draws]).any(dim=0)
        network.valid = detectors.valid & ~outside & (query.exact(point).argmax(dim=1) == 1)
    return network


def _found(network: PlantedNetwork, search: Search, threat: Threat, x: Tensor, index: Tensor) -> Tensor:
    """For which images the search leaves the inside without leaving the ball, bool (n,)."""
    found = run(search, Query(network), x, torch.zeros_like(index), index)
    # Searches for the nearest example may end beyond it.
    allowed = distance(x, found, threat.norm) <= threat.epsilon * (1 + 1e-6)
    with judging(network):
        return allowed & (Query(network).exact(found).argmax(dim=1) == 1)


def _last_linear(model: nn.Module, x: Tensor) -> nn.Module | None:
    """The linear layer that a prediction calls last, if its input is a vector for each image."""
    called: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs and inputs[0].ndim == 2 and len(inputs[0]) == len(x):
            called.append(module)

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else None


def _features(model: nn.Module, layer: nn.Module | None, x: Tensor) -> Tensor:
    """The input of a layer, (B, D); the model's output where there is no such layer."""
    if layer is None:
        out: Tensor = model(x)
        return out
    with _input_of(layer) as kept:
        model(x)
    return kept[-1]


@contextmanager
def _input_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """A context that collects what a layer is given."""
    kept: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    try:
        yield kept
    finally:
        handle.remove()
