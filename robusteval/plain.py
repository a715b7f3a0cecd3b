"""One BatchNorm branch of a run's weights as an ordinary checkpoint, which any tool loads."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robusteval import store
from robusteval.branches import MAIN, branches_in
from robusteval.errors import UserError, unknown
from robusteval.manifest import replace
from robusteval.method import TRAINING_ONLY
from robusteval.records import Run

if TYPE_CHECKING:
    from torch import Tensor

CheckpointFormat = Literal["safetensors", "torch"]


def branch_state(state: Mapping[str, Tensor], branch: str, *, where: str) -> dict[str, Tensor]:
    """The state dict of the network without branches that one branch is, under the keys that it had before.

    Args:
        state: of a network with branches or without; left as it is.
        branch: ``main`` or another.
        where: what the state is, for errors.

    Raises:
        UserError: there is no such branch.
    """
    names = (MAIN, *branches_in(state))
    if branch not in names:
        raise unknown(where, "branch", branch, names)
    infix = f".aux_bn.{branch}."
    own = {key.replace(infix, "."): tensor for key, tensor in state.items() if infix in key}
    kept = {key: t for key, t in state.items() if ".aux_bn." not in key and not key.startswith(f"{TRAINING_ONLY}.")}
    return kept | {key: tensor for key, tensor in own.items() if not key.startswith(f"{TRAINING_ONLY}.")}


def checkpoint(folder: Path, target: Path, *, kind: CheckpointFormat, branch: str | None = None) -> str:
    """The branch's name, after its network was written as a file.

    Args:
        folder: of a run.
        target: the file; nothing that exists is overwritten.
        kind: ``safetensors``, or ``torch`` for ``{"state_dict": ...}`` written by `torch.save`.
        branch: by default the one that the run deploys.

    Raises:
        UserError: no such branch or weights, the file exists, or cannot be written.
    """
    import torch
    from safetensors.torch import save

    run = store.read_record(folder, store.RUN, Run)
    branch = branch or run.deployed
    tensors, _ = store.read_tensors(folder, store.WEIGHTS)
    state = branch_state(tensors, branch, where=run.id)
    if target.exists():
        raise UserError(f"{target}: exists; allowed: a file that does not")
    if kind == "safetensors":
        data = save(state, {"format": "pt"})
    else:
        buffer = io.BytesIO()
        torch.save({"state_dict": state}, buffer)
        data = buffer.getvalue()
    replace(target, data)
    return branch
