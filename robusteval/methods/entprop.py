"""EntProp: the most uncertain images of each batch, made adversarial almost for free, as auxiliary data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robusteval.branches import MAIN, use_branch
from robusteval.cost import timed
from robusteval.data.augment import Mixed, cutmix, mixup
from robusteval.losses import accuracy, cross_entropy, entropy, margin, mixed_cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes
from robusteval.modes import AttackMode, attack_mode
from robusteval.options import Count, Positive, Radius, Step, in_pixel_units, options

AUX = "aux"


@options
class EntProp(Method):
    """High-entropy samples through the auxiliary branch (Enomoto, 2024, UAI, PMLR 244:1257-1270).

    Attributes:
        k: share of the batch that is selected, by entropy of the main forward pass.
        steps: attack iterations n; the first reuses the input gradient of the main backward pass.
        step_size: alpha.
        epsilon: Linf radius; None is the paper's rule: 1/255 for n = 1, else (n + 1)/255.
        mix: what the main branch sees.
        mix_alpha: the mixing coefficient is drawn from Beta(mix_alpha, mix_alpha), one per batch.
        metric: what selects; the label-based ones use the first image's label.
        adversarial_label: loss of a selected mixture: of both labels, or of the first image's only.
        loss_weighting: ``image``: every image weighs 1, a selected one 1/2 in each branch; ``mean``: over all
            (1 + k)B terms; ``sum``: of the two branches' means (Algorithm 1 as printed).
        update: ``clipped``: the sum of steps is kept in the ball; ``cumulative``: Algorithm 1 as printed, where
            a perturbation that grows by epsilon is added in every iteration, and leaves the ball.
        inner_bn: statistics of the auxiliary branch in attack iterations.
        clip: keep the adversarial image in [0, 1].
    """

    name: ClassVar[str] = "entprop"
    branches: ClassVar[tuple[str, ...]] = (MAIN, AUX)
    card: ClassVar[Card] = Card(
        title="EntProp: High Entropy Propagation for Improving Accuracy and Robustness",
        authors="Enomoto",
        venue="UAI",
        year=2024,
        url="https://proceedings.mlr.press/v244/enomoto24a.html",
        summary="The main branch learns from MixUp images; the share k with the highest entropy is perturbed along the "
        "input gradient of that very pass (then by further steps through the auxiliary branch) and learnt through the "
        "auxiliary branch. The main branch is deployed.",
        reference="none published",
        deviations=(
            "Steps are added up and clipped to the ball (the text); Algorithm 1 as printed drifts out of it.",
            "epsilon and alpha are in units of 1/255, which the paper does not say.",
            "Selected mixtures keep the mixed label; Algorithm 1 writes the label y.",
            "Every image weighs the same in total (sec. 4.1.3 without its formula); Algorithm 1 adds two means.",
            "Attack iterations use batch statistics and leave the running ones alone; the paper does not say.",
            "The number selected is k|B| rounded, at least 1; the gradients of attack iterations on parameters are "
            "discarded; no rescaling per parameter group; the adversarial image is clipped to [0, 1].",
            "k is above 0: the paper's row k = 0 is standard training.",
        ),
    )

    k: Annotated[float, Field(gt=0, le=1)] = 0.2
    steps: Count = 1
    step_size: Step = 1 / 255
    epsilon: Radius | None = None
    mix: Literal["mixup", "cutmix", "none"] = "mixup"
    mix_alpha: Positive = 1.0
    metric: Literal["entropy", "cross_entropy", "confidence", "margin"] = "entropy"
    adversarial_label: Literal["mixed", "first"] = "mixed"
    loss_weighting: Literal["image", "mean", "sum"] = "image"
    update: Literal["clipped", "cumulative"] = "clipped"
    inner_bn: AttackMode = "train-frozen-stats"
    clip: bool = True

    @model_validator(mode="after")
    def _in_pixel_units(self) -> EntProp:
        in_pixel_units("Linf", epsilon=self.radius, step_size=self.step_size)
        return self

    @property
    def radius(self) -> float:
        """The Linf radius in force."""
        if self.epsilon is not None:
            return self.epsilon
        return (self.steps + 1) / 255 if self.steps > 1 else 1 / 255

    def selected(self, batch_size: int) -> int:
        """How many images of a batch are selected."""
        return max(1, round(self.k * batch_size))

    def mixed(self, batch: Batch) -> Mixed:
        """What the main branch sees."""
        if self.mix == "none":
            return Mixed(batch.x, batch.y, batch.y, torch.ones(len(batch.x), device=batch.x.device))
        blend = mixup if self.mix == "mixup" else cutmix
        return blend(batch.x, batch.y, batch.rng, alpha=self.mix_alpha)

    def score(self, logits: Tensor, y: Tensor) -> Tensor:
        """The uncertainty (B,) that selects; higher is more uncertain."""
        if self.metric == "entropy":
            return entropy(logits)
        if self.metric == "cross_entropy":
            return cross_entropy(logits, y)
        if self.metric == "confidence":
            return -logits.float().softmax(dim=1).amax(dim=1)
        return -margin(logits, y)

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        mixed, n = self.mixed(batch), len(batch.x)
        x = mixed.x.detach().clone().requires_grad_()
        with use_branch(model, MAIN):
            logits = model(x)
            losses = mixed_cross_entropy(logits, mixed.y_a, mixed.y_b, mixed.lam)
            chosen = self.score(logits.detach(), mixed.y_a).topk(self.selected(n)).indices
            main_weight, aux_weight = self._weights(n, chosen)
            loss = (main_weight * losses).sum()
            backward(loss)
        logs = {"loss": loss.detach(), "accuracy": accuracy(logits, mixed.y_a.where(mixed.lam >= 0.5, mixed.y_b))}
        assert x.grad is not None
        part = Mixed(x.detach()[chosen], mixed.y_a[chosen], mixed.y_b[chosen], mixed.lam[chosen])
        if self.adversarial_label == "first":
            part = part._replace(lam=torch.ones_like(part.lam))
        with use_branch(model, AUX):
            with timed("attack"):
                x_adv = self._attack(model, part, x.grad[chosen])
            aux_losses = mixed_cross_entropy(model(x_adv), part.y_a, part.y_b, part.lam)
            aux_loss = aux_weight * aux_losses.sum()
            backward(aux_loss)
        chosen_entropy = entropy(logits.detach()[chosen]).mean()
        return logs | {
            "loss": (loss + aux_loss).detach(),
            "loss_aux": aux_losses.detach().mean(),
            "entropy_selected": chosen_entropy,
        }

    def _weights(self, n: int, chosen: Tensor) -> tuple[Tensor, float]:
        """Weight of each image's loss in the main branch (B,), and of each selected one in the auxiliary branch."""
        ones = torch.ones(n, device=chosen.device)
        if self.loss_weighting == "image":
            return ones.index_fill(0, chosen, 0.5) / n, 0.5 / n
        if self.loss_weighting == "mean":
            return ones / (n + len(chosen)), 1 / (n + len(chosen))
        return ones / n, 1 / len(chosen)

    def _attack(self, model: nn.Module, part: Mixed, gradient: Tensor) -> Tensor:
        """The selected images after ``steps`` sign steps, the first along the free gradient."""
        x_adv, delta = part.x, torch.zeros_like(part.x)
        for i in range(self.steps):
            if i:
                gradient = self._gradient(model, part, x_adv)
            if self.update == "clipped":
                delta = (delta + self.step_size * gradient.sign()).clamp(-self.radius, self.radius)
                x_adv = part.x + delta
            else:
                delta = delta + self.radius * gradient.sign()
                x_adv = x_adv + delta.clamp(-self.radius, self.radius)
            if self.clip:
                x_adv = x_adv.clamp(0, 1)
        return x_adv

    def _gradient(self, model: nn.Module, part: Mixed, x_adv: Tensor) -> Tensor:
        x_adv = x_adv.detach().requires_grad_()
        with attack_mode(model, self.inner_bn):
            losses = mixed_cross_entropy(model(x_adv), part.y_a, part.y_b, part.lam)
        (gradient,) = torch.autograd.grad(losses.sum(), x_adv)
        return gradient

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1, AUX: self.k}, attack={AUX: self.k * (self.steps - 1)} if self.steps > 1 else {})
