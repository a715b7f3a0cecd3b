"""Is the network a fixed function of one image, with logits as its output? If not, robust numbers mean nothing."""

from __future__ import annotations

import sys
from types import FrameType

import torch
from torch import Tensor, nn

from robusteval.attacks.doubts.subject import Subject, exceeds, judging, logits_of, predictions, state_of
from robusteval.attacks.geometry import random_start
from robusteval.attacks.pgd import PgdSearch
from robusteval.attacks.search import Query

_SAME = 1e-4
"""Relative difference of logits up to which they count as equal: kernels of GPUs may differ by a hundredth of it."""

_LUCK = 3
"""Times by which differences with a reason exceed those between two draws of a random network, at least."""

_FEW = 16
"""Images in the passes that look at the network's behaviour."""


def not_finite(subject: Subject) -> str | None:
    """Logits that are no numbers, on images, attack's examples, or random points between them."""
    points = torch.cat([subject.x, subject.examples, _random(subject), torch.full_like(subject.x[:1], 0.5)])
    bad = int((~logits_of(subject.model, points).isfinite()).any(dim=1).sum())
    return f"{bad} of {len(points)} images, clean and perturbed, have logits that are not finite" if bad else None


def randomised(subject: Subject) -> str | None:
    """The same images give different logits."""
    x = subject.x[:_FEW]
    first, *again = [logits_of(subject.model, x) for _ in range(4)]
    apart = max(_apart(first, other) for other in again)
    return f"the same {len(x)} images gave logits up to {apart:.2g} of their range apart" if apart > _SAME else None


def train_mode(subject: Subject) -> str | None:
    """A module stays in train mode, or an image's logits depend on the other images in its batch."""
    model, x = subject.model, subject.x[:_FEW]
    with judging(model):
        stubborn = [name or "network" for name, module in model.named_modules() if module.training]
    if stubborn:
        return f"{len(stubborn)} modules stay in train mode, the first is {stubborn[0]}"
    again, alone, company = (logits_of(model, torch.cat([x, other]))[: len(x)] for other in (x, x, x / 4))
    apart = _apart(alone, company)
    if apart <= max(_SAME, _LUCK * _apart(again, alone)):
        return None
    return f"logits differ by {apart:.2g} of their range with other images in the batch"


def state_changed(subject: Subject) -> str | None:
    """Parameters, buffers or flags are not what they were before the attack, or before a short attack of our own."""
    model, x = subject.model, subject.x[:_FEW]
    before = state_of(model)
    changed = subject.before.changed(before) if subject.before else []
    if not changed:
        search = PgdSearch(subject.threat, subject.threat.epsilon, 2, rng=None)
        subject.attack(search, model, torch.arange(len(x), device=x.device))
        logits_of(model, x)
        changed = before.changed(state_of(model))
    return f"{len(changed)} tensors or flags changed, the first is {changed[0]}" if changed else None


def optimisation_at_inference(subject: Subject) -> str | None:
    """A prediction computes gradients: Python calls the autograd engine, or the output carries a graph."""
    x = subject.x[:_FEW]
    calls, graph = _backward_calls(subject.model, x)
    if calls:
        return f"a forward pass without gradients ran the backward engine {calls} times"
    return "the output of a forward pass without gradients carries a graph" if graph else None


def probabilities(subject: Subject) -> str | None:
    """Every output row is non-negative and sums to 1."""
    out = logits_of(subject.model, subject.x)
    sums = out.sum(dim=1)
    if bool((out >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        return f"all {len(out)} outputs are non-negative and sum to 1"
    return None


def clean_at_chance(subject: Subject) -> str | None:
    """The network is not better than guessing on the images themselves."""
    n, right = len(subject.x), int((predictions(subject.model, subject.x) == subject.y).sum())
    if n < _FEW or exceeds(right, n, 1 / subject.classes, level=0.05):
        return None
    return (
        f"{right} of {n} clean images are right; guessing among {subject.classes} classes gives {n / subject.classes:g}"
    )


def _random(subject: Subject) -> Tensor:
    """A random point of the ball around each image."""
    threat, rng = subject.threat, subject.rng.at("probe")
    delta = random_start(subject.x, epsilon=threat.epsilon, norm=threat.norm, rng=rng, index=subject.index)
    return threat.ball(subject.x).point(delta)


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two sets of logits, relative to their largest absolute value."""
    return float((a - b).abs().max() / a.abs().max().clamp(min=torch.finfo(a.dtype).tiny))


def _backward_calls(model: nn.Module, x: Tensor) -> tuple[int, bool]:
    """How often a prediction calls the autograd engine, and whether its output requires a gradient.

    Observed with Python's profiler, which sees the call by whatever name the network imported it.
    """
    calls = 0

    def watch(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "c_call" and getattr(argument, "__name__", "") == "run_backward"

    query, before = Query(model), sys.getprofile()
    with judging(model):
        sys.setprofile(watch)
        try:
            out = query.exact(x)
        finally:
            sys.setprofile(before)
    return calls, out.requires_grad
