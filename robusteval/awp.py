"""Adversarial weight perturbation (Wu et al., 2020, arXiv:2004.05884): weights moved to where the loss is higher.

An option of the adversarial methods: the training loss is taken, and differentiated, at the moved weights, and the
optimizer's step is then made from the original ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robusteval.cost import timed
from robusteval.method import TRAINING_ONLY
from robusteval.modes import frozen_statistics

AWP_DEVIATION = (
    "awp: off unless asked for, and then from the first epoch on (the reference code starts in epoch 10 for TRADES, at "
    "once for PGD). The weights move back before the optimizer's step; the reference moves them back after it, so its "
    "weight decay acts on the moved weights."
)
"""What the cards of methods with the option say."""


@contextmanager
def perturbed_weights(model: nn.Module, loss: Callable[[], Tensor], *, gamma: float) -> Iterator[None]:
    """A context in which the weights w of each layer are ``w + gamma * |w| * g / |g|``, g the gradient of a loss.

    One step, as in the reference code (csdongxian/AWP). Moved are the trainable weight tensors of more than one
    dimension: of convolutions and linear layers, not of BatchNorm, no biases. Afterwards they are what they were, bit
    for bit. No ``.grad`` is touched, and the pass for the gradient updates no running statistics. Call ``backward``
    inside the context.

    Args:
        model: in train mode.
        loss: makes a forward pass and gives the scalar that is to rise; not called if gamma is 0.
        gamma: the length of the perturbation relative to the weights; 0 leaves everything as it is.
    """
    if gamma == 0:
        yield
        return
    weights = _weights(model)
    with timed("attack"), frozen_statistics(model), torch.enable_grad():
        gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    weight.add_(_unit(gradient) * (gamma * torch.linalg.vector_norm(weight)))
        torch.clear_autocast_cache()  # it holds half-precision copies of the weights and does not see them change
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)
        torch.clear_autocast_cache()


def _weights(model: nn.Module) -> list[nn.Parameter]:
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim > 1
        and name.endswith("weight")
        and not name.startswith(TRAINING_ONLY)
    ]


def _unit(gradient: Tensor) -> Tensor:
    """The gradient scaled to length 1, or 0 where it is zero; divided by its peak first, as squares may underflow."""
    tiny = torch.finfo(gradient.dtype).tiny
    gradient = gradient / gradient.abs().amax().clamp(min=tiny)
    unit: Tensor = gradient / torch.linalg.vector_norm(gradient).clamp(min=tiny)
    return unit
