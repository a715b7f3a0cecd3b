"""Folders of files that are either whole or not there, under a manifest of their digests.

A folder's ``manifest.json`` names every file that was completely written, with its sha256. A process killed
at any instant leaves, for each name, the old content, the new one, or nothing: a file that the manifest
does not name counts as never written. Every read compares the digest, so that a flipped bit is never
taken for data (a weights reader alone would accept it).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import cast

from robusteval.errors import UserError

MANIFEST = "manifest.json"
LOCK = ".lock"


class Damaged(UserError):
    """A stored file is not what was written."""


class Busy(UserError):
    """Another process works on the folder."""


def replace(path: Path, data: bytes) -> None:
    """Puts a whole file in place: a crash leaves the old content or the new one, never a part.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder survive a power cut (Windows offers no such call)."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _manifest_text(digests: Mapping[str, list[str]]) -> bytes:
    """The manifest as bytes, with a digest of itself: a flipped bit in a name must not make a file vanish."""
    own = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": digests, "sha256": own}, sort_keys=True, indent=1).encode()


def _read_manifest(folder: Path) -> dict[str, list[str]]:
    """Name -> digests of the contents that are right (two while a file is being replaced); {} for a new folder."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return dict(_checked(data))
    except (ValueError, KeyError, TypeError):
        pass
    raise Damaged(f"{path}: damaged: not the manifest that was written; remove the folder to make it anew")


@lru_cache(1024)
def _checked(data: bytes) -> Mapping[str, list[str]]:
    """What a manifest says; it is read anew before every file of its folder, and mostly is what it was.

    Raises:
        ValueError, KeyError, TypeError: it is not what `_manifest_text` made.
    """
    digests = cast(dict[str, list[str]], json.loads(data)["files"])
    if _manifest_text(digests) != data:
        raise ValueError("another digest, or another text")
    return digests


def names(folder: Path) -> tuple[str, ...]:
    """The names of the files that were completely written, sorted."""
    return tuple(sorted(_read_manifest(folder)))


def write_bytes(folder: Path, name: str, data: bytes) -> str:
    """The sha256 of a file written into a run folder, whole or not at all.

    Args:
        folder: the run folder; made when missing.
        name: the file's name in it, ``/`` between parts.
        data: its content.
    """
    digest = hashlib.sha256(data).hexdigest()
    digests = _read_manifest(folder)
    if name in digests:
        # Between the two renames below either content is right; the manifest says so before it can happen.
        replace(folder / MANIFEST, _manifest_text(digests | {name: [*digests[name], digest]}))
    replace(folder / name, data)
    replace(folder / MANIFEST, _manifest_text(digests | {name: [digest]}))
    return digest


def read_bytes(folder: Path, name: str) -> bytes:
    """The content of a file of a run folder, exactly as it was written.

    Raises:
        Damaged: it is not what was written.
        UserError: it was never completely written.
    """
    path = folder / name
    digests = _read_manifest(folder)
    while True:
        if name not in digests:
            raise UserError(f"{path}: was never completely written; files here: {', '.join(digests) or 'none'}")
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() in digests[name]:
                return data
            why = "its content is not what was written (sha256 differs)"
        except OSError as error:
            why = f"it cannot be read ({error.strerror})"
        before, digests = digests, _read_manifest(folder)
        if digests == before:  # else a running process replaced the file just now: look again
            raise Damaged(f"{path}: damaged: {why}; remove the folder to make it anew")


def remove(folder: Path, name: str) -> None:
    """Takes a file out of the folder; a name that is not there is fine."""
    digests = _read_manifest(folder)
    if digests.pop(name, None) is not None:
        replace(folder / MANIFEST, _manifest_text(digests))
    (folder / name).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run folder; the system drops the lock of a process that died.

    Raises:
        Busy: another process works on the folder.
        UserError: the folder cannot be made.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        _take(handle, folder)
        if not _still_there(path, handle):
            raise Busy(f"{folder}: another process has just removed it; try again")
        yield
    finally:
        os.close(handle)


def _still_there(path: Path, handle: int) -> bool:
    """Whether the open file is the one at the path: a lock on one that was removed keeps nobody out."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def _take(handle: int, folder: Path) -> None:
    """Locks an open file without waiting."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Busy(f"{folder}: another process works on this run; wait for it or choose another --out") from None
