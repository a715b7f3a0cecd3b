"""EntProp: the most uncertain images of each batch, made adversarial almost for free, as auxiliary data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from robusteval.branches import MAIN, use_branch
from robusteval.cost import timed
from robusteval.data.augment import Mixed, cutmix, mixup
from robusteval.errors import UserError
from robusteval.losses import accuracy, entropy, mixed_cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes, Published, Setting, attach
from robusteval.methods.branch_gradients import scaled_gradients
from robusteval.methods.disentangled import unmixed
from robusteval.methods.entprop_attack import InnerAttack
from robusteval.methods.entprop_selection import SCORES, SELECTIONS, Selections, selections
from robusteval.options import Positive, options

AUX = "aux"


class Weights(NamedTuple):
    """What multiplies an image's loss: in the main branch, where it was or was not selected; in an auxiliary pass."""

    other: float
    selected: float
    aux: float


_TABLES: Mapping[str, tuple[tuple[dict[str, str | int | float | bool], float, float], ...]] = {
    "Table 4": (
        ({"k": 0.2, "steps": 1}, 0.7941, 0.5524),
        ({"k": 0.6, "steps": 1}, 0.7889, 0.5586),
        ({"k": 0.2, "steps": 5}, 0.7919, 0.5452),
        ({"k": 0.6, "steps": 5}, 0.7892, 0.5716),
    ),
    "Table 7": (
        ({"k": 0.2, "steps": 0, "mix": "none"}, 0.7924, 0.5117),
        ({"k": 0.2, "steps": 0}, 0.7966, 0.5453),
        ({"k": 0.2, "steps": 1, "mix": "none"}, 0.7855, 0.5299),
    ),
    "Table 9": (({"k": 0.2, "steps": 1, "mix": "cutmix"}, 0.8139, 0.5078),),
}
"""Options, accuracy on CIFAR-100 and mean accuracy on CIFAR-100-C of ResNet-18, means of three runs."""


def _published() -> Iterator[Published]:
    for table, rows in _TABLES.items():
        for given, clean, corruption in rows:
            for metric, value in (("clean", clean), ("corruption", corruption)):
                yield Published("cifar100", "resnet18", given, metric, value, None, f"Enomoto, 2024, {table}")


