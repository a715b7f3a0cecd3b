"""Networks without batch normalisation that are, once deployed, ordinary networks with BatchNorm layers.

A layer keeps its per-channel scale and shift and its keys; its running statistics are fixed to mean 0 and standard
deviation 1 and are used in train mode too, so that no image's output depends on its batch. In eval mode an ordinary
BatchNorm layer with these statistics computes the same bits: `restore_norms` only gives the class back.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robusteval.branches import BranchNorm
from robusteval.errors import UserError
from robusteval.models.preact import PreActBlock
from robusteval.models.resnet import BasicBlock
from robusteval.models.wide import WideBlock


class FixedNorm(_BatchNorm):
    """A `_BatchNorm` that applies its running statistics in every mode and never changes them; see `remove_norms`."""

    plain: type[_BatchNorm]

    def forward(self, x: Tensor) -> Tensor:
        """The input times the channel's weight plus its bias."""
        # What BatchNorm calls in eval mode, for the sake of the same bits.
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


_FIXED: dict[type[_BatchNorm], type[FixedNorm]] = {}


def _fixed(plain: type[_BatchNorm]) -> type[FixedNorm]:
    """The class without normalisation for a BatchNorm class; one for all layers, so that their types compare equal."""
    if plain not in _FIXED:
        _FIXED[plain] = type(f"Fixed{plain.__name__}", (FixedNorm, plain), {"plain": plain})
    return _FIXED[plain]


def remove_norms(model: nn.Module, *, zero_init: bool) -> None:
    """Takes the normalisation out of every BatchNorm layer and draws new weights with which the network trains.

    The convolutions are drawn as He et al. (2015, arXiv:1502.01852, eq. 10: variance 2 / fan-in), from torch's global
    generator. That keeps the scale of the activations through a chain of layers, but every residual block then adds
    as much variance as it gets: signal and gradient grow exponentially with the number of blocks, and training needs
    small steps or clipped gradients. PyTorch's own, smaller weights vanish instead, and train slowly. With the last
    convolution of each block at zero (``zero_init``; Zhang et al., 2019, arXiv:1901.09321, sec. 3) every block starts
    as its shortcut, and networks train about as well as with BatchNorm.

    Args:
        model: changed in place; freshly made, in train mode.
        zero_init: start residual blocks (those of `robusteval.models`) at zero.

    Raises:
        UserError: there is no BatchNorm layer, or one without running statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    name = type(model).__name__
    if not norms:
        raise UserError(f"remove_norms: {name} has no BatchNorm layer")
    if any(norm.running_mean is None for norm in norms):
        raise UserError(f"remove_norms: {name} has a BatchNorm layer without running statistics")
    for norm in norms:
        assert not isinstance(norm, BranchNorm | FixedNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.track_running_stats = False  # none are tracked: re-estimation passes the layer over
        object.__setattr__(norm, "__class__", _fixed(type(norm)))
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            _draw(module.weight)
    if zero_init:
        for block in model.modules():
            if isinstance(block, BasicBlock | PreActBlock | WideBlock):
                nn.init.zeros_(block.conv2.weight)


@torch.no_grad()
def _draw(weight: Tensor) -> None:
    """He's draw, made on the CPU so that it is the same on every device."""
    drawn = torch.empty(weight.shape)
    nn.init.kaiming_normal_(drawn, nonlinearity="relu")
    weight.copy_(drawn)


def restore_norms(model: nn.Module) -> None:
    """Makes the layers that `remove_norms` changed ordinary BatchNorm layers, in place; the eval output stays."""
    for norm in model.modules():
        if isinstance(norm, FixedNorm):
            norm.track_running_stats = True
            object.__setattr__(norm, "__class__", norm.plain)


def normalizes(model: nn.Module) -> bool:
    """Whether the network's BatchNorm layers have statistics of images; False after `remove_norms`, deployed or not.

    Where they have none, re-estimated ones would make another network of it.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return any(
        norm.running_mean is None
        or norm.running_var is None
        or bool(norm.running_mean.any())
        or bool((norm.running_var != 1 - norm.eps).any())
        for norm in norms
    )
