"""AdvProp: adversarial examples as extra training data, seen through BatchNorm layers of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.branches import MAIN, use_branch
from robusteval.data.augment import Mixed, cutmix, mixup
from robusteval.method import Backward, Batch, Card, Method, Passes, Published
from robusteval.methods.disentangled import learn, unmixed
from robusteval.methods.randaugment import RandAugment
from robusteval.modes import AttackMode
from robusteval.options import Count, Positive, Probability, Radius, Step, in_pixel_units, options
from robusteval.randomness import Stream

AUX = "aux"
Source = Literal["pgd", "pgd1", "pgd2", "pgd3", "mixup", "cutmix", "randaugment"]


class _Attack(NamedTuple):
    epsilon: float
    step: float
    steps: int


_WEAKER: Mapping[str, _Attack] = {
    "pgd1": _Attack(1 / 255, 1 / 255, 1),
    "pgd2": _Attack(2 / 255, 1 / 255, 3),
    "pgd3": _Attack(3 / 255, 1 / 255, 4),
}
"""The paper's attackers of lesser strength: n = epsilon + 1 steps of 1 (of 255), a single one for epsilon = 1."""


def start_noise(x: Tensor, index: Tensor, rng: Stream, *, epsilon: float, clean_start: float) -> Tensor | None:
    """Where an attack on x begins: uniform noise in the Linf ball, or None, the image itself, for a share of the draws.

    Args:
        x: float32 (B, 3, H, W), unchanged.
        index: int64 (B,), what the noise of an image depends on.
        rng: the step's stream.
        epsilon: radius of the ball.
        clean_start: probability of None, which is drawn once for the batch.
    """
    one = torch.zeros(1, dtype=torch.int64)  # on the CPU: reading a draw from a GPU would wait for it
    if clean_start and float(rng.at("clean_start").uniform(one)) < clean_start:
        return None
    return random_start(x, epsilon=epsilon, norm="Linf", rng=rng.at("start"), index=index)


