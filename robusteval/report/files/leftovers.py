"""A folder of figures that a report writes anew, without the ones that an earlier report left there.

A record beside them names what was written, with its digest. A file is removed only if the record names it and it
still is what was written: whatever somebody else put there stays.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from robusteval.errors import UserError
from robusteval.manifest import replace

RECORD = "written.json"
"""The name of the record."""

_NAME = re.compile(r"[a-z0-9-]+\.[a-z]+")


def renew(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts the files in place, and removes those of the last time that are not among them.

    Args:
        folder: made when missing.
        files: name -> content; names are lower case letters, digits, hyphens and an ending.

    Raises:
        UserError: the folder cannot be written.
    """
    assert all(_NAME.fullmatch(name) for name in files), "names of figures"
    before = _recorded(folder / RECORD)
    now = {name: [hashlib.sha256(data).hexdigest()] for name, data in files.items()}
    # Whatever is cut short here, the next report knows all that may lie there.
    both = {name: [*before.get(name, []), *now.get(name, [])] for name in sorted({*before, *now})}
    if both:
        _write(folder / RECORD, both)
    for name, data in files.items():
        replace(folder / name, data)
    for name in before.keys() - now.keys():
        _remove(folder / name, before[name])
    if both:
        _write(folder / RECORD, now)


def _write(path: Path, digests: Mapping[str, list[str]]) -> None:
    replace(path, json.dumps(digests, indent=1, sort_keys=True).encode())


def _recorded(path: Path) -> dict[str, list[str]]:
    """Name -> digests; nothing from a file that is no such record."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: [digest for digest in digests if isinstance(digest, str)]
        for name, digests in found.items()
        if _NAME.fullmatch(name) and name != RECORD and isinstance(digests, list)
    }


def _remove(path: Path, digests: list[str]) -> None:
    try:
        if not path.is_symlink() and hashlib.sha256(path.read_bytes()).hexdigest() in digests:
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{path}: cannot be removed: {error.strerror}") from error
