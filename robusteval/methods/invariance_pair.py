"""Invariance loss: representations of pairs of images of a class are pulled together."""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar, Literal

from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.branches import MAIN, use_branch
from robusteval.features import penultimate
from robusteval.losses import accuracy, cross_entropy, euclidean_distance
from robusteval.method import Backward, Batch, Card, Method, Pairing, Passes
from robusteval.modes import evaluating
from robusteval.options import Count, NonNegative, Positive, Radius, Step, in_pixel_units, options

AUX = "aux"


@options
class InvariancePair(Method):
    """Cross-entropy plus the distance of an image's features from those of its partner (Sakai et al., 2021).

    Attributes:
        weight: lambda, of the distance.
        partner: ``same_class``: another image of the class, by a permutation within it; ``augmented``: the image,
            augmented again; ``adversarial``: its PGD example, made through the branch that the partner takes.
        every: epochs after which same-class partners are drawn anew.
        partner_bn: BatchNorm of the partner's pass. ``eval``: running statistics, which stay as they are (the
            paper's); ``train``: those of the partners, which move the running ones too; ``aux``: a branch of its own.
        eps: added under the root, so that equal features have a gradient.
        epsilon, step_size, steps: the Linf attack of adversarial partners, in eval mode.
    """

    name: ClassVar[str] = "invariance_pair"
    card: ClassVar[Card] = Card(
        title="Three approaches to facilitate DNN generalization to objects in out-of-distribution orientations and "
        "illuminations",
        authors="Sakai, Sunagawa, Madan, Suzuki, Katoh, Kobashi, Pfister, Sinha, Boix, Sasaki",
        venue="arXiv",
        year=2021,
        url="https://arxiv.org/abs/2111.00131",
        summary="Cross-entropy plus lambda times the (un-squared) L2 distance between the penultimate features of each "
        "image and of another one of its class, which goes through BatchNorm with running statistics.",
        reference="FujitsuResearch/three-approaches-ood",
        deviations=(
            "The features are the classifier's input, the pooled last activations of our networks; the paper's network "
            "has a layer of 512 with BatchNorm and rectifier there. The distance is not divided by their number, so "
            "lambda depends on it.",
            "lambda = 0.01 and new partners every 20 epochs are those of the published command; the code's own default "
            "is 40 epochs.",
            "1e-12 under the root: the reference has none, and the gradient of equal features is not a number.",
            "The image's pass comes first, as in the reference, so that its update of the running statistics precedes "
            "the partner's pass.",
            "The optimizer, augmentation and BatchNorm momentum are the suite's; the reference has Adam at 1e-4, no "
            "augmentation, momentum 0.01 (its 0.99), eps 1e-3 and statistics of 64 images on each of four GPUs.",
            "Partners by augmentation or attack, and partner_bn = train or aux, are ours.",
        ),
    )

    weight: NonNegative = 0.01
    partner: Literal["same_class", "augmented", "adversarial"] = "same_class"
    every: Count = 20
    partner_bn: Literal["eval", "train", "aux"] = "eval"
    eps: Positive = 1e-12
    epsilon: Radius = 8 / 255
    step_size: Step = 2 / 255
    steps: Count = 10

    @model_validator(mode="after")
    def _in_pixel_units(self) -> InvariancePair:
        in_pixel_units("Linf", epsilon=self.epsilon, step_size=self.step_size)
        return self

    @property
    def branches(self) -> tuple[str, ...]:
        return (MAIN, AUX) if self.partner_bn == "aux" else (MAIN,)

    @property
    def pairing(self) -> Pairing | None:
        return None if self.partner == "adversarial" else Pairing(self.partner, every=self.every)

    def partners(self, model: nn.Module, batch: Batch) -> Tensor:
        """The other image of each pair (B, 3, H, W)."""
        if self.partner != "adversarial":
            assert batch.partner is not None
            return batch.partner
        rng = batch.rng.at("start")
        start = random_start(batch.x, epsilon=self.epsilon, norm="Linf", rng=rng, index=batch.index)
        with use_branch(model, self.branches[-1]):
            return pgd(
                model, batch.x, batch.y, epsilon=self.epsilon, step=self.step_size, steps=self.steps, start=start
            )

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        partners = self.partners(model, batch)
        with use_branch(model, MAIN), penultimate(model) as features:
            logits = model(batch.x)
            mode = evaluating(model) if self.partner_bn == "eval" else nullcontext()
            with use_branch(model, self.branches[-1]), mode:
                others = model(partners)
            distance = euclidean_distance(*features, eps=self.eps).mean()
            loss = cross_entropy(logits, batch.y).mean() + self.weight * distance
            # Nothing of the partners' logits, but through them their pass is seen, and counted, to go backward.
            backward(loss + 0 * others.float().sum())
        return {
            "loss": loss.detach(),
            "loss_invariance": distance.detach(),
            "accuracy": accuracy(logits, batch.y),
            "accuracy_partner": accuracy(others, batch.y),
        }

    def passes(self) -> Passes:
        partner = self.branches[-1]
        train = {MAIN: 2.0} if partner == MAIN else {MAIN: 1.0, partner: 1.0}
        return Passes(train=train, attack={partner: self.steps} if self.partner == "adversarial" else {})
