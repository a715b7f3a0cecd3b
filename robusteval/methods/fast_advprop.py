"""Fast AdvProp: AdvProp at about the cost of standard training."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from robusteval.attacks.geometry import LinfBall
from robusteval.branches import MAIN, use_branch
from robusteval.cost import timed
from robusteval.errors import UserError
from robusteval.losses import accuracy, cross_entropy
from robusteval.method import Backward, Batch, Card, Method, Passes, Published
from robusteval.methods.advprop import AUX, start_noise
from robusteval.methods.branch_gradients import scaled_gradients
from robusteval.options import Positive, Probability, Radius, in_pixel_units, options


@options
class FastAdvProp(Method):
    """A share of the batch is adversarial, by the gradient of a pass that trains too (Mei et al., 2022).

    Attributes:
        p_adv: share of the images that the auxiliary branch learns, from noisy and then adversarial versions; the
            main branch learns the others. Each part of a batch gives its last rows, the batch being in random order.
        epsilon: Linf radius of the noise and of the single step that follows it.
        beta: weight of the noisy loss and of the adversarial one of an image; 1/2 gives each image the weight 1.
        sync: divide the gradients of shared, main-branch and auxiliary-branch parameters each by the weight of the
            images that reach them; else all by that of the whole batch, which slows the branches down to 1 - p_adv and
            p_adv.
        clean_start: share of the batches whose noise is left out.
        budget_matched: divide the epochs by 1 + p_adv, which is what a step costs more than a standard one.
    """

    name: ClassVar[str] = "fast_advprop"
    branches: ClassVar[tuple[str, ...]] = (MAIN, AUX)
    card: ClassVar[Card] = Card(
        title="Fast AdvProp",
        authors="Mei, Han, Bai, Zhang, Li, Li, Yuille, Xie",
        venue="ICLR",
        year=2022,
        url="https://arxiv.org/abs/2204.09838",
        summary="The main branch learns most of the batch; the rest goes through the auxiliary branch twice: with "
        "noise, then moved by the sign of the input gradient of that very pass. The main branch is deployed.",
        reference="meijieru/fast_advprop",
        deviations=(
            "Losses are summed over images and gradients divided by counts, as in the code; Algorithm 1 adds three "
            "means, by which an adversarial image weighs four times a clean one.",
            "The two parts share the batch; in paper and code a step has 1 / (1 - p_adv) times the images, so that "
            "the main branch keeps its batch size. The auxiliary part has p_adv of the images, rounded, at least 1.",
            "clean_start = 0: Algorithm 1 always adds noise; the code leaves it out for 58 % of its batches "
            "(clean_start = 0.5793).",
            "budget_matched = false, the 1.2N of EntProp's tables; the paper trains for 1 / (1 + p_adv) of the epochs.",
            "No Shuffling BN: it changes nothing on one device, where all adversarial images share their statistics.",
            "The noisy image is clipped to [0, 1]; the code clips the adversarial one only.",
        ),
        published=(
            Published("cifar100", "resnet18", {}, "clean", 0.7889, None, "EntProp (Enomoto, 2024), Table 4"),
            Published("cifar100", "resnet18", {}, "corruption", 0.5331, None, "EntProp (Enomoto, 2024), Table 4"),
        ),
    )

    p_adv: Annotated[float, Field(gt=0, lt=1)] = 0.2
    epsilon: Radius = 1 / 255
    beta: Positive = 0.5
    sync: bool = True
    clean_start: Probability = 0.0
    budget_matched: bool = False

    @model_validator(mode="after")
    def _in_pixel_units(self) -> FastAdvProp:
        in_pixel_units("Linf", epsilon=self.epsilon)
        return self

    @property
    def epochs_factor(self) -> float:
        return 1 / (1 + self.p_adv) if self.budget_matched else 1.0

    def adversarial(self, batch_size: int) -> int:
        """How many images of a batch the auxiliary branch learns."""
        if batch_size < 2:
            raise UserError("fast_advprop: a batch of 1 image cannot be shared by two branches; allowed: 2 or more")
        return min(max(1, round(self.p_adv * batch_size)), batch_size - 1)

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        n_aux = self.adversarial(len(batch.x))
        n_main = len(batch.x) - n_aux
        x, x_aux = batch.x[:n_main], batch.x[n_main:]
        y, y_aux = batch.y[:n_main], batch.y[n_main:]
        # The weight of all images; a loss is divided by it, and the gradient of a group then by the group's share.
        weight_aux = 2 * self.beta * n_aux
        weight = n_main + weight_aux
        scales = {MAIN: weight / n_main, AUX: weight / weight_aux} if self.sync else {}
        with timed("attack"):
            start = start_noise(
                x_aux, batch.index[n_main:], batch.rng, epsilon=self.epsilon, clean_start=self.clean_start
            )
            ball = LinfBall(x_aux, self.epsilon)
            noisy = (x_aux.clone() if start is None else ball.point(start)).requires_grad_()
        with scaled_gradients(model, scales):
            with use_branch(model, MAIN):
                logits = model(x)
                clean = cross_entropy(logits, y).sum() / weight
                backward(clean)
            with use_branch(model, AUX):
                noise_loss = self.beta * cross_entropy(model(noisy), y_aux).sum() / weight
                backward(noise_loss)
                assert noisy.grad is not None
                with timed("attack"):
                    x_adv = ball.step(noisy.detach(), noisy.grad, self.epsilon)
                logits_adv = model(x_adv)
                losses_adv = cross_entropy(logits_adv, y_aux)
                adversarial = self.beta * losses_adv.sum() / weight
                backward(adversarial)
        return {
            "loss": (clean + noise_loss + adversarial).detach(),
            "loss_aux": losses_adv.detach().mean(),
            "accuracy": accuracy(logits, y),
            "accuracy_aux": accuracy(logits_adv, y_aux),
        }

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1 - self.p_adv, AUX: 2 * self.p_adv})
