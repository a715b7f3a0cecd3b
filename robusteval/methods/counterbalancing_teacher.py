"""Counterbalancing Teacher: a network with BatchNorm kept close to one without."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from robusteval.branches import MAIN
from robusteval.features import captured, last_stage, penultimate
from robusteval.losses import accuracy, cosine_distance, cross_entropy, distillation, mean_squared_distance
from robusteval.method import Backward, Batch, Card, Method, Passes, Setting, attach, attached
from robusteval.methods.bn_free import BnFree
from robusteval.models.layers import global_average
from robusteval.options import NonNegative, Positive, options

TEACHER = "teacher"


@options
class CounterbalancingTeacher(Method):
    """Cross-entropy plus consistency with a frozen network without BatchNorm (Asgari Taghanaki et al., 2022).

    Attributes:
        weight: of the consistency loss.
        on: what is compared: the classifier's input, the logits, or the rectified and pooled BatchNorm outputs of the
            last stage, of whose distances the mean is taken.
        distance: ``mse``: mean squared difference; ``cosine``: 1 - cosine; ``kl`` (logits only): T**2 times the
            divergence from the teacher's softmax at temperature T.
        temperature: T of ``kl``.
    """

    name: ClassVar[str] = "counterbalancing_teacher"
    card: ClassVar[Card] = Card(
        title="Counterbalancing Teacher: Regularizing Batch Normalized Models for Robustness",
        authors="Asgari Taghanaki, Gholami, Khani, Choi, Tran, Zhang, Khani",
        venue="arXiv",
        year=2022,
        url="https://arxiv.org/abs/2207.01548",
        summary="CT-style: a copy of the network without BatchNorm is trained first and frozen; the network with "
        "BatchNorm then learns the labels and, by a consistency loss, the representation of that teacher.",
        reference="none published",
        deviations=(
            "CT-style, not CT: of the paper only the abstract's account of the method is public. All hyper-parameters "
            "here are choices of ours, and no figure of the paper stands beside them.",
            "The teacher is the same architecture trained from its own start as bn_free, on the same data and seed, "
            "for as long; whether the paper's copy shares weights, and when it is frozen, is not known.",
            "Consistency on the classifier's input by mean squared difference, weight 1, is our default; layer, "
            "distance, weight and temperature of the paper are not known. Sweep the weight (0.1, 1, 10) to judge it.",
            "Teacher and student see the same augmented images; the teacher runs in eval mode. Not known of the paper.",
            "The teacher's training is a run of its own, with its own cost line; here it costs a forward pass a step.",
        ),
    )

    weight: NonNegative = 1.0
    on: Literal["penultimate", "logits", "layers"] = "penultimate"
    distance: Literal["mse", "cosine", "kl"] = "mse"
    temperature: Positive = 1.0

    @model_validator(mode="after")
    def _divergence_of_logits(self) -> CounterbalancingTeacher:
        if self.distance == "kl" and self.on != "logits":
            raise ValueError(f"distance: kl compares logits, not {self.on}; allowed: mse, cosine, or on = 'logits'")
        return self

    def teacher(self) -> Method:
        return BnFree()

    def wrap(self, model: nn.Module, setting: Setting) -> nn.Module:
        assert setting.teacher is not None, "the caller trains the teacher first"
        attach(model, **{TEACHER: setting.teacher.eval().requires_grad_(False)})
        return super().wrap(model, setting)

    def step(self, model: nn.Module, batch: Batch, backward: Backward) -> dict[str, Tensor]:
        logits, mine = self._represented(model, batch.x)
        with torch.no_grad():
            taught, theirs = self._represented(attached(model, TEACHER), batch.x)
        distances = [self._distance(a, b).mean() for a, b in zip(mine, theirs, strict=True)]
        consistency = torch.stack(distances).mean()
        loss = cross_entropy(logits, batch.y).mean() + self.weight * consistency
        backward(loss)
        return {
            "loss": loss.detach(),
            "loss_consistency": consistency.detach(),
            "accuracy": accuracy(logits, batch.y),
            "accuracy_teacher": accuracy(taught, batch.y),
        }

    def _represented(self, network: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and what the consistency loss compares."""
        if self.on == "penultimate":
            with penultimate(network) as features:
                return network(x), features
        with captured(network, last_stage(network) if self.on == "layers" else ()) as outputs:
            logits = network(x)
        pooled = [global_average(output.relu()) for output in outputs.values()]
        return logits, pooled or [logits]

    def _distance(self, mine: Tensor, theirs: Tensor) -> Tensor:
        if self.distance == "kl":
            return distillation(mine, theirs, temperature=self.temperature)
        return (mean_squared_distance if self.distance == "mse" else cosine_distance)(mine, theirs)

    def passes(self) -> Passes:
        return Passes(train={MAIN: 1}, forward={TEACHER: 1})
