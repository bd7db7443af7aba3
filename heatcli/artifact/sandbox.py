"""An artifact is opened, captured and compared in a child process with limits; what comes back is plain data.

The child is forked before a byte of the file is read, and has all that its parent has loaded so far. A crash or a hang
of torch on a bad file ends the child alone. The parent gets what the file says of itself and its graphs, as the
bytes that the cache keeps, so it never opens the file. Needs `fork` and Linux's limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import mmap
import os
import re
import resource
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import torch
from torch import Tensor

from heatcli import errors
from heatcli.errors import HeatcliError, ModelError
from heatcli.graph.stored import Buffer, NotStorableError
from heatcli.memory import give_back

AVAILABLE = sys.platform == "linux"
SECONDS = 120.0  # for opening, and for each capture
MEMORY = 8 << 30  # bytes, beside ten times the size of the file
_OUT_OF_MEMORY = re.compile(r"allocate memory|bad_alloc|bad allocation|MemoryError")
_IDLE = 5.0  # seconds after which the child gives back the memory of what it opened
_SPARE = 10.0  # seconds after which the child ends itself if its parent, killed, does not

_all: weakref.WeakSet[Sandbox] = weakref.WeakSet()
_fresh = False  # whether this process has yet to run torch on several threads


@dataclass(frozen=True)
class Limits:
    """What an artifact may cost: `seconds` to open it and for each capture, `memory` in bytes."""

    seconds: float = SECONDS
    memory: int = MEMORY


Answer = Callable[[Any], Sequence[Buffer]]  # from a request to bytes, in parts


class Sandbox:
    """A child process that answers requests about the artifact `path`, one at a time.

    `answer` runs in the child. `forget` is called there when nobody has asked for a while.
    """

    def __init__(self, path: Path, limits: Limits, answer: Answer, forget: Callable[[], None]) -> None:
        global _fresh
        self.path, self.limits = path, limits
        self._lock = threading.Lock()
        self._ended = ""  # why it answers no more
        self._pipe, theirs = Pipe()
        self._file = os.memfd_create("heatcli")
        threads = torch.get_num_threads() if _fresh else 1  # GNU's OpenMP hangs in a child of a process that used it
        _fresh = False
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads, which hold none of our locks
            self._pid = os.fork()
        if self._pid == 0:
            _serve(theirs, self._pipe, self._file, limits, threads, parent, answer, forget)
        theirs.close()
        _all.add(self)
        weakref.finalize(self, _finish, self._pid, self._pipe, self._file)

    def ask(self, request: Any) -> Tensor:
        """The child's answer as uint8 [size], 64-byte aligned.

        Raises what the child raised, `NotStorableError` for what cannot be sent, `ModelError` where the child crashed
        or took longer than it may.
        """
        with self._lock:
            if self._ended:
                raise ModelError(self._ended)
            try:
                self._pipe.send_bytes(msgspec.msgpack.encode(request))
                if not self._pipe.poll(self.limits.seconds):
                    self._give_up(f"takes longer than {self.limits.seconds:g} s to open and capture; if its source is "
                                  "trusted, --max-seconds allows more")  # fmt: skip
                kind, said = msgspec.msgpack.decode(self._pipe.recv_bytes(), type=tuple[str, str | int])
            except (EOFError, OSError):
                self._give_up(self._how_it_died())
            except BaseException:  # Ctrl-C: the child is at work for nobody
                self.end("was interrupted")
                raise
        if kind == NotStorableError.__name__:
            raise NotStorableError(said)
        if kind:
            raise getattr(errors, kind)(said)
        content = torch.empty(int(said), dtype=torch.uint8)
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)
            file.readinto(content.numpy().data)
        os.ftruncate(self._file, 0)
        return content

    def end(self, why: str) -> None:
        """Kill the child; whoever asks from now on is told why."""
        self._ended = self._ended or f"{self.path}: {why}"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _give_up(self, why: str) -> NoReturn:
        self.end(why)
        raise ModelError(self._ended)

    def _how_it_died(self) -> str:
        _, status = os.waitpid(self._pid, 0)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        name = signal.Signals(number).name if number else f"status {os.WEXITSTATUS(status)}"
        why = ", perhaps for want of memory" if number == signal.SIGKILL else ""
        return f"torch or ONNX Runtime crashed on it ({name}{why}); the file is damaged, or meets a fault of theirs"


def fresh() -> None:
    """Say that this process has not run torch yet, so that the next child may use as many threads as it does."""
    global _fresh
    _fresh = True


def end_all() -> None:
    """Kill the children of this process, as Ctrl-C does."""
    for sandbox in list(_all):
        sandbox.end("was interrupted")


def _finish(pid: int, pipe: Connection, file: int) -> None:
    pipe.close()
    os.close(file)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _serve(
    pipe: Connection, other_end: Connection, file: int, limits: Limits, threads: int, parent: int, answer: Answer,
    forget: Callable[[], None],
) -> NoReturn:  # fmt: skip
    """What the child does, until its parent ends."""
    try:
        other_end.close()
        for sandbox in list(_all):  # whose own child would not see its parent end
            sandbox._pipe.close()
        _confine(limits, threads, parent)
        while True:
            if not pipe.poll(_IDLE):
                forget()
                gc.collect()
                give_back()
            request = msgspec.msgpack.decode(pipe.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, limits.seconds + _SPARE)
            reply = _answered(file, request, answer)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send_bytes(msgspec.msgpack.encode(reply))
    except (EOFError, OSError):
        os._exit(0)
    except BaseException:
        os._exit(1)


def _confine(limits: Limits, threads: int, parent: int) -> None:
    """Limit what this process may take, and let it be silent."""
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if parent:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the thread that forked
        if os.getppid() != parent:
            os._exit(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])  # data and stack
    most = pages * mmap.PAGESIZE + limits.memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(threads)


def _answered(file: int, request: Any, answer: Answer) -> tuple[str, str | int]:
    """The answer in the shared file, and how long it is; or the class and the text of an error."""
    try:
        with open(file, "wb", closefd=False) as out:
            out.seek(0)
            return "", sum(out.write(part) for part in answer(request))
    except (HeatcliError, NotStorableError) as error:
        hint = "; if its source is trusted, --max-memory allows more" if _OUT_OF_MEMORY.search(str(error)) else ""
        return type(error).__name__, f"{error}{hint}"
