"""Opens, captures and compares an artifact in a child process with limits. The child returns plain data.

The child is forked before any byte of the file is read, and shares all that its parent has loaded. If torch crashes or
hangs on a bad file, only the child ends. The parent receives the artifact's description and its graphs, in the bytes
of the cache, so it never opens the file. Needs `fork` and Linux's limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import mmap
import os
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
from heatcli.system.memory import give_back, is_out_of_memory

AVAILABLE = sys.platform == "linux"
SECONDS = 120.0  # for opening, and for each capture
MEMORY = 8 << 30  # bytes, beside ten times the size of the file
_IDLE = 5.0  # seconds without requests, after which the child frees what it opened
_SPARE = 10.0  # seconds beyond the limit, after which the child ends itself if its parent was killed

_all: weakref.WeakSet[Sandbox] = weakref.WeakSet()
_fresh = False  # whether this process has not run torch on several threads yet


@dataclass(frozen=True)
class Limits:
    """Limits for an artifact: `seconds` for opening and for each capture, `memory` in bytes."""

    seconds: float = SECONDS
    memory: int = MEMORY


Answer = Callable[[Any], Sequence[Buffer]]  # request → bytes, in chunks


class Sandbox:
    """A child process that answers requests about the artifact `path`, one at a time.

    `answer` runs in the child. `forget` runs there after a while without requests.
    """

    def __init__(self, path: Path, limits: Limits, answer: Answer, forget: Callable[[], None]) -> None:
        global _fresh
        self.path, self.limits = path, limits
        self._lock = threading.Lock()
        self._ended = ""  # the error for further requests
        self._pipe, theirs = Pipe()
        self._file = os.memfd_create("heatcli")
        threads = torch.get_num_threads() if _fresh else 1  # GNU OpenMP hangs in the child of a process that used it
        _fresh = False
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads; they hold no lock of ours
            self._pid = os.fork()
        if self._pid == 0:
            _serve(theirs, self._pipe, self._file, limits, threads, parent, answer, forget)
        theirs.close()
        _all.add(self)
        weakref.finalize(self, _finish, self._pid, self._pipe, self._file)

    def ask(self, request: Any) -> Tensor:
        """The child's answer as uint8 [size], 64-byte aligned.

        Raises what the child raised, `NotStorableError` for an answer without stored form, `ModelError` if the child
        crashed or exceeded its time.
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
            except BaseException:  # Ctrl-C: nobody waits for the child any more
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
        """Kill the child. Further requests raise `ModelError` with the reason `why`."""
        self._ended = self._ended or f"{self.path}: {why}"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _give_up(self, why: str) -> NoReturn:
        """Kill the child, and raise `ModelError`."""
        self.end(why)
        raise ModelError(self._ended)

    def _how_it_died(self) -> str:
        """Why the child ended, in words."""
        _, status = os.waitpid(self._pid, 0)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        name = signal.Signals(number).name if number else f"status {os.WEXITSTATUS(status)}"
        why = ", perhaps for want of memory" if number == signal.SIGKILL else ""
        return f"torch or ONNX Runtime crashed on it ({name}{why}); the file is damaged, or shows a fault of theirs"


def fresh() -> None:
    """Declare that this process has not run torch yet, so that the next child may use equally many threads."""
    global _fresh
    _fresh = True


def end_all() -> None:
    """Kill the children of this process, for Ctrl-C."""
    for sandbox in list(_all):
        sandbox.end("was interrupted")


def _finish(pid: int, pipe: Connection, file: int) -> None:
    """End the child and free its pipe and file."""
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
    """The child's loop, until its parent ends."""
    try:
        other_end.close()
        for sandbox in list(_all):  # open ends would hide the parent's end from other children
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
    """Limit this process's resources, and silence its output."""
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal signals all processes; the parent decides
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
    """Write the answer to the shared file and return its length, or return an error's class and text."""
    try:
        with open(file, "wb", closefd=False) as out:
            out.seek(0)
            return "", sum(out.write(part) for part in answer(request))
    except (HeatcliError, NotStorableError) as error:
        hint = "; if its source is trusted, --max-memory allows more" if is_out_of_memory(error) else ""
        return type(error).__name__, f"{error}{hint}"
