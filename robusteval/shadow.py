"""Running statistics of several momenta from one training.

Where training never runs BatchNorm in eval mode, as in plain cross-entropy training, the weights do not depend on the
momentum of the running statistics. One training then gives, exactly, the networks of every momentum. Elsewhere (an
attack through running statistics, say) the bank holds what the same weights would have with other momenta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robusteval.branches import MAIN, BranchNorm
from robusteval.errors import UserError, unknown
from robusteval.method import TRAINING_ONLY, attach

SHADOW = "shadow"
"""The name under which `add_bank` attaches a bank."""

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


class Statistics(NamedTuple):
    """The running mean and (unbiased) variance of a layer's input, each (C,)."""

    mean: Tensor
    var: Tensor


class ShadowBank(nn.Module):
    """For each momentum, the running statistics of every BatchNorm layer and branch, starting from the model's own.

    They are buffers: a checkpoint holds them, and a resumed training goes on with them. Parts that only training
    needs are left out.

    Args:
        model: a network with all its branches; it is neither changed nor kept.
        momenta: in (0, 1], in torch's convention: new = (1 - momentum) * old + momentum * the batch's.
    """

    share: Tensor

    def __init__(self, model: nn.Module, momenta: Iterable[float]) -> None:
        super().__init__()
        self.momenta = tuple(momenta)
        self.register_buffer("share", torch.tensor(self.momenta).unsqueeze(1), persistent=False)
        for layer, branch, norm in _norms(model):
            assert norm.running_mean is not None, f"{layer} keeps no running statistics"
            assert norm.running_var is not None, f"{layer} keeps no running statistics"
            self.share = self.share.to(norm.running_mean)
            self.register_buffer(_key(layer, branch, "mean"), norm.running_mean.repeat(len(self.momenta), 1))
            self.register_buffer(_key(layer, branch, "var"), norm.running_var.repeat(len(self.momenta), 1))

    def statistics(self, momentum: float, branch: str = MAIN) -> dict[str, Statistics]:
        """The statistics of each layer of a branch, by the layer's name; views of the bank's own.

        Raises:
            UserError: the bank has no such momentum or branch.
        """
        if momentum not in self.momenta:
            raise UserError(f"shadow bank: no momentum {momentum}; allowed: {', '.join(map(str, self.momenta))}")
        held = [key.split(":") for key in self._buffers if key.endswith(":mean")]
        branches = {there for _, there, _ in held}
        if branch not in branches:
            raise unknown("shadow bank", "branch", branch, branches)
        row = self.momenta.index(momentum)
        layers = [layer.replace("/", ".") for layer, there, _ in held if there == branch]
        return {layer: Statistics(*(rows[row] for rows in self._rows(layer, branch))) for layer in layers}

    @torch.no_grad()
    def apply_to(self, network: nn.Module, momentum: float, branch: str = MAIN) -> None:
        """Gives a plain network of the branch the statistics of a momentum.

        Raises:
            UserError: the bank has no such momentum or branch.
        """
        for layer, (mean, var) in self.statistics(momentum, branch).items():
            network.get_buffer(f"{layer}.running_mean").copy_(mean)
            network.get_buffer(f"{layer}.running_var").copy_(var)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """A context in which whatever forward pass updates a layer's running statistics updates those here."""
        handles = [norm.register_forward_hook(self._hook(layer, branch, norm)) for layer, branch, norm in _norms(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: str, branch: str, norm: _BatchNorm) -> Hook:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # A deep copy of a watched model has this hook too, and its passes are not the model's.
            if module is norm and norm.training and norm.track_running_stats:
                x = _through_main(norm, inputs[0]) if isinstance(norm, BranchNorm) else inputs[0]
                if x is not None:
                    self._update(layer, branch, x)

        return hook

    def _rows(self, layer: str, branch: str) -> tuple[Tensor, Tensor]:
        """Means and variances of a layer, (momenta, C) each."""
        return self.get_buffer(_key(layer, branch, "mean")), self.get_buffer(_key(layer, branch, "var"))

    @torch.no_grad()
    def _update(self, layer: str, branch: str, x: Tensor) -> None:
        """Takes in a batch, which is reduced once, however many momenta there are."""
        means, variances = self._rows(layer, branch)
        mean, var = torch.zeros_like(means[0]), torch.zeros_like(variances[0])
        torch.batch_norm_update_stats(x, mean, var, 1.0)  # with momentum 1: the batch's own
        # Bit for bit what torch's CPU kernel does: of a float32 batch it takes the variance's product in double
        # precision. A GPU's own updates may differ in the last bits.
        precision = torch.float64 if x.dtype == torch.float32 else torch.float32
        means.mul_(1 - self.share).add_(self.share * mean)
        variances.mul_(1 - self.share)
        variances.copy_(variances.to(precision) + self.share.to(precision) * var.to(precision))


def add_bank(model: nn.Module, momenta: Iterable[float]) -> None:
    """Attaches a bank of these momenta to a wrapped model; does nothing if there are none."""
    momenta = tuple(momenta)
    if momenta:
        attach(model, **{SHADOW: ShadowBank(model, momenta)})


def bank_of(model: nn.Module) -> ShadowBank | None:
    """The bank that was attached to a model; None without one."""
    parts = model._modules.get(TRAINING_ONLY)
    bank = None if parts is None else parts._modules.get(SHADOW)
    assert bank is None or isinstance(bank, ShadowBank)
    return bank


def watching(model: nn.Module) -> AbstractContextManager[None]:
    """A context in which the model's bank, if it has one, follows its training.

    Re-estimating statistics is no part of it: keep `robusteval.optimization.reestimate` outside.
    """
    bank = bank_of(model)
    return nullcontext() if bank is None else bank.watch(model)


def _norms(model: nn.Module) -> list[tuple[str, str, _BatchNorm]]:
    """Each BatchNorm layer of the network once, with its branches: layer, branch, and what normalises there."""
    found: list[tuple[str, str, _BatchNorm]] = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not name.startswith(TRAINING_ONLY):
            layer, _, branch = name.partition(".aux_bn.")
            found.append((layer, branch or MAIN, module))
    return found


def _through_main(norm: BranchNorm, x: Tensor) -> Tensor | None:
    """The part of a batch that the route sends through the main branch; None if there is none."""
    if norm.route == ((MAIN, None),):
        return x
    starts = 0
    for name, size in norm.route:
        if name == MAIN:
            return x[starts : starts + (size or 0)]
        starts += size or 0
    return None


def _key(layer: str, branch: str, kind: str) -> str:
    """A buffer's name, which must not have dots."""
    return f"{layer.replace('.', '/')}:{branch}:{kind}"
