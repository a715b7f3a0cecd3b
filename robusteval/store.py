"""What a run folder holds, typed: records as JSON, weights as safetensors, per-sample outcomes as npz.

The files and their digests are the business of `robusteval.manifest`; nothing here writes past it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import ValidationError

from robusteval.collector import paused
from robusteval.errors import UserError
from robusteval.manifest import Busy, Damaged, locked, names, read_bytes, remove, replace, write_bytes
from robusteval.records import SCHEMA, Epoch, Record, Run, TaskRecord

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Busy",
    "Damaged",
    "History",
    "StoredRun",
    "find_runs",
    "load_run",
    "locked",
    "names",
    "read_arrays",
    "read_bytes",
    "read_record",
    "read_tensors",
    "remove",
    "replace",
    "write_arrays",
    "write_bytes",
    "write_record",
    "write_tensors",
]

R = TypeVar("R", bound=Record)

RUN = "run.json"
HISTORY = "history.json"
WEIGHTS = "weights.safetensors"
DEPLOYED = "deployed.safetensors"
TASKS = "tasks/"


class History(Record):
    """The epochs of a run so far."""

    schema_version: int = SCHEMA
    epochs: tuple[Epoch, ...]


def write_record(folder: Path, name: str, record: Record) -> str:
    """The sha256 of a record written as JSON; a number that is not finite is a programming error (ValueError)."""
    # Not pydantic's own JSON: it writes a NaN as null.
    text = json.dumps(record.model_dump(), allow_nan=False, indent=1, ensure_ascii=False)
    return write_bytes(folder, name, text.encode())


def read_record(folder: Path, name: str, cls: type[R]) -> R:
    """The record that was written.

    Raises:
        Damaged: the file is not what was written.
        UserError: a newer robusteval wrote it, or it was never completely written.
    """
    path, data = folder / name, read_bytes(folder, name)
    try:
        record = cls.model_validate_json(data)
        if getattr(record, "schema_version", SCHEMA) <= SCHEMA:
            return record
    except ValidationError:
        pass  # what is wrong is said below
    raw = json.loads(data)
    version = raw.get("schema_version", SCHEMA)
    if version > SCHEMA:
        raise UserError(
            f"{path}: written by a newer robusteval (record schema {version}); "
            f"upgrade robusteval to read it; this one reads schemas up to {SCHEMA}"
        )
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a {cls.__name__} record: {place}: {first['msg']}") from None


def write_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> str:
    """The sha256 of tensors and a few strings written as safetensors; equal contents give equal digests."""
    from safetensors.torch import save

    # One metadata entry only: the format's writer puts several in random order.
    packed = {"robusteval": json.dumps(dict(meta), sort_keys=True)}
    plain = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    return write_bytes(folder, name, save(plain, packed))


def read_tensors(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU) and the strings that `write_tensors` was given."""
    from safetensors.torch import load

    data = read_bytes(folder, name)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), json.loads(header["__metadata__"]["robusteval"])


def write_arrays(folder: Path, name: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """The sha256 of named arrays written as ``.npz``; equal contents give equal digests (no time of day inside)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            packed = io.BytesIO()
            np.lib.format.write_array(packed, np.asarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, packed.getvalue(), zipfile.ZIP_DEFLATED)
    return write_bytes(folder, name, file.getvalue())


def read_arrays(folder: Path, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The named arrays that `write_arrays` was given.

    Five times as fast as ``np.load`` for many small ones: reports read tens of thousands.

    Raises:
        ValueError: an array holds Python objects, which would have to be unpickled.
    """
    data = read_bytes(folder, name)  # the digest of all of it stands for the archive's own checksums
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename.removesuffix(".npy"): _array(_unpacked(data, entry)) for entry in archive.infolist()}


def _unpacked(data: bytes, entry: zipfile.ZipInfo) -> bytes:
    """A member of a zip archive."""
    # A member's own header has 30 bytes, its name and an extra field, whose lengths stand at 26.
    first = entry.header_offset + 30 + sum(struct.unpack_from("<HH", data, entry.header_offset + 26))
    packed = data[first : first + entry.compress_size]
    return zlib.decompress(packed, -15) if entry.compress_type == zipfile.ZIP_DEFLATED else packed


def _array(data: bytes) -> np.ndarray[Any, Any]:
    """The array in a ``.npy`` file of version 1."""
    start = 10 + int.from_bytes(data[8:10], "little")
    shape, by_column, dtype = _npy_header(data[:start])
    flat = np.frombuffer(data, dtype, offset=start)
    return flat.reshape(shape, order="F" if by_column else "C").copy(order="A")


@lru_cache(maxsize=1024)
def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of the npy format; allowed: (1, 0)")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    return shape, by_column, dtype


@dataclass(frozen=True)
class StoredRun:
    """A run folder, read.

    Attributes:
        tasks: what was measured of the final weights.
        on_the_way: what was measured of the run's snapshots, by epoch.
    """

    folder: Path
    run: Run
    history: tuple[Epoch, ...]
    tasks: tuple[TaskRecord, ...]
    on_the_way: tuple[TaskRecord, ...] = ()

    def outcomes(self, task_key: str, key: str) -> np.ndarray[Any, Any]:
        """The per-sample outcomes of one measurement, bool (n,), True = right.

        Args:
            task_key: the `TaskRecord.key`.
            key: the `Measurement.outcomes`.
        """
        return self.all_outcomes(task_key)[key]

    def all_outcomes(self, task_key: str) -> dict[str, np.ndarray[Any, Any]]:
        """The per-sample outcomes of all measurements of one task, by their keys; see `outcomes`."""
        return read_arrays(self.folder, f"{TASKS}{task_key}.npz")


def load_run(folder: Path) -> StoredRun:
    """One run folder, with the tasks that were finished, in the order of their keys."""
    there = names(folder)
    run = read_record(folder, RUN, Run)
    history = read_record(folder, HISTORY, History).epochs if HISTORY in there else ()
    finished = [name for name in there if name.startswith(TASKS) and name.endswith(".json")]
    records = [read_record(folder, name, TaskRecord) for name in finished]
    snapshots = sorted((one for one in records if one.epoch is not None), key=lambda one: (one.epoch or 0, one.key))
    return StoredRun(folder, run, history, tuple(one for one in records if one.epoch is None), tuple(snapshots))


@paused()
def find_runs(root: Path, *, skip: Callable[[Path, UserError], None] | None = None) -> list[StoredRun]:
    """The runs in an output folder (``root/runs/*``), in a folder of runs (``root/*``) or at ``root``, by id.

    Args:
        root: where to look.
        skip: told of each folder that cannot be read and why; the others are still found. None: the first raises.

    Raises:
        Damaged: a file of a run is not what was written.
        UserError: a newer robusteval wrote one of them.
    """
    runs = []
    for folder in (root, *sorted(root.glob("*")), *sorted(root.glob("runs/*"))):
        try:
            if RUN in names(folder):
                runs.append(load_run(folder))
        except UserError as error:
            if skip is None:
                raise
            skip(folder, error)
    return sorted(runs, key=lambda stored: stored.run.id)
