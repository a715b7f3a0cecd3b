"""The fast adaptive boundary attack (FAB; Croce and Hein, 2020, arXiv:1907.02044), towards one class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robusteval.attacks.geometry import length
from robusteval.attacks.hyperplane import to_hyperplane
from robusteval.attacks.nearest import nearer, none_found
from robusteval.attacks.search import Query, State
from robusteval.options import Norm
from robusteval.randomness import Stream

_RESTART_RADIUS = {"Linf": 0.3, "L2": 1.0}
"""Where restarts begin while nothing has been found and no epsilon is given; the published code's defaults."""

_BEYOND = 0.1
"""The share of the rest of the way by which the search in the end goes beyond where it expects the boundary."""

_RESTARTS = 2**20
"""Draws are keyed by an image's number times this, plus the restart."""


@dataclass(frozen=True)
class FabSearch:
    """A `Search` for the nearest image that is misclassified, along the boundary towards one wrong class.

    An iteration replaces the network's boundary by the hyperplane that is tangent to it, steps a little over that,
    both from where it is and from the original image, and takes a mean of the two. Found an adversarial example, it
    steps back towards the original. Any wrong class counts as success. Search in float32 where distances matter:
    bfloat16 places the hyperplane so badly that some come out a tenth too long, and some images unbroken.

    A step costs a gradient; the last of a start, and the last few, which search between the original and the nearest
    example, a forward pass. The published code needs two forward passes: it asks for the hyperplane where it has
    stepped back to. Here that of the example itself serves, which is nearer to the boundary: distances come out no
    longer.

    Attributes:
        norm: in which the nearest is sought.
        epsilon: an image is done with an example within it, and is handed back unchanged without one. None: every image
            takes all steps and the nearest example found is handed back.
        rank: of the target among the wrong classes by the original image's logits, from 1.
        rng: of the restarts.
        iterations: from each start. The first is the image itself.
        restarts: number of starts, the first included. Others are random, half as far from the image as the nearest
            example, or as epsilon where that is less.
        bisections: steps of the search in the end. The authors' first code makes 3, their AutoAttack none.
        alpha_max: greatest weight of the way from the original.
        eta: by how much the hyperplane is overshot.
        beta: what is left of the perturbation after a step back.
    """

    norm: Norm
    epsilon: float | None
    rank: int
    rng: Stream
    iterations: int = 100
    restarts: int = 1
    bisections: int = 3
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    @property
    def steps(self) -> int:
        """See `Search`."""
        return self.restarts * (self.iterations + 1) + self.bisections

    def begin(self, query: Query, state: State) -> State:
        """See `Search`. ``low`` and ``nearest`` enclose the boundary, with their logits; ``point`` is asked next.

        ``stream`` is where restarts are drawn from.
        """
        assert self.rank >= 1
        assert 1 <= self.restarts < _RESTARTS
        x, y = state["x"], state["y"]
        logits = query.exact(x)
        assert self.rank < logits.shape[1], "there are fewer wrong classes"
        others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
        target = others.sort(dim=1, descending=True, stable=True).indices[:, self.rank - 1]
        state = {
            **state,
            **none_found(state),
            "point": x,
            "target": target,
            "stream": torch.full_like(y, self.rng.seed),
        }
        state |= {"low": x, "low_logits": logits, "high_logits": logits}
        return nearer(query, state, x, logits.argmax(dim=1) != y, norm=self.norm, epsilon=self.epsilon)

    def step(self, query: Query, state: State) -> State:
        """See `Search`."""
        start, turn = self._turn(state)
        advancing = (start < self.restarts) & (turn < self.iterations)
        parts = [torch.nonzero(chosen).squeeze(1) for chosen in (advancing, ~advancing)]
        if not len(parts[1]):
            return self._advanced(query, state)
        if not len(parts[0]):
            return self._looked(query, state)
        advanced, looked = ({key: value[rows] for key, value in state.items()} for rows in parts)
        advanced, looked = self._advanced(query, advanced), self._looked(query, looked)
        order = torch.cat(parts).argsort()
        return {key: torch.cat([value, looked[key]])[order] for key, value in advanced.items()}

    def _turn(self, state: State) -> tuple[Tensor, Tensor]:
        """By image, the number of the start it is at, and how often it has asked for a gradient since."""
        turns = self.iterations + 1  # in the last, the last iterate is only looked at
        return state["step"].div(turns, rounding_mode="floor"), state["step"] % turns

    def _advanced(self, query: Query, state: State) -> State:
        """The state after the points were looked at, with those to be asked next."""
        x, y, target = state["x"], state["y"].unsqueeze(1), state["target"].unsqueeze(1)
        asked = self._started(state)

        def lead(logits: Tensor) -> Tensor:
            return (logits.gather(1, target) - logits.gather(1, y)).squeeze(1)

        logits, gradient = query.gradient(asked, lead)
        state, wrong = self._seen(query, state, asked, logits)
        # What is no number tells no direction: such an image stays where it is.
        normal = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0).flatten(1)
        gap = torch.nan_to_num(-lead(logits), nan=0.0, posinf=0.0, neginf=0.0).double()
        origin, there = x.flatten(1), asked.flatten(1)
        kept = torch.where(wrong, self.beta, 1.0).to(x.dtype)
        here = torch.lerp(origin, there, kept.unsqueeze(1))
        offset = (normal.double() * (there.double() - origin)).sum(dim=1)
        from_here = to_hyperplane(here, normal, gap + (1 - kept) * offset, self.norm)
        from_origin = to_hyperplane(origin, normal, gap + offset, self.norm)
        a, b = (length(d, self.norm).clamp(min=1e-8) for d in (from_here, from_origin))
        alpha: Tensor = (a / (a + b)).clamp(max=self.alpha_max).unsqueeze(1)
        point = torch.lerp(here + self.eta * from_here, origin + self.eta * from_origin, alpha)
        return state | {"point": point.clamp_(0, 1).view(x.shape), "step": state["step"] + 1}

    def _looked(self, query: Query, state: State) -> State:
        """The state after the last points of a start, or those between the original and the nearest, were looked at."""
        bisecting = self._turn(state)[0] >= self.restarts
        shape = [-1] + [1] * (state["x"].ndim - 1)
        points = torch.where(bisecting.view(shape), self._between(state), state["point"])
        logits = query.logits(points)
        state, wrong = self._seen(query, state, points, logits)
        low = bisecting & ~wrong
        return state | {
            "low": torch.where(low.view(shape), points, state["low"]),
            "low_logits": torch.where(low.unsqueeze(1), logits, state["low_logits"]),
            "step": state["step"] + 1,
        }

    def _seen(self, query: Query, state: State, points: Tensor, logits: Tensor) -> tuple[State, Tensor]:
        """The state in which examples among the points have been taken down, and which of the points are wrong."""
        wrong = logits.argmax(dim=1) != state["y"]
        after = nearer(query, state, points, wrong, norm=self.norm, epsilon=self.epsilon)
        improved = (after["distance"] < state["distance"]).unsqueeze(1)
        return after | {"high_logits": torch.where(improved, logits, state["high_logits"])}, wrong

    def _started(self, state: State) -> Tensor:
        """The points to ask, of which those at the beginning of a restart are drawn anew."""
        restart, turn = self._turn(state)
        new = torch.nonzero((turn == 0) & (restart > 0)).squeeze(1)
        point = state["point"]
        if not len(new):
            return point
        assert bool((state["stream"][new] == self.rng.seed).all()), "searches with restarts of their own share no batch"
        x, key = state["x"][new], state["index"][new] * _RESTARTS + restart[new]
        rng, shape = self.rng.at("restart"), x.shape[1:]
        draw = 2 * rng.uniform(key, *shape) - 1 if self.norm == "Linf" else rng.normal(key, *shape)
        unit = draw / length(draw.flatten(1), self.norm).view(-1, *[1] * len(shape))
        # The published AutoAttack forgets what earlier starts have found and always draws at half of epsilon.
        most = _RESTART_RADIUS[self.norm] if self.epsilon is None else self.epsilon
        radius = 0.5 * state["distance"][new].clamp(max=most).to(x.dtype)
        return point.index_copy(0, new, (x + radius.view(-1, *[1] * len(shape)) * unit).clamp(0, 1))

    def _between(self, state: State) -> Tensor:
        """Where the margin, if it is linear from ``low`` to ``nearest``, is zero; ``nearest`` where that is nowhere."""
        y, high = state["y"].unsqueeze(1), state["high_logits"]
        found = high.argmax(dim=1, keepdim=True)
        below, above = ((z.gather(1, y) - z.gather(1, found)).squeeze(1) for z in (state["low_logits"], high))
        share = below / (below - above)
        share = torch.where((share >= 0) & (share <= 1), share, 1.0).view(-1, *[1] * (state["x"].ndim - 1))
        # A little further than in the published code: of a network that is linear there, rounding puts every second
        # such point on the wrong side, where all further ones stay.
        share = share + _BEYOND * (1 - share)
        return (state["low"] * (1 - share) + state["nearest"] * share).clamp(0, 1)
