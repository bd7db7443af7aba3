"""The process's memory: how much is in use, and whether what is freed is kept for the next walk or given back."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # parameters of mallopt(3)
_MOST = (1 << 30, 1 << 25)  # some versions of glibc take the second only
_NEVER = -1


def keep_freed() -> None:
    """Keep what is freed, up to blocks of a gigabyte; for programs of heatcli's own, as it holds for the whole process.

    Every walk needs as much memory as the last. By default glibc gives it back in between, and the system hands it out
    anew, cleared, page by page: up to half of a walk's time. Threads draw on the same memory, as what each had for
    itself would be given back all the same. The peak is what it was. Does nothing without glibc.
    """
    mallopt = _function("mallopt")
    if mallopt is not None and any(mallopt(_MMAP_THRESHOLD, size) for size in _MOST):
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Hand memory that nobody uses back to the system, so that the next peak is seen. Does nothing without glibc."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def resident(what: str = "VmRSS") -> int:
    """Bytes in use, or by `VmHWM` the most that were. Raises `OSError` where Linux's `/proc` is not."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
