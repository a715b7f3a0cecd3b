"""How EntProp perturbs the images it has selected: sign steps, the first of them free."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import random_start
from robusteval.data.augment import Mixed
from robusteval.losses import kl_divergence, margin, mixed_cross_entropy
from robusteval.method import Backward, Batch
from robusteval.modes import AttackMode, attack_mode, without_graph
from robusteval.options import Radius, Step, Whole, in_pixel_units, options

TINY = 0.001
"""Standard deviation of the start where the clean image has no gradient, as in TRADES (reference code)."""


@options
class InnerAttack:
    """Iterated sign steps around images, through the branch that is in force.

    Attributes:
        steps: attack iterations n; 0 leaves the selected images as they are.
        step_size: alpha.
        epsilon: Linf radius; None is the paper's rule: 1/255 for n = 1, else (n + 1)/255.
        inner_attack: what the steps drive up: ``pgd``: the mixture's cross-entropy; ``cw``: its negative margin
            (Carlini and Wagner, 2017, arXiv:1608.04644); ``trades``: the Kullback-Leibler divergence from the
            prediction of the unperturbed image (Zhang et al., 2019, arXiv:1901.08573).
        free_first_step: the first step follows the input gradient of the main backward pass; False computes one
            through the auxiliary branch, as AdvProp does, at the cost of one more pass.
        random_start: start uniformly in the ball.
        update: ``clipped``: the sum of steps is kept in the ball; ``cumulative``: Algorithm 1 as printed, where
            a perturbation that grows by epsilon is added in every iteration, and leaves the ball.
        clip: keep the adversarial image in [0, 1].
        inner_bn: statistics of the auxiliary branch in attack iterations.
        inner_gradients: ``discard``: attack iterations are for the input only; ``keep``: their loss trains the
            parameters too, all auxiliary passes of an image sharing its weight there.
    """

    steps: Whole = 1
    step_size: Step = 1 / 255
    epsilon: Radius | None = None
    inner_attack: Literal["pgd", "cw", "trades"] = "pgd"
    free_first_step: bool = True
    random_start: bool = False
    update: Literal["clipped", "cumulative"] = "clipped"
    clip: bool = True
    inner_bn: AttackMode = "train-frozen-stats"
    inner_gradients: Literal["discard", "keep"] = "discard"

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        in_pixel_units("Linf", epsilon=self.radius, step_size=self.step_size)
        if self.inner_gradients == "keep" and self.inner_attack != "pgd":
            raise ValueError(
                f'inner_gradients: "keep" trains on what the attack drives up, and {self.inner_attack!r} is no '
                'training loss; allowed with it: inner_attack = "pgd"'
            )
        return self

    @property
    def radius(self) -> float:
        """The Linf radius in force."""
        if self.epsilon is not None:
            return self.epsilon
        return (self.steps + 1) / 255 if self.steps > 1 else 1 / 255

    @property
    def reuses_gradient(self) -> bool:
        """Whether the attack needs the input gradient of the main pass."""
        return self.free_first_step and self.steps > 0

    @property
    def inner_passes(self) -> int:
        """Forward and backward passes of a selected image that only the attack needs."""
        return self.steps - self.reuses_gradient

    def start(self, x: Tensor, batch: Batch, chosen: Tensor) -> Tensor:
        """The perturbation that the attack begins with; x holds the batch's ``chosen`` rows."""
        index, rng = batch.index[chosen], batch.rng.at("start")
        if self.random_start:
            return random_start(x, epsilon=self.radius, norm="Linf", rng=rng, index=index)
        if self.inner_attack == "trades" and self.inner_passes and not self.free_first_step:
            # At the image itself the divergence is at its minimum and has no gradient.
            return (TINY * rng.normal(index, *x.shape[1:])).clamp_(-self.radius, self.radius)
        return torch.zeros_like(x)

    def perturbed(
        self, model: nn.Module, part: Mixed, *, start: Tensor, gradient: Tensor | None, backward: Backward | None
    ) -> Tensor:
        """The images after ``steps`` sign steps.

        Args:
            model: routed to the auxiliary branch.
            part: the images and what they are trained for; unchanged.
            start: perturbation to begin with.
            gradient: the first step's; None computes it.
            backward: receives each iteration's summed loss, to train on it too; None computes input gradients only.
        """
        delta, x_adv = start, self._in_range(part.x + start)
        reference = self._reference(model, part.x)
        for _ in range(self.steps):
            if gradient is None:
                gradient = self._gradient(model, part, x_adv, reference, backward)
            if self.update == "clipped":
                delta = (delta + self.step_size * gradient.sign()).clamp(-self.radius, self.radius)
                x_adv = self._in_range(part.x + delta)
            else:
                delta = delta + self.radius * gradient.sign()
                x_adv = self._in_range(x_adv + delta.clamp(-self.radius, self.radius))
            gradient = None
        return x_adv

    def _in_range(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1) if self.clip else x

    def _reference(self, model: nn.Module, x: Tensor) -> Tensor | None:
        """The unperturbed images' logits through the attacked branch, for the attack that needs them."""
        if self.inner_attack != "trades" or not self.inner_passes:
            return None
        with attack_mode(model, self.inner_bn), without_graph():
            logits: Tensor = model(x)
        return logits

    def _gradient(
        self, model: nn.Module, part: Mixed, x_adv: Tensor, reference: Tensor | None, backward: Backward | None
    ) -> Tensor:
        leaf = x_adv.detach().requires_grad_()
        with attack_mode(model, self.inner_bn):
            value = self._driven_up(model(leaf), part, reference).sum()
            if backward is not None:
                backward(value)
                assert leaf.grad is not None
                return leaf.grad
            (gradient,) = torch.autograd.grad(value, leaf)
        return gradient

    def _driven_up(self, logits: Tensor, part: Mixed, reference: Tensor | None) -> Tensor:
        """What the attack maximises, of each image (B,)."""
        if reference is not None:
            return kl_divergence(reference, logits)
        if self.inner_attack == "cw":
            return -(part.lam * margin(logits, part.y_a) + (1 - part.lam) * margin(logits, part.y_b))
        return mixed_cross_entropy(logits, part.y_a, part.y_b, part.lam)
