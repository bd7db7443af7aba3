"""The process's memory: its size, and whether freed memory is kept for the next walk or returned to the system."""

from __future__ import annotations

import ctypes
import errno
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from heatcli.errors import HeatcliError

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # parameters of mallopt(3)
_MOST = (1 << 30, 1 << 25)  # some versions of glibc accept only the second
_NEVER = -1
STRIP = 1 << 22  # pixels of a large picture to process at a time
_USUAL = 1 << 25  # glibc's own maximum for its dynamic mmap threshold; it trims at twice that


class _Keeping:
    """Reference count of `kept()` blocks. The first sets glibc's thresholds, the last restores them."""

    def __init__(self) -> None:
        self._wanted, self._lock = 0, Lock()

    def enter(self) -> None:
        """Add one."""
        with self._lock:
            self._wanted += 1
            if self._wanted == 1 and any(_set(_MMAP_THRESHOLD, size) for size in _MOST):
                _set(_TRIM_THRESHOLD, _NEVER)

    def leave(self) -> None:
        """Remove one."""
        with self._lock:
            self._wanted -= 1
            if self._wanted == 0 and _set(_MMAP_THRESHOLD, _USUAL):
                _set(_TRIM_THRESHOLD, 2 * _USUAL)
                give_back()


_keeping = _Keeping()


@contextmanager
def kept() -> Iterator[None]:
    """Keep freed memory, up to blocks of a gigabyte, until the block ends: for successive walks.

    Every walk needs as much memory as the last. By default glibc returns it in between, and the system clears every
    page again: up to half of a walk's time. The peak is unchanged. Afterwards the memory is returned, and glibc's
    thresholds are set to its own maxima. Does nothing without glibc.
    """
    _keeping.enter()
    try:
        yield
    finally:
        _keeping.leave()


def keep_freed() -> None:
    """Keep freed memory from now on, as `kept` does, for the whole process; for heatcli's own programs.

    Threads share one arena, since separate arenas would still return their memory.
    """
    _keeping.enter()
    _set(_ARENA_MAX, 1)


def give_back() -> None:
    """Return unused memory to the system, so that the next peak can be measured. Does nothing without glibc."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


# Messages of torch, numpy, C++ and the system. heatcli's own errors are not searched, since they contain file names.
_SAID = re.compile(r"allocate memory|not enough memory|out of memory|Unable to allocate|bad[_ ]alloc|MemoryError")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, says that memory ran out: in Python, numpy or torch, on any device."""
    while error is not None:
        # compared by name, since importing torch would slow the start of the command line
        names = [kind.__name__ for kind in type(error).__mro__]
        if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
            return True
        if isinstance(error, OSError):
            if error.errno == errno.ENOMEM:
                return True
        elif not isinstance(error, HeatcliError) and _SAID.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def release() -> None:
    """Return unused memory on all devices."""
    import torch

    gc.collect()
    give_back()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def resident(what: str = "VmRSS") -> int:
    """Bytes in use, or their peak for `VmHWM`. Raises `OSError` without Linux's `/proc`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def _set(parameter: int, value: int) -> bool:
    """Set a parameter of glibc's allocator. Returns whether glibc accepted it."""
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(parameter, value))


def _function(name: str) -> Any:
    """A function of the C library; None on other systems than Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
