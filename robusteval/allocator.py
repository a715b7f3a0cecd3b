"""The C library's memory allocator, which decides much of a small network's speed on a CPU."""

from __future__ import annotations

import ctypes
import platform


def _glibc() -> ctypes.CDLL | None:
    """The GNU C library of this process; None where there is another one."""
    return ctypes.CDLL(None) if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc" else None


def tune_allocator() -> str:
    """Which allocator the process has: ``glibc, tuned`` after raising two thresholds of glibc's, else ``system``.

    By default glibc hands every large block back to the kernel and faults it in again at the next step:
    inference of small networks on the CPU then takes up to 2.8 times as long, and its time is erratic.
    """
    libc = _glibc()
    if libc is None:
        return "system"
    m_trim_threshold, m_mmap_threshold = -1, -3
    raised = libc.mallopt(m_mmap_threshold, 1 << 30) and libc.mallopt(m_trim_threshold, 2**31 - 1)
    return "glibc, tuned" if raised else "system"


def release_memory() -> None:
    """Hands freed blocks back to the system, so that resident memory is memory in use (glibc only)."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
