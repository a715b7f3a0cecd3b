"""BatchNorm with several named branches, for any network, in train and in eval mode.

A branch has its own affine parameters and running statistics; all other weights are shared
(Xie et al., 2020, arXiv:1911.09665). The layers are changed in place by giving each one a routed
class and the other branches as children, so the ``main`` branch keeps its parameters and keys, a
layer used twice stays one layer, and every other branch adds keys ``<layer>.aux_bn.<branch>.*``.
The route also holds in eval mode: attacks and scores can go through every branch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robusteval.errors import UserError, unknown

MAIN = "main"
Route = tuple[tuple[str, int | None], ...]
"""Consecutive parts of the batch as (branch, number of samples); one part with None is the whole batch."""

M = TypeVar("M", bound=nn.Module)


class BranchNorm(_BatchNorm):
    """A `_BatchNorm` that sends parts of the batch through different branches; made by `add_branches`."""

    aux_bn: nn.ModuleDict
    route: Route
    plain: type[_BatchNorm]

    def forward(self, x: Tensor) -> Tensor:
        """The normalised batch; each part of the route through its own branch, in the same order."""
        if len(self.route) == 1 and self.route[0][1] is None:
            return self._through(self.route[0][0], x)
        sizes = [size or 0 for _, size in self.route]
        if sum(sizes) != len(x):
            raise UserError(f"split_batch: the parts {dict(self.route)} do not add up to the batch of {len(x)}")
        parts = zip(self.route, torch.split(x, sizes), strict=True)
        return torch.cat([self._through(name, part) for (name, _), part in parts])

    def _through(self, name: str, x: Tensor) -> Tensor:
        out: Tensor = self.plain.forward(self, x) if name == MAIN else self.aux_bn[name](x)
        return out


_ROUTED: dict[type[_BatchNorm], type[BranchNorm]] = {}


def _routed(plain: type[_BatchNorm]) -> type[BranchNorm]:
    """The routed class of a BatchNorm class; one for all layers, so that their types compare equal."""
    if plain not in _ROUTED:
        _ROUTED[plain] = type(
            f"Branch{plain.__name__}", (BranchNorm, plain), {"plain": plain, "forward": BranchNorm.forward}
        )
    return _ROUTED[plain]


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm layer once, without the branches inside them."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    inside = {id(m) for norm in norms if isinstance(norm, BranchNorm) for m in norm.aux_bn.modules()}
    return [norm for norm in norms if id(norm) not in inside]


def _branch_norms(model: nn.Module) -> list[BranchNorm]:
    return [norm for norm in _norms(model) if isinstance(norm, BranchNorm)]


def branch_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the branches, ``main`` first; ``("main",)`` for a model without branches."""
    norms = _branch_norms(model)
    return (MAIN, *norms[0].aux_bn) if norms else (MAIN,)


def branches_in(keys: Iterable[str]) -> tuple[str, ...]:
    """The further branches that state-dict keys speak of, in the order of the first layer that has them.

    >>> branches_in(["bn1.weight", "bn1.aux_bn.aux.weight", "bn1.aux_bn.aux.bias"])
    ('aux',)
    """
    found = (re.search(r"\.aux_bn\.(\w+)\.\w+$", key) for key in keys)
    return tuple(dict.fromkeys(match[1] for match in found if match))


def add_branches(model: nn.Module, names: Iterable[str]) -> None:
    """Gives every BatchNorm layer further branches, each starting as a copy of the main one.

    Args:
        model: changed in place; keys and outputs of its main branch stay as they are.
        names: new branch names, e.g. ``["aux"]``.

    Raises:
        UserError: a name that is taken or not an identifier, or a model without BatchNorm.
    """
    norms = _norms(model)
    if not norms:
        raise UserError(f"add_branches: {type(model).__name__} has no BatchNorm layer")
    for name in names:
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise UserError(f"add_branches: {name!r} is not a branch name; allowed: letters, digits and _")
        if name in branch_names(model):
            raise UserError(f"add_branches: there is a branch {name!r} already")
        for norm in norms:
            if not isinstance(norm, BranchNorm):
                object.__setattr__(norm, "__class__", _routed(type(norm)))
                assert isinstance(norm, BranchNorm)
                branch = _copy_plain(norm)
                norm.aux_bn = nn.ModuleDict()
                norm.route = ((MAIN, None),)
            else:
                branch = _copy_plain(norm)
            norm.aux_bn[name] = branch


