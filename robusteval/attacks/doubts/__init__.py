"""Reasons not to believe a robust number: a battery of cheap checks on the first images of its evaluation.

An attack only ever shows that images can be broken. Whether one that broke few met a robust network or failed for
reasons of its own, these checks ask; each is named after the heading of `PAGE` that explains it. They cost about as
many passes as three runs of PGD with 100 steps on the same images, most of them for Square and for more steps.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType

from robusteval.attacks.doubts import gradients, network, optimum, planted, rivals
from robusteval.attacks.doubts.subject import Check, State, Subject, state_of
from robusteval.records import Reason

__all__ = ["CHECKS", "NETWORK", "PAGE", "SLOPES", "Check", "State", "Subject", "examine", "reason", "state_of"]

PAGE = "docs/robust-numbers.md"
"""The page that explains every check under a heading of its name."""


def _subset(subject: Subject) -> str | None:
    """The number is of fewer images than there are."""
    images = subject.images or len(subject.x)
    available = subject.available or images
    return f"{images} of {available} images" if images < available else None


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "subset": Check(
            _subset,
            "The number is of the first images alone; the interval says how far off it may be.",
            level="remark",
        ),
        "not-finite": Check(
            network.not_finite,
            "A logit that is no number has no order, so that nothing is decided by it.",
            decisive=True,
        ),
        "randomised": Check(
            network.randomised,
            "An attack that asks once of a network that answers at random measures its luck.",
            decisive=True,
        ),
        "train-mode": Check(
            network.train_mode,
            "A network that looks at the whole batch has no answer for an image, and its accuracy depends on company.",
            decisive=True,
        ),
        "state-changed": Check(
            network.state_changed,
            "A network that changes while it is attacked is not the one that was attacked.",
            decisive=True,
        ),
        "optimisation-at-inference": Check(
            network.optimisation_at_inference,
            "A network that optimises while it predicts has to be attacked through that optimisation.",
        ),
        "probabilities": Check(
            network.probabilities,
            "Losses of probabilities in place of logits have gradients that vanish where the network is confident.",
        ),
        "clean-at-chance": Check(
            network.clean_at_chance,
            "A network that does not recognise the images has no robustness to measure; its labels may be mixed up.",
        ),
        "zero-gradient": Check(
            gradients.zero_gradient,
            "An attack that follows gradients cannot move where there are none.",
        ),
        "saturated-loss": Check(
            gradients.saturated_loss,
            "The loss is 0 in float32 for such large logits; a loss of differences of logits would see the way.",
        ),
        "wrong-gradient": Check(
            gradients.wrong_gradient,
            "An attack that follows gradients goes astray where they do not say how the network changes.",
        ),
        "wrong-network": Check(
            rivals.wrong_network,
            "The attack followed another network than the one that is judged, so that it is no white-box attack.",
        ),
        "white-box": Check(
            rivals.white_box,
            "An attack without gradients says little of a network whose gradients lead to adversarial examples.",
        ),
        "single-step": Check(
            rivals.single_step,
            "Many small steps can do all that one large step does, unless their gradients mislead.",
        ),
        "smaller-epsilon": Check(
            rivals.smaller_epsilon,
            "What is allowed with half the epsilon is allowed with all of it, so that the attack missed it.",
        ),
        "noise": Check(
            rivals.noise,
            "Random points are the weakest attack there is.",
        ),
        "black-box": Check(
            rivals.black_box,
            "An attack that sees gradients should find what one finds that sees logits only.",
        ),
        "transfer": Check(
            rivals.transfer,
            "An attack that knows the network should find what one finds that does not.",
        ),
        "more-steps": Check(
            rivals.more_steps,
            "Accuracy that falls with more steps has not reached its end.",
        ),
        "large-epsilon": Check(
            rivals.large_epsilon,
            "Where every image is allowed, an image of another class is, too.",
        ),
        "silent-success": Check(
            optimum.silent_success,
            "The attack was past an adversarial example and handed back another point.",
        ),
        "no-progress": Check(
            optimum.no_progress,
            "An optimisation that ends where it began has not been one.",
        ),
        "planted": Check(
            planted.planted,
            "An attack that misses adversarial examples which are known to exist has not shown that there are none.",
        ),
        "other-loss": Check(
            rivals.other_loss,
            "Another loss finds more; the number is an upper bound that an ensemble of attacks would lower.",
            level="remark",
        ),
    }
)
"""Every check by its name, in the order in which they are made."""


NETWORK = (
    *("not-finite", "randomised", "train-mode", "state-changed"),
    *("optimisation-at-inference", "probabilities", "clean-at-chance"),
)
"""The checks that ask of the judged network alone."""

SLOPES = ("zero-gradient", "saturated-loss", "wrong-gradient")
"""The checks that ask of the attacked network's gradients."""


def examine(subject: Subject, *, names: Container[str] | None = None) -> tuple[Reason, ...]:
    """What is to be known before the number is trusted; no reason of level ``doubt``: its verdict is ``ok``.

    The network is left as it was, unless it changes itself (``state-changed``).

    Args:
        subject: the number under examination.
        names: of the checks that apply to this kind of number; None: all.
    """
    reasons: list[Reason] = []
    for name, check in CHECKS.items():
        evidence = check.find(subject) if names is None or name in names else None
        if evidence is None:
            continue
        reasons.append(reason(name, evidence))
        if check.decisive:
            break
    return tuple(reasons)


def reason(name: str, evidence: str) -> Reason:
    """The reason that a check gives for what was seen."""
    return Reason(name=name, evidence=evidence, text=CHECKS[name].text, level=CHECKS[name].level)
