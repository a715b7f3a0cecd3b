"""Reading the weights of a network, our own and other people's, without ever running code from a file."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robusteval.errors import UserError

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
"""Where public checkpoints keep the state dict, when it is not the whole file."""
AVERAGED = "ema"
"""Read only where none of `WRAPPERS` is there: averaged weights are other weights."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, wrapping classes and torch.compile put before every key."""
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WHOLES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_NUMBERS = frozenset((*_FLOATS, *_WHOLES))


def read_state(path: Path, *, also: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict in a safetensors file or in a PyTorch checkpoint that holds plain tensors, on the CPU.

    Wrappers (`WRAPPERS`) are taken off, and each prefix (`PREFIXES`) that all keys share, as often as it occurs.

    Args:
        path: the file; its content, not its name, says which of the two formats it is.
        also: further wrappers, tried in this order where none of the others is there.

    Raises:
        UserError: the file is missing, empty or damaged, needs code to be run, or holds anything but finite tensors.
    """
    state = _tensors(path, _unwrapped(path, _content(path), also))
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) and key != p for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copies a state dict into a network: every key, shape and kind of number must fit, else nothing changes.

    The batch counters of BatchNorm may be missing, all together: PyTorch before 0.4.1 had none. They become 0.

    Args:
        model: changed in place.
        state: for example from `read_state`.
        where: what the state is, for the error message.

    Raises:
        UserError: the first missing, unexpected and mis-shaped key, and how many there are of each.
    """
    own = model.state_dict()
    unused: tuple[str, ...] = getattr(model, "unused_keys", ())
    given = {key: value for key, value in state.items() if not key.startswith(unused)}
    counters = [key for key in own if key.rpartition(".")[2] == "num_batches_tracked"]
    if not any(key in given for key in counters):
        given |= {key: torch.zeros_like(own[key]) for key in counters}

    both = [key for key in own if key in given]
    problems = {
        "missing": [repr(key) for key in own if key not in given],
        "unexpected": [repr(key) for key in given if key not in own],
        "of another shape": [
            f"{key!r}: {tuple(given[key].shape)} for {tuple(own[key].shape)}"
            for key in both
            if own[key].shape != given[key].shape
        ],
        "of another type": [
            f"{key!r}: {given[key].dtype} for {own[key].dtype}"
            for key in both
            if own[key].is_floating_point() != given[key].is_floating_point()
        ],
    }
    if any(problems.values()):
        counts = [f"{len(found)} {what} (first {found[0]})" for what, found in problems.items() if found]
        raise UserError(f"{where}: does not fit {type(model).__name__}: {'; '.join(_classes(model, given) + counts)}")
    model.load_state_dict(given, strict=True)


def _classes(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What to say when the network's last linear layer differs in nothing but the number of outputs."""
    heads = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not heads or (weight := state.get(f"{heads[-1]}.weight")) is None:
        return []
    own = model.get_submodule(heads[-1]).get_parameter("weight")
    if weight.shape[1:] != own.shape[1:] or len(weight) == len(own):
        return []
    return [f"it is made for {len(weight)} classes, the network has {len(own)}"]


def _content(path: Path) -> object:
    """What the file holds, read as safetensors or by the one `torch.load`."""
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise UserError(f"{path}: cannot be read: the file is empty")
    try:
        # A safetensors file starts with the length of its header in 8 bytes; the header is a JSON object.
        if head[8:] == b"{":
            return load_file(path)
        if head.startswith(b"PK"):
            _check_archive(path)
        with warnings.catch_warnings():
            # PyTorch warns of newer pickle protocols and of sparse tensors; both are understood or refused here.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - parsers raise every kind of error on damaged bytes
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from None


def _check_archive(path: Path) -> None:
    """Compares the members of a PyTorch archive with their check sums, which `torch.load` does not.

    Raises:
        zipfile.BadZipFile: the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.external_attr & 0x10:  # PyTorch would give uninitialised memory for what is marked as a folder
                raise zipfile.BadZipFile(f"{member.filename} is marked as a folder")
            if member.CRC:  # 0: written without, as `torch.serialization.set_crc32_options(False)` allows
                with archive.open(member) as stream:
                    while stream.read(1 << 20):
                        pass


def _reason(error: Exception) -> str:
    """One line for a reader's error; PyTorch's own advises to allow code to be run."""
    text = str(error)
    if code := re.search(r"GLOBAL (\S+)", text):
        return f"it needs {code[1]} to be run, and no file's code is; allowed: a state dict of tensors"
    lines = text.rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    what = lines[0][:160] if lines else type(error).__name__
    return f"damaged, or neither safetensors nor written by torch.save with its default protocol ({what})"


def _unwrapped(path: Path, content: object, also: Sequence[str]) -> Mapping[object, object]:
    """The state dict inside what a file holds."""
    while isinstance(content, Mapping):
        inside = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inside:
            inside = [key for key in (AVERAGED, *also) if isinstance(content.get(key), Mapping)][:1]
        if not inside:
            return content
        if len(inside) > 1:
            raise UserError(f"{path}: holds several state dicts ({', '.join(inside)}); allowed: one")
        content = content[inside[0]]
    raise UserError(f"{path}: holds a {type(content).__name__}; allowed: a state dict of tensors")


def _tensors(path: Path, content: Mapping[object, object]) -> dict[str, Tensor]:
    """The entries, checked to be finite tensors under names."""
    if not content:
        raise UserError(f"{path}: holds no tensors")
    state = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            wrappers = ", ".join((*WRAPPERS, AVERAGED))
            raise UserError(
                f"{path}: {key!r} is a {type(value).__name__}; "
                f"allowed: a state dict of tensors, alone or under one of {wrappers}"
            )
        if value.layout != torch.strided or value.is_meta or value.dtype not in _NUMBERS:
            raise UserError(f"{path}: {key!r} is not a dense tensor of ordinary numbers ({value.dtype})")
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: {key!r} holds values that are not finite")
        state[key] = value.detach()
    return state