def _copy_plain(norm: BranchNorm) -> _BatchNorm:
    """A copy of the main branch as the plain layer it was."""
    plain = copy.copy(norm)
    plain.__dict__ = {k: v for k, v in norm.__dict__.items() if k != "route"}
    plain._modules = {k: v for k, v in norm._modules.items() if k != "aux_bn"}
    object.__setattr__(plain, "__class__", norm.plain)
    return copy.deepcopy(plain)


def set_momentum(model: nn.Module, momentum: Mapping[str, float]) -> None:
    """Sets the momentum of running statistics: new = (1 - momentum) * old + momentum * of the batch, as in torch.

    Args:
        model: changed in place.
        momentum: by branch; branches that are not named keep theirs.

    Raises:
        UserError: the model has no such branch.
    """
    for name, value in momentum.items():
        if name not in branch_names(model):
            raise unknown("set_momentum", "branch", name, branch_names(model))
        for norm in _norms(model):
            branch = norm if name == MAIN else norm.get_submodule(f"aux_bn.{name}")
            assert isinstance(branch, _BatchNorm)
            branch.momentum = value


@contextmanager
def _route(model: nn.Module, route: Route) -> Iterator[None]:
    """Routes every layer until the context ends; the routes before, layer by layer, are restored."""
    available = branch_names(model)
    for name, _ in route:
        if name not in available:
            raise unknown(type(model).__name__, "branch", name, available)
    before = [(norm, norm.route) for norm in _branch_norms(model)]
    try:
        for norm, _ in before:
            norm.route = route
        yield
    finally:
        for norm, old in before:
            norm.route = old


def use_branch(model: nn.Module, name: str) -> AbstractContextManager[None]:
    """A context in which the whole batch goes through one branch, in train and in eval mode.

    With activation checkpointing, call ``backward`` inside the context: it runs the forward pass again.

    Raises:
        UserError: the model has no such branch.
    """
    return _route(model, ((name, None),))


def split_batch(model: nn.Module, sizes: Mapping[str, int]) -> AbstractContextManager[None]:
    """A context in which consecutive parts of the batch go through different branches.

    Args:
        model: a model with branches.
        sizes: samples per branch in batch order, e.g. ``{"main": 96, "aux": 32}``; empty parts are left out.

    Raises:
        UserError: no such branch; in the forward pass, sizes that do not add up to the batch.
    """
    return _route(model, tuple((name, size) for name, size in sizes.items() if size))


def current_route(model: nn.Module) -> Route:
    """The route in force (of the first BatchNorm layer; `use_branch` and `split_batch` set all alike)."""
    norms = _branch_norms(model)
    return norms[0].route if norms else ((MAIN, None),)


def keep_branch(model: M, name: str) -> M:
    """A copy of the model with ordinary BatchNorm layers that hold one branch, under the original keys.

    Its eval output is bit-identical to that of the branch.

    Raises:
        UserError: the model has no such branch.
    """
    if name not in branch_names(model):
        raise unknown(type(model).__name__, "branch", name, branch_names(model))
    kept = copy.deepcopy(model)
    for norm in _branch_norms(kept):
        branch = norm if name == MAIN else norm.aux_bn[name]
        assert isinstance(branch, _BatchNorm)
        norm._parameters.update(branch._parameters)
        norm._buffers.update(branch._buffers)
        norm.momentum, norm.training = branch.momentum, branch.training
        del norm.aux_bn, norm.route
        object.__setattr__(norm, "__class__", norm.plain)
    return kept
