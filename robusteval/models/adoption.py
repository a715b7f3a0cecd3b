"""Anybody's checkpoint put into a network: branches in any layout, pixel statistics that the file itself holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robusteval.branches import MAIN, add_branches, branches_in
from robusteval.errors import UserError
from robusteval.models.dialects import imported
from robusteval.models.external import External
from robusteval.models.layers import Normalization, Normalize
from robusteval.models.weights import load_state

State = Mapping[str, Tensor]

_STATISTICS = (("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std"))
"""What normalising layers call the tensors that images are shifted and scaled by."""
_SAME = 1e-3
"""Two sets of pixel statistics that differ by less are one, rounded otherwise."""


@dataclass(frozen=True)
class Adopted:
    """What was found beside the weights.

    Attributes:
        deployed: the branch that the authors' evaluation uses.
        notes: a line on each thing that was recognised and acted on.
    """

    deployed: str
    notes: tuple[str, ...]


def adopt(network: nn.Module, state: State, *, where: str, normalize: str | None) -> Adopted:
    """What was found, after the weights and every branch of them were put into a network.

    - Branches in another layout are brought under our keys (`robusteval.models.dialects`).
    - Constants of the file's own normalising layer take the place of the network's.
    - Prefixes that all keys share and the network does not know are taken off.

    Args:
        network: as `robusteval.models.build` made it; changed in place, also where the state does not fit.
        state: from `robusteval.models.weights.read_state`.
        where: what it is, for errors.
        normalize: the pixel statistics that the user asked for by name; None if nothing was said.

    Raises:
        UserError: the state does not fit, mixes layouts, or contradicts the statistics that were asked for.
    """
    inner = network.network if isinstance(network, External) else network
    notes = []
    own = inner.state_dict()
    state, statistics = _own_statistics(state, own, where)
    state = _without_prefix(state, own)
    deployed = MAIN
    if state.keys() != own.keys():
        found = imported(state, where=where)
        state, deployed = found.state, found.deployed
        notes += [str(found)] if found.dialect else []
    if branches := branches_in(state):
        add_branches(inner, branches)
    if isinstance(network, External):
        state, told = network.completed(state)
        notes += told
    load_state(inner, state, where=where)
    if statistics:
        notes.append(_use(network, statistics, asked=normalize, where=where))
    return Adopted(deployed, tuple(notes))


def _own_statistics(state: State, own: State, where: str) -> tuple[State, Normalization | None]:
    """The state without the constants of a normalising layer, which the network does not have, and these.

    Raises:
        UserError: two different sets, or what cannot be the statistics of pixels in [0, 1].
    """
    pairs = {}
    for mean, std in _STATISTICS:
        for key in state:
            prefix, _, leaf = key.rpartition(".")
            other = f"{prefix}.{std}" if prefix else std
            if leaf == mean and other in state and not {key, other} & own.keys():
                pairs[key] = other
    triples = {key: other for key, other in pairs.items() if state[key].numel() == 3 == state[other].numel()}
    if not triples:
        return state, None
    sets = [Normalization(*(tuple(state[key].flatten().double().tolist()) for key in pair)) for pair in triples.items()]
    first = next(iter(triples))
    if any(_far(one, sets[0]) for one in sets):
        raise UserError(f"{where}: holds several sets of pixel statistics ({', '.join(triples)}); allowed: one")
    if not all(0 < std <= 1 for std in sets[0].std) or not all(0 <= mean <= 1 for mean in sets[0].mean):
        raise UserError(f"{where}: {first} {_shown(sets[0])}: not those of pixels in [0, 1], which networks get here")
    removed = {*triples, *triples.values()}
    return {key: tensor for key, tensor in state.items() if key not in removed}, sets[0]


def _without_prefix(state: State, own: State) -> State:
    """The state without the first parts of keys that all share and the network does not have.

    The part is that of a wrapping class, often one with a normalising layer beside the network.
    """
    while True:
        firsts = {key.partition(".")[0] for key in state}
        if len(firsts) != 1 or not all("." in key for key in state):
            return state
        prefix = f"{firsts.pop()}."
        if any(key.startswith(prefix) for key in own):
            return state
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def _use(network: nn.Module, statistics: Normalization, *, asked: str | None, where: str) -> str:
    """A line on the file's pixel statistics, which became the network's."""
    layer = network._modules.get("normalize")
    if not isinstance(layer, Normalize):
        raise UserError(f"{where}: holds pixel statistics, {_shown(statistics)}; this network has no use for any")
    present = Normalization(layer.mean.flatten().tolist(), layer.std.flatten().tolist())  # type: ignore[arg-type]  # three each
    if asked is not None and _far(present, statistics):
        raise UserError(
            f"--normalize {asked}: {where} holds the statistics itself, others: {_shown(statistics)}; "
            "leave --normalize out to use these"
        )
    fresh = Normalize(statistics).to(layer.mean.device)
    network.add_module("normalize", fresh)
    return f"pixels are normalised with the checkpoint's own statistics: {_shown(statistics)}"


def _far(one: Normalization, other: Normalization) -> bool:
    """Whether the two are not one and the same."""
    return bool((torch.tensor(one) - torch.tensor(other)).abs().max() > _SAME)


def _shown(statistics: Normalization) -> str:
    """In words."""
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in statistics)
    return f"mean {mean}, std {std}"
