"""BatchNorm branches in other people's checkpoints: the same tensors under our keys.

Networks with several BatchNorm branches are published with five other layouts of keys. Which one a state dict has is
told by its keys alone; ``L`` stands for the name of a BatchNorm layer:

| dialect | main branch | other branches | source |
| --- | --- | --- | --- |
| ours | ``L.*`` | ``L.aux_bn.<name>.*`` | `robusteval.branches` |
| timm | ``L.*`` | ``L.aux_bn.<number>.*`` | timm/layers/split_batchnorm.py |
| fast_advprop | ``L.*`` | ``L.aux_bn.*`` | meijieru/fast_advprop, and other copies of AdvProp for PyTorch |
| easyrobust | ``L.*`` | ``L.bn_adv.*`` | alibaba/easyrobust, easyrobust/modules/switchable_bn.py |
| dynacl | ``L.bn_list.0.*`` | ``L.bn_list.1.*`` | PKU-ML/DYNACL, models/resnet_multi_bn.py |
| arat | ``L.<name>.*`` | ``L.<name>.*`` | futakw/AR-AT, models/cifar_resnet_split_bn.py |

The residual networks of the last two are our ``resnet18`` but for the names of projections and of DynACL's head, which
are renamed along with the branches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from robusteval.branches import MAIN
from robusteval.errors import UserError

State = Mapping[str, Tensor]

_LEAF = r"\.(?P<leaf>weight|bias|running_mean|running_var|num_batches_tracked)"
_CLEAN = ("main", "clean", "base", "normal", "natural", "nat")
"""What the branch of clean images is called where branches have names."""


@dataclass(frozen=True)
class Imported:
    """A state dict under our keys, and what it was.

    Attributes:
        state: main branches have the keys of a network without branches, others ``<layer>.aux_bn.<branch>.*``.
        dialect: whose layout it had; ``""`` for ours and for a network without branches, where nothing was changed.
        branches: our name of each branch to its place in that layout.
        deployed: the branch that the authors' evaluation uses.
    """

    state: dict[str, Tensor]
    dialect: str = ""
    branches: Mapping[str, str] = field(default_factory=dict)
    deployed: str = MAIN

    def __str__(self) -> str:
        """What was recognised, in a line; empty if nothing was."""
        places = ", ".join(f"{name} = {place}" for name, place in self.branches.items())
        return f"BatchNorm branches in the layout of {self.dialect}: {places}" if self.dialect else ""


class _Place(NamedTuple):
    """Whose tensor a key names: layer, the branch's name in the dialect, and the tensor's own."""

    layer: str
    branch: str
    leaf: str


Places = Mapping[str, _Place]
"""Key to place, of all keys that spell a branch out."""


@dataclass(frozen=True)
class _Dialect:
    """A layout.

    Attributes:
        name: whose it is.
        find: the keys that spell a branch out.
        ours: the branches' names in the dialect, in order, to ours; its error lacks the place.
        shown: a branch's place, with its name in the dialect for ``{}``.
        renamed: patterns and replacements for the other names that differ.
        adversarial: the authors evaluate the second branch, not the main one.
    """

    name: str
    find: Callable[[State], Places]
    ours: Callable[[tuple[str, ...]], Mapping[str, str]]
    shown: str
    renamed: tuple[tuple[str, str], ...] = ()
    adversarial: bool = False


def imported(state: State, *, where: str) -> Imported:
    """The state dict under our keys, whichever of the layouts it has; the tensors themselves are the given ones.

    Args:
        state: of a network, without prefixes; left as it is.
        where: what it is, for errors.

    Raises:
        UserError: parts of several layouts, layers with different branches, or branches whose meaning is not known.
    """
    found = [(dialect, places) for dialect in _DIALECTS if (places := dialect.find(state))]
    if not found:
        return Imported(dict(state))
    if len(found) > 1:
        shown = " and ".join(f"{dialect.name} ({next(iter(places))})" for dialect, places in found)
        raise UserError(f"{where}: has BatchNorm branches in the layouts of {shown}; allowed: one of them")
    ((dialect, places),) = found
    theirs = _alike(places, where)
    if dialect.name == "ours":
        return Imported(dict(state))
    try:
        ours = dialect.ours(theirs)
    except UserError as error:
        raise UserError(f"{where}: BatchNorm branches in the layout of {dialect.name}: {error}") from None
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = _renamed(_our_key(places[key], ours) if key in places else key, dialect)
        if name in renamed:
            raise UserError(f"{where}: in the layout of {dialect.name}, two tensors would be {name!r}; one is {key!r}")
        renamed[name] = tensor
    shown_places = {our: dialect.shown.format(their) for their, our in ours.items()}
    main = {} if MAIN in shown_places else {MAIN: "the layer itself"}
    others = [our for our in ours.values() if our != MAIN]
    return Imported(renamed, dialect.name, main | shown_places, others[0] if dialect.adversarial else MAIN)


def _our_key(place: _Place, ours: Mapping[str, str]) -> str:
    """The key of a tensor of a branch."""
    branch = ours[place.branch]
    return ".".join((place.layer, *(() if branch == MAIN else ("aux_bn", branch)), place.leaf))


def _renamed(key: str, dialect: _Dialect) -> str:
    """The key with the dialect's other names replaced."""
    for pattern, replacement in dialect.renamed:
        key = re.sub(pattern, replacement, key)
    return key