@options
class AdvProp(Method):
    """Clean images through the main branch, their adversarial twins through an auxiliary one (Xie et al., 2020).

    Attributes:
        epsilon, step_size, steps: the Linf attack; eps = 4, n = 5, alpha = 1 (of 255) as in Fast AdvProp's and
            EntProp's accounts of the paper.
        targeted: descend towards a random wrong label, as in the paper; else ascend the loss of the true one.
        random_start: start uniformly in the ball.
        clean_start: share of the batches that start from the clean images all the same.
        attack_bn: statistics of the auxiliary branch while the example is sought.
        sources: what is learnt besides clean images, each through an auxiliary branch of its own (the paper's
            fine-grained variant): ``pgd``, the attack above; ``pgd1`` to ``pgd3``, the paper's attackers with that
            radius (of 255); ``mixup``, ``cutmix``; ``randaugment`` with that method's defaults. The first one's
            branch is ``aux``, that of another has its name.
        mix_alpha: the coefficient of MixUp and CutMix images is drawn from Beta(mix_alpha, mix_alpha), one per batch.
        loss_weighting: ``mean`` divides the paper's sum of the branches' losses by their number, which keeps the
            learning rate's scale.
        forward: the images of all branches concatenated in ``one`` pass, or, with ``two``, each branch in its own;
            the gradients are the same.
    """

    name: ClassVar[str] = "advprop"
    card: ClassVar[Card] = Card(
        title="Adversarial Examples Improve Image Recognition",
        authors="Xie, Tan, Gong, Wang, Yuille, Le",
        venue="CVPR",
        year=2020,
        url="https://arxiv.org/abs/1911.09665",
        summary="PGD examples are made through the auxiliary BatchNorm branch in eval mode; the network learns from "
        "the clean batch through the main branch and from the examples through the auxiliary one. The main branch is "
        "deployed.",
        reference="tingxueronghua/pytorch-classification-advprop (no training code was published by the authors)",
        deviations=(
            "loss_weighting = mean: the paper adds the two losses, both public re-implementations average them.",
            "The random target is never the true label, as the paper says; the re-implementation may draw it.",
            "Every start is random; the re-implementation starts 58 % of its batches from the clean image, which is "
            "clean_start = 0.5793.",
            "The fine-grained variant (sources): the paper's has AutoAugment images besides PGD's; here attacks of "
            "several strengths, MixUp, CutMix and RandAugment can be combined, each made from the plain batch.",
            "The numbers beside ours are EntProp's; its text does not say whether their attack is targeted.",
        ),
        published=(
            Published("cifar100", "resnet18", {}, "clean", 0.7515, None, "EntProp (Enomoto, 2024), Table 4"),
            Published("cifar100", "resnet18", {}, "corruption", 0.5678, None, "EntProp (Enomoto, 2024), Table 4"),
            Published("cifar100", "ResNet-50", {}, "clean", 0.7805, None, "EntProp (Enomoto, 2024), Table 2"),
            Published("cifar100", "ResNet-50", {}, "corruption", 0.5894, None, "EntProp (Enomoto, 2024), Table 2"),
        ),
    )

    epsilon: Radius = 4 / 255
    step_size: Step = 1 / 255
    steps: Count = 5
    targeted: bool = True
    random_start: bool = True
    clean_start: Probability = 0.0
    attack_bn: AttackMode = "eval"
    sources: tuple[Source, ...] = ("pgd",)
    mix_alpha: Positive = 1.0
    loss_weighting: Literal["mean", "sum"] = "mean"
    forward: Literal["one", "two"] = "one"

    @field_validator("sources")
    @classmethod
    def _each_once(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        if not sources or len(set(sources)) < len(sources):
            raise ValueError('one source or more, each once; for example ["pgd", "pgd1", "mixup"]')
        return sources

    @model_validator(mode="after")
    def _in_pixel_units(self) -> AdvProp:
        in_pixel_units("Linf", epsilon=self.epsilon, step_size=self.step_size)
        return self

    @property
    def auxiliary(self) -> dict[str, Source]:
        """The auxiliary branches, and what each one learns from."""
        return dict(zip((AUX, *self.sources[1:]), self.sources, strict=True))

    @property
    def branches(self) -> tuple[str, ...]:
        return (MAIN, *self.auxiliary)

    def _attack(self, source: Source) -> _Attack | None:
        """The attack of a source; None for an augmentation."""
        return _Attack(self.epsilon, self.step_size, self.steps) if source == "pgd" else _WEAKER.get(source)

    def images(self, model: nn.Module, batch: Batch, branch: str) -> Mixed:
        """What an auxiliary branch learns from; adversarial images are made through that branch."""
        source = self.auxiliary[branch]
        rng = batch.rng if source == "pgd" else batch.rng.at(source)
        attack = self._attack(source)
        if source == "randaugment":
            return unmixed(RandAugment().augmented(batch), batch.y)
        if attack is None:
            return (mixup if source == "mixup" else cutmix)(batch.x, batch.y, rng, alpha=self.mix_alpha)
        start = None
        if self.random_start:
            start = start_noise(batch.x, batch.index, rng, epsilon=attack.epsilon, clean_start=self.clean_start)
        labels = batch.y
        if self.targeted:
            offset = 1 + rng.at("target").integers(batch.index, batch.classes - 1)
            labels = (batch.y + offset) % batch.classes
        with use_branch(model, branch):
            x_adv = pgd(
                model,
                batch.x,
                labels,
                epsilon=attack.epsilon,
                step=attack.step,
                steps=attack.steps,
                start=start,
                targeted=self.targeted,
                mode=self.attack_bn,
            )
        return unmixed(x_adv, batch.y)

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        parts = {MAIN: unmixed(batch.x, batch.y)}
        parts |= {branch: self.images(model, batch, branch) for branch in self.auxiliary}
        return learn(model, parts, backward, loss_weighting=self.loss_weighting, forward=self.forward)

    def passes(self) -> Passes:
        attacks = {branch: self._attack(source) for branch, source in self.auxiliary.items()}
        return Passes(
            train=dict.fromkeys(self.branches, 1),
            attack={branch: attack.steps for branch, attack in attacks.items() if attack},
        )
