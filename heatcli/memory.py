"""The process's memory: how much is in use, and whether what is freed is kept for the next walk or given back."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # parameters of mallopt(3)
_MOST = (1 << 30, 1 << 25)  # some versions of glibc take the second only
_NEVER = -1
_USUAL = 1 << 25  # as far as glibc raises the threshold by itself when it frees larger blocks; it trims at twice that


class _Keeping:
    """How many want what is freed to be kept: the first makes it so, the last gives it back."""

    def __init__(self) -> None:
        self._wanted, self._lock = 0, Lock()

    def enter(self) -> None:
        """One more."""
        with self._lock:
            self._wanted += 1
            if self._wanted == 1 and any(_set(_MMAP_THRESHOLD, size) for size in _MOST):
                _set(_TRIM_THRESHOLD, _NEVER)

    def leave(self) -> None:
        """One less."""
        with self._lock:
            self._wanted -= 1
            if self._wanted == 0 and _set(_MMAP_THRESHOLD, _USUAL):
                _set(_TRIM_THRESHOLD, 2 * _USUAL)
                give_back()


_keeping = _Keeping()


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is freed, up to blocks of a gigabyte, until the block ends: for walks that follow one another.

    Every walk needs as much memory as the last. By default glibc gives it back in between, and the system hands it out
    anew, cleared, page by page: up to half of a walk's time. The peak is what it was. Afterwards it is given back, and
    glibc's thresholds are the highest that it takes of its own accord. Does nothing without glibc.
    """
    _keeping.enter()
    try:
        yield
    finally:
        _keeping.leave()


def keep_freed() -> None:
    """Keep what is freed from now on, as `kept` does; for programs of heatcli's own, as it holds for the whole process.

    Threads draw on the same memory, as what each had for itself would be given back all the same.
    """
    _keeping.enter()
    _set(_ARENA_MAX, 1)


def give_back() -> None:
    """Hand memory that nobody uses back to the system, so that the next peak is seen. Does nothing without glibc."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


_SAID = ("can't allocate memory", "not enough memory", "out of memory", "Unable to allocate", "bad allocation")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that memory has run out: Python's, numpy's or torch's, on any device."""
    while error is not None:
        # torch is not imported for its class of errors: this room serves the command line, which starts without
        names = [kind.__name__ for kind in type(error).__mro__]
        if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _SAID):
            return True
        error = error.__cause__ or error.__context__
    return False


def release() -> None:
    """Give back what was allocated in vain, on all devices."""
    import torch

    gc.collect()
    give_back()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def resident(what: str = "VmRSS") -> int:
    """Bytes in use, or by `VmHWM` the most that were. Raises `OSError` where Linux's `/proc` is not."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def _set(parameter: int, value: int) -> bool:
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(parameter, value))


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
