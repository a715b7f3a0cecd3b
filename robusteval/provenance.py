"""What produced a record: versions, machine, command; the commit only where this project's own checkout runs."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from robusteval import __version__
from robusteval.records import Provenance

if TYPE_CHECKING:
    from robusteval.runtime import Runtime

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "pillow", "safetensors", "imagecorruptions-imaug")
"""The packages whose versions can change numbers."""


def collect(runtime: Runtime, precision: str) -> Provenance:
    """The provenance of a record made now.

    Args:
        runtime: the device, threads and allocator in use.
        precision: of the computation, e.g. ``bfloat16``.
    """
    from robusteval.hardware import device_name

    return Provenance(
        robusteval=__version__,
        commit=commit(),
        python=platform.python_version(),
        packages=versions(),
        platform=f"{platform.platform()}; malloc: {runtime.allocator}",
        cpu=cpu_model(),
        device=device_name(runtime.device),
        threads=runtime.threads,
        precision=precision,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=("robusteval", *sys.argv[1:]),
    )


@cache
def versions() -> dict[str, str]:
    """The installed versions of the packages that matter; one that is not installed is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """The commit of this project's checkout, ``+changes`` when files differ from it; None when installed otherwise."""
    folder = Path(__file__).resolve().parent.parent
    top = _git(folder, "rev-parse", "--show-toplevel")
    # A virtual environment may lie inside someone else's repository: that one's commit says nothing about us.
    if top is None or Path(top).resolve() != folder:
        return None
    head = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", "robusteval")
    return f"{head}+changes" if head and changed else head


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints; None where git or the repository is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def cpu_model() -> str:
    """The name of the processor."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