def _alike(places: Places, where: str) -> tuple[str, ...]:
    """The names of the branches, which every layer that has any must have alike, in the first layer's order."""
    by_layer: dict[str, dict[str, None]] = {}
    for place in places.values():
        by_layer.setdefault(place.layer, {})[place.branch] = None
    first, *others = by_layer
    for other in others:
        if by_layer[other].keys() != by_layer[first].keys():
            shown = (f"{layer!r} has {', '.join(map(repr, by_layer[layer]))}" for layer in (first, other))
            raise UserError(f"{where}: not all BatchNorm layers have the same branches: {' but '.join(shown)}")
    return tuple(by_layer[first])


# Where the branches are -----------------------------------------------------------------------------------------------


def _inside(pattern: str, *, main_outside: bool) -> Callable[[State], Places]:
    """The keys ``<layer><pattern>.<leaf>``, of layers that have tensors of their own, too, or of layers that have none.

    The pattern's group ``branch``, if it has one, is the branch's name. (A layer that merely has the name of a branch,
    beside other layers, is no branch.)
    """
    whole = re.compile(rf"(?P<layer>.+){pattern}{_LEAF}")

    def find(state: State) -> Places:
        matches = {key: match.groupdict() for key in state if (match := whole.fullmatch(key))}
        return {
            key: _Place(groups["layer"], groups.get("branch", ""), groups["leaf"])
            for key, groups in matches.items()
            if any(f"{groups['layer']}.{leaf}" in state for leaf in ("weight", "running_mean")) == main_outside
        }

    return find


def _named(state: State) -> Places:
    """The keys ``<layer>.<branch>.<leaf>`` where all BatchNorm layers lie in containers of the same two or more names.

    That is all there is to tell AR-AT's layout from a network without branches, so every such container counts and
    none may hold anything else.
    """
    norms = [key.removesuffix(".running_mean") for key in state if key.endswith(".running_mean")]
    layers = dict.fromkeys(norm.rpartition(".")[0] for norm in norms)
    children: dict[str, dict[str, None]] = {layer: {} for layer in layers}
    for key in state:
        parts = key.split(".")
        for end in range(len(parts)):
            if (parent := ".".join(parts[:end])) in children:
                children[parent][parts[end]] = None
    names = next(iter(children.values()), {})
    alike = all(held.keys() == names.keys() for held in children.values())
    if len(names) < 2 or not alike or "" in layers or not all(map(str.isidentifier, names)):
        return {}
    if len(norms) < len(layers) * len(names):
        return {}
    return {
        f"{norm}.{leaf}": _Place(norm.rpartition(".")[0], norm.rpartition(".")[2], leaf)
        for norm in norms
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if f"{norm}.{leaf}" in state
    }


# What the branches are ------------------------------------------------------------------------------------------------


def _timm(theirs: tuple[str, ...]) -> Mapping[str, str]:
    """Part 0 of the batch is the layer's own, so ``aux_bn.0`` is that of part 1."""
    if {*theirs} != {str(number) for number in range(len(theirs))}:
        raise UserError(f"the numbers are {', '.join(theirs)}; allowed: 0, 1, ... without a gap")
    return {"0": "aux"} if len(theirs) == 1 else {number: f"aux{int(number) + 1}" for number in theirs}


def _dynacl(theirs: tuple[str, ...]) -> Mapping[str, str]:
    """The names that DynACL gives its two are ``normal`` and ``pgd``; the file does not hold them."""
    if {*theirs} != {"0", "1"}:
        raise UserError(f"the numbers are {', '.join(theirs)}; allowed: 0 (clean) and 1 (adversarial)")
    return {"0": MAIN, "1": "adv"}


def _arat(theirs: tuple[str, ...]) -> Mapping[str, str]:
    """The branch with a name for clean images is the main one."""
    clean = [name for name in theirs if name in _CLEAN]
    if len(clean) != 1:
        raise UserError(
            f"which of {', '.join(theirs)} is the branch of clean images? "
            f"allowed: exactly one that is called {', '.join(_CLEAN)}"
        )
    return {name: MAIN if name == clean[0] else name for name in sorted(theirs, key=lambda name: name != clean[0])}


_DIALECTS = (
    _Dialect("ours", _inside(r"\.aux_bn\.(?P<branch>[A-Za-z]\w*)", main_outside=True), lambda theirs: {}, ""),
    _Dialect("timm", _inside(r"\.aux_bn\.(?P<branch>[0-9]+)", main_outside=True), _timm, ".aux_bn.{}"),
    _Dialect("fast_advprop", _inside(r"\.aux_bn", main_outside=True), lambda theirs: {"": "aux"}, ".aux_bn"),
    _Dialect("easyrobust", _inside(r"\.bn_adv", main_outside=True), lambda theirs: {"": "adv"}, ".bn_adv"),
    _Dialect(
        "dynacl",
        _inside(r"\.bn_list\.(?P<branch>[0-9]+)", main_outside=False),
        _dynacl,
        ".bn_list.{}",
        renamed=(
            (r"(^|\.)downsample\.conv\.", r"\1shortcut.0."),
            (r"(^|\.)downsample\.bn\.", r"\1shortcut.1."),
            (r"^fc\.", "linear."),
        ),
        adversarial=True,
    ),
    _Dialect(
        "arat",
        _named,
        _arat,
        ".{}",
        renamed=((r"(^|\.)shortcut_bn\.", r"\1shortcut.1."), (r"(^|\.)shortcut\.weight$", r"\1shortcut.0.weight")),
        adversarial=True,
    ),
)