@options
class EntProp(InnerAttack, Method):
    """High-entropy samples through the auxiliary branch (Enomoto, 2024, UAI, PMLR 244:1257-1270).

    Attributes:
        k: share of the batch that is selected, by entropy of the main forward pass.
        rounding: of k times the batch size to a whole number, which is at least 1.
        mix: what the main branch sees.
        mix_alpha: the mixing coefficient is drawn from Beta(mix_alpha, mix_alpha), one per batch.
        metric: what selects; the label-based ones use the first image's label; ``random`` is the paper's control.
        adversarial_label: loss of a selected mixture: of both labels, or of the first image's only.
        loss_weighting: ``image``: every image weighs 1, a selected one 1/2 in each branch; ``mean``: over all
            (1 + k)B terms; ``sum``: of the two branches' means (Algorithm 1 as printed).
        sync: scale the gradients of each branch's BatchNorm parameters so that they are weighted means over the
            images that the branch saw, as those of the shared parameters are over all (Fast AdvProp's rule).
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
            "epsilon and alpha are in units of 1/255, which the paper does not say. With the text's epsilon = n + 1 "
            "the ball never binds; AdvProp's rule is n = epsilon + 1.",
            "Selected mixtures keep the mixed label; Algorithm 1 writes the label y.",
            "Every image weighs the same in total (sec. 4.1.3 without its formula); Algorithm 1 adds two means.",
            "Attack iterations use batch statistics and leave the running ones alone; the paper does not say.",
            "The number selected is k|B| rounded, at least 1 (2 of a whole batch, which BatchNorm needs); the "
            "gradients of attack iterations on parameters are discarded; no rescaling per parameter group; the "
            "adversarial image is clipped to [0, 1].",
            "k is above 0: the paper's row k = 0 is standard training. steps = 0 is its ablation without an attack.",
            "The inner attacks TRADES and C&W are named without details: the divergence is from the prediction of the "
            "attacked branch, the margin is unbounded and mixed as the labels are, the training loss stays the same.",
            "k = 0.6, n = 1 on ResNet-18 is 78.89 / 55.86 in Tables 4 and 17 but 79.52 / 56.66 in Table 16: runs of "
            "one setting differ by 0.8 points of H-score. Two H-scores of Table 2 are interchanged, one is not that "
            "of its row; no H-score is quoted.",
        ),
        published=tuple(_published()),
    )

    k: Annotated[float, Field(gt=0, le=1)] = 0.2
    rounding: Literal["nearest", "down", "up"] = "nearest"
    mix: Literal["mixup", "cutmix", "none"] = "mixup"
    mix_alpha: Positive = 1.0
    metric: Literal["entropy", "cross_entropy", "confidence", "margin", "random"] = "entropy"
    adversarial_label: Literal["mixed", "first"] = "mixed"
    loss_weighting: Literal["image", "mean", "sum"] = "image"
    sync: bool = False

    def selected(self, batch_size: int) -> int:
        """How many images of a batch are selected."""
        exact = round(self.k * batch_size, 6)  # 0.3 * 10 is 3, whatever the last bits of the product say
        if self.rounding == "nearest":
            return max(1, round(exact))
        return max(1, math.floor(exact) if self.rounding == "down" else math.ceil(exact))

    def mixed(self, batch: Batch) -> Mixed:
        """What the main branch sees."""
        if self.mix == "none":
            return unmixed(batch.x, batch.y)
        blend = mixup if self.mix == "mixup" else cutmix
        return blend(batch.x, batch.y, batch.rng, alpha=self.mix_alpha)

    def score(self, logits: Tensor, y: Tensor) -> Tensor:
        """The uncertainty (B,) that selects; higher is more uncertain."""
        return SCORES[self.metric](logits, y)

    def chosen(self, logits: Tensor, mixed: Mixed, batch: Batch) -> Tensor:
        """The rows of the batch that are selected, most uncertain first."""
        if self.metric == "random":
            scores = batch.rng.at("selection").uniform(batch.index)
        else:
            scores = self.score(logits.detach(), mixed.y_a)
        return scores.topk(self.selected(len(scores))).indices

    def wrap(self, model: nn.Module, setting: Setting) -> nn.Module:
        if self.selected(setting.batch_size) < 2:
            raise UserError(
                f"entprop: k = {self.k:g} selects {self.selected(setting.batch_size)} image of a batch of "
                f"{setting.batch_size}; the auxiliary BatchNorm needs 2 or more: a larger k or batch"
            )
        model = super().wrap(model, setting)
        attach(model, **{SELECTIONS: Selections(setting.images)})
        return model

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        mixed, n = self.mixed(batch), len(batch.x)
        weights = self._weights(n)
        x = mixed.x.detach().clone().requires_grad_(self.reuses_gradient)
        with self._synchronised(model, n, weights):
            with use_branch(model, MAIN):
                logits = model(x)
                losses = mixed_cross_entropy(logits, mixed.y_a, mixed.y_b, mixed.lam)
                chosen = self.chosen(logits, mixed, batch)
                loss = (torch.full_like(losses, weights.other).index_fill(0, chosen, weights.selected) * losses).sum()
                backward(loss)
            part = Mixed(x.detach()[chosen], mixed.y_a[chosen], mixed.y_b[chosen], mixed.lam[chosen])
            if self.adversarial_label == "first":
                part = part._replace(lam=torch.ones_like(part.lam))
            trained = [loss.detach()]

            def learn(value: Tensor) -> None:
                trained.append(weights.aux * value.detach())
                backward(weights.aux * value)

            with use_branch(model, AUX):
                with timed("attack"):
                    x_adv = self.perturbed(
                        model,
                        part,
                        start=self.start(part.x, batch, chosen),
                        gradient=None if x.grad is None else x.grad[chosen],
                        backward=learn if self.inner_gradients == "keep" else None,
                    )
                aux_losses = mixed_cross_entropy(model(x_adv), part.y_a, part.y_b, part.lam)
                learn(aux_losses.sum())
        if (counter := selections(model)) is not None:
            counter.add(batch.index[chosen])
        return {
            "loss": torch.stack(trained).sum(),
            "accuracy": accuracy(logits, mixed.y_a.where(mixed.lam >= 0.5, mixed.y_b)),
            "loss_aux": aux_losses.detach().mean(),
            "entropy_selected": entropy(logits.detach()[chosen]).mean(),
        }

    @property
    def _trained_passes(self) -> int:
        """Auxiliary passes of a selected image that train parameters."""
        return 1 + self.inner_passes * (self.inner_gradients == "keep")

    def _weights(self, n: int) -> Weights:
        terms = self._trained_passes * self.selected(n)
        if self.loss_weighting == "image":
            return Weights(1 / n, 0.5 / n, 0.5 / n / self._trained_passes)
        if self.loss_weighting == "mean":
            return Weights(1 / (n + terms), 1 / (n + terms), 1 / (n + terms))
        return Weights(1 / n, 1 / n, 1 / terms)

    def _synchronised(self, model: nn.Module, n: int, weights: Weights) -> AbstractContextManager[None]:
        """A context in which the gradients of the branches' own parameters are scaled, if that is wanted."""
        chosen = self.selected(n)
        main = weights.other * (n - chosen) + weights.selected * chosen
        aux = weights.aux * chosen * self._trained_passes
        return scaled_gradients(model, {MAIN: (main + aux) / main, AUX: (main + aux) / aux} if self.sync else {})

    def passes(self) -> Passes:
        inner = {AUX: self.k * self.inner_passes} if self.inner_passes else {}
        return Passes(
            train={MAIN: 1, AUX: self.k * self._trained_passes},
            attack=inner if self.inner_gradients == "discard" else {},
            forward={AUX: self.k} if self.inner_attack == "trades" and self.inner_passes else {},
        )
