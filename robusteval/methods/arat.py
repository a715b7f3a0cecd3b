"""AR-AT: adversarial features are pulled to clean ones, which stay where they are, through BatchNorm of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.attacks import pgd, random_start
from robusteval.branches import MAIN, BranchNorm, use_branch
from robusteval.errors import UserError, unknown
from robusteval.features import captured, last_stage
from robusteval.losses import accuracy, cosine_distance, cross_entropy, mean_squared_distance
from robusteval.method import Backward, Batch, Card, Method, Passes, Published, Setting, attach, attached
from robusteval.models.layers import global_average
from robusteval.modes import AttackMode
from robusteval.options import (
    Count,
    NonNegative,
    Norm,
    Positive,
    Probability,
    Radius,
    Step,
    in_pixel_units,
    options,
)

ADV = "adv"
_WIDE = {"gamma": 100.0}
_AA = "autoattack Linf 8/255"
_TABLE = "Waseda et al. (2025), Table 3, five runs"


@options
class ARAT(Method):
    """Asymmetric invariance between branches of clean and of adversarial images (Waseda et al., 2025, AR-AT).

    Attributes:
        gamma: weight of the invariance loss, shared equally by the layers. The authors' scripts take 30 for
            ResNet-18 and 100 for WRN-34-10.
        layers: regular expressions that each match the whole names of BatchNorm layers; none: those of the last
            stage that a rectifier follows.
        align: which side is drawn to the other, or ``both``: the mean of the two directions.
        stop_gradient: the side that is drawn to is a constant.
        predictor: the side that is drawn passes through a predictor first, one per layer.
        distance: ``cosine``: one minus the cosine; ``mse``.
        alpha: weight of the adversarial cross-entropy, 1 - alpha being that of the clean one; None for AR-AT's
            balance: the clean branch's training accuracy in the last epoch, 1/K in the first.
        balance_power: the two balance weights are raised to it.
        epsilon, step_size, steps, norm: the PGD attack, through the adversarial branch.
        random_start: start uniformly in the ball.
        attack_bn: statistics of the adversarial branch while the example is sought; ``train`` as in the reference
            code, whose running statistics move ``steps`` + 1 times a step.
        noise_in_clean_batch: as in the reference code, whose attack adds its random start to the clean batch too:
            the clean branch sees x + U(-epsilon, epsilon), not cut to [0, 1], and the ball is around that, so that
            examples are up to 2 epsilon from x. Linf only.
    """

    name: ClassVar[str] = "arat"
    branches: ClassVar[tuple[str, ...]] = (MAIN, ADV)
    deployed: ClassVar[str] = ADV
    card: ClassVar[Card] = Card(
        title="Rethinking Invariance Regularization in Adversarial Training to Improve Robustness-Accuracy Trade-off",
        authors="Waseda, Chang, Echizen",
        venue="ICLR",
        year=2025,
        url="https://arxiv.org/abs/2402.14648",
        summary="Clean images go through the main branch, PGD examples through the adversarial one. Beside both "
        "cross-entropies, a predictor's image of the adversarial features of several layers is drawn to the clean "
        "features, which get no gradient from that. The adversarial branch is deployed, for clean images too.",
        reference="the authors' code, revision e65ffad of September 2025 (train_ARAT.py, loss.py, attacks.py)",
        deviations=(
            "Balance: the mean accuracy of the clean branch over the last epoch's training batches, which costs "
            "nothing; the code measures it in eval mode on about 1,000 training images before each epoch.",
            "attack_bn = train-frozen-stats: the code's attack runs in train mode, so ten of eleven updates of the "
            "deployed statistics come from unfinished examples (attack_bn = train).",
            "Examples start inside the ball of the clean image and the clean branch sees that image; the code adds the "
            "start to the clean batch by mistake (noise_in_clean_batch; there, the first gradient of the code is at "
            "the noisy image, ours at its cut to [0, 1]).",
            "Other align directions put the predictor on the side that is drawn; the code always on the adversarial "
            "one. The code's KL distance is left out.",
            "Our networks begin with pixel normalisation, the authors' do not; radii are in pixels in both.",
            "Recipe, an option of training and not of the method: epochs = 100, schedule = step, milestones = "
            "[0.75, 0.9]. What the code executes is a first epoch at 0.02 and everything else one epoch later: "
            "warmup_epochs = 1, warmup_lr = 0.02, milestones = [0.7575757575757576, 0.9090909090909091].",
            "AR-AT+SWA is that recipe with swa_start = 0.75, swa_every_steps = 500 and bn_reestimate_batches = 390 "
            "(one epoch): 20 weights are averaged where the code takes 19, and all branches get new statistics, "
            "where the code's are for the adversarial branch only. Its published rows are not listed here.",
            "The published AutoAttack is that of a package whose later versions take 10 steps instead of 100; which "
            "version the paper used is not known.",
        ),
        published=(
            Published("cifar10", "resnet18", {}, "clean", 0.8782, 0.0019, _TABLE),
            Published("cifar10", "resnet18", {}, _AA, 0.4902, 0.0047, _TABLE),
            Published("cifar100", "resnet18", {}, "clean", 0.6751, 0.0013, _TABLE),
            Published("cifar100", "resnet18", {}, _AA, 0.2338, 0.0019, _TABLE),
            Published("cifar10", "wrn_34_10", _WIDE, "clean", 0.9089, 0.0022, _TABLE),
            Published("cifar10", "wrn_34_10", _WIDE, _AA, 0.5077, 0.0050, _TABLE),
            Published("cifar100", "wrn_34_10", _WIDE, "clean", 0.7251, 0.0051, _TABLE),
            Published("cifar100", "wrn_34_10", _WIDE, _AA, 0.2418, 0.0046, _TABLE),
        ),
    )

    gamma: NonNegative = 30.0
    layers: tuple[str, ...] = ()
    align: Literal["adv_to_clean", "clean_to_adv", "both"] = "adv_to_clean"
    stop_gradient: bool = True
    predictor: bool = True
    distance: Literal["cosine", "mse"] = "cosine"
    alpha: Probability | None = None
    balance_power: Positive = 1.0
    epsilon: Radius = 8 / 255
    step_size: Step = 2 / 255
    steps: Count = 10
    norm: Norm = "Linf"
    random_start: bool = True
    attack_bn: AttackMode = "train-frozen-stats"
    noise_in_clean_batch: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> ARAT:
        in_pixel_units(self.norm, epsilon=self.epsilon, step_size=self.step_size)
        if self.noise_in_clean_batch and not (self.norm == "Linf" and self.random_start):
            raise ValueError(
                'noise_in_clean_batch: is the random start of the Linf attack; needs norm = "Linf", random_start = true'
            )
        for pattern in self.layers:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"layers: {pattern!r} is no regular expression: {error}") from None
        return self

    def wrap(self, model: nn.Module, setting: Setting) -> nn.Module:
        model = super().wrap(model, setting)
        layers = self.regularised(model)
        if self.predictor:
            if setting.batch_size < 2:
                raise UserError("arat: batches of 1 image; allowed: 2 or more, for the predictor's BatchNorm")
            widths = [model.get_parameter(f"{layer}.weight").numel() for layer in layers]
            attach(model, predictors=nn.ModuleList(_predictor(width) for width in widths))
        balance = nn.Module()
        balance.register_buffer("accuracy", torch.tensor(1 / setting.classes))
        attach(model, balance=balance)
        return model

    def regularised(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the BatchNorm layers whose rectified, averaged outputs are to be invariant."""
        if not self.layers:
            return last_stage(model)
        names = [name for name, module in model.named_modules() if isinstance(module, BranchNorm)]
        for pattern in self.layers:
            if not any(re.fullmatch(pattern, name) for name in names):
                raise unknown("arat: layers", "BatchNorm layer", pattern, names)
        return tuple(name for name in names if any(re.fullmatch(pattern, name) for pattern in self.layers))

    def attack(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the clean branch sees and the adversarial examples, (B, 3, H, W) each."""
        x, start = batch.x, None
        if self.random_start:
            rng = batch.rng.at("start")
            start = random_start(x, epsilon=self.epsilon, norm=self.norm, rng=rng, index=batch.index)
        if self.noise_in_clean_batch and start is not None:
            x, start = x + start, None
        with use_branch(model, ADV):
            x_adv = pgd(
                model,
                x,
                batch.y,
                epsilon=self.epsilon,
                step=self.step_size,
                steps=self.steps,
                norm=self.norm,
                start=start,
                mode=self.attack_bn,
            )
        return x, x_adv

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        layers = self.regularised(model)
        weight_clean, weight_adv = self._weights(model)
        clean_moves = self.align != "adv_to_clean" or not self.stop_gradient
        x, x_adv = self.attack(model, batch)
        with use_branch(model, MAIN), captured(model, layers) as kept:
            logits = model(x)
            loss_clean = cross_entropy(logits, batch.y).mean()
            clean = [_features(kept[layer]) for layer in layers]
            if not clean_moves:
                backward(weight_clean * loss_clean)
        # Leaves: the two passes have graphs of their own, each backward in the context of its own branch.
        leaves = [z.detach().requires_grad_(clean_moves) for z in clean]
        with use_branch(model, ADV), captured(model, layers) as kept:
            logits_adv = model(x_adv)
            loss_adv = cross_entropy(logits_adv, batch.y).mean()
            invariance = self.invariance(model, leaves, [_features(kept[layer]) for layer in layers])
            # Not the leaves' .grad: the trainer may scale it, and scales what follows from it once more.
            pulls = torch.autograd.grad(invariance, leaves, retain_graph=True) if clean_moves else ()
            backward(weight_adv * loss_adv + self.gamma * invariance)
        if clean_moves:
            with use_branch(model, MAIN):
                pulled = sum((z * pull).sum() for z, pull in zip(clean, pulls, strict=True))
                backward(weight_clean * loss_clean + self.gamma * pulled)
        loss = weight_clean * loss_clean + weight_adv * loss_adv + self.gamma * invariance
        return {
            "loss": loss.detach(),
            "loss_clean": loss_clean.detach(),
            "loss_adv": loss_adv.detach(),
            "invariance": invariance.detach(),
            "accuracy": accuracy(logits_adv, batch.y),
            "accuracy_clean": accuracy(logits, batch.y),
            "weight_adv": weight_adv,
        }

    def invariance(self, model: nn.Module, clean: Sequence[Tensor], adv: Sequence[Tensor]) -> Tensor:
        """The mean over layers and images of the distances between clean and adversarial features, each (B, D)."""
        distance = cosine_distance if self.distance == "cosine" else mean_squared_distance
        predictors = attached(model, "predictors") if self.predictor else [nn.Identity()] * len(clean)
        losses = []
        for z, z_adv, predict in zip(clean, adv, predictors, strict=True):  # type: ignore[arg-type]  # a ModuleList
            pairs = {"adv_to_clean": [(z_adv, z)], "clean_to_adv": [(z, z_adv)], "both": [(z_adv, z), (z, z_adv)]}
            for drawn, to in pairs[self.align]:
                losses.append(distance(predict(drawn), to.detach() if self.stop_gradient else to).mean())
        return torch.stack(losses).mean()

    def _weights(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Weights of the clean and of the adversarial cross-entropy."""
        share = attached(model, "balance").get_buffer("accuracy")
        if self.alpha is not None:
            share = torch.full_like(share, self.alpha)
        return (1 - share) ** self.balance_power, share**self.balance_power

    def epoch(self, model: nn.Module, logs: Mapping[str, float]) -> None:
        attached(model, "balance").get_buffer("accuracy").fill_(logs["accuracy_clean"])

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1, ADV: 1}, attack={ADV: self.steps})


def _predictor(width: int) -> nn.Sequential:
    """Two linear layers with a bottleneck of a quarter of the width, as in SimSiam (Chen and He, 2021)."""
    hidden = max(1, width // 4)
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
    )


def _features(output: Tensor) -> Tensor:
    """The rectified output of a layer, averaged over the image: float32 (B, C)."""
    return global_average(F.relu(output).float())
