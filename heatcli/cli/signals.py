"""Ctrl-C and SIGTERM: after the first the command completes its files; the second, or ten seconds, end it at once."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GRACE = 10.0  # seconds that a command has to end after the first signal
BOUNCE = 0.5  # seconds in which a second signal is ignored: timeout(1) signals the process and again its group
_ENDING = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides the cursor

came: list[int] = []  # the signals that the running command has received, in order


@contextmanager
def interruptible() -> Iterator[None]:
    """A block in which the first signal raises `KeyboardInterrupt`; the second, or `GRACE` seconds, end the process.

    Python runs signal handlers between two bytecode instructions of the main thread, not while the thread waits in
    torch or for a file. So a second thread watches the socket to which the C handler writes every signal at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came.clear()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watch = threading.Thread(target=_watch, args=(ours,), name="heatcli signals", daemon=True)
    watch.start()
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    before = {n: signal.getsignal(n) for n in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # a shell starts background jobs with ignored signals
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.shutdown(socket.SHUT_WR)  # ends the thread even if child processes hold a copy of the socket
        watch.join()
        theirs.close()
        ours.close()


def _interrupt(number: int, frame: Any) -> None:
    """The handler of both signals: end the sandbox's child processes, and raise `KeyboardInterrupt` at the first."""
    came.append(number)
    sandbox = sys.modules.get("heatcli.artifact.sandbox")
    if sandbox is not None:
        sandbox.end_all()
    if len(came) == 1:
        raise KeyboardInterrupt


def _watch(signals: socket.socket) -> None:
    """End the process at the second signal, or `GRACE` seconds after the first. Returns when the socket closes."""
    first, number = 0.0, 0
    while True:
        left = None if not first else max(0.0, first + GRACE - time.monotonic())
        if not select.select([signals], [], [], left)[0]:
            _end_at_once(number)
        received = signals.recv(64)
        if not received:
            return
        for one in received:
            if one in _ENDING and not first:
                first, number = time.monotonic(), one
            elif one in _ENDING and time.monotonic() - first > BOUNCE:
                _end_at_once(one)


def _end_at_once(number: int) -> None:
    """End the process without cleaning up. Incomplete files have temporary names, so no output is damaged."""
    os.write(2, (_SHOW_CURSOR if sys.stderr.isatty() else b"") + b"heatcli: interrupted; ended at once\n")
    os._exit(128 + number)
