"""How a command ends by Ctrl-C or SIGTERM: the first leaves whole files, a second or ten seconds end it at once."""

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
BOUNCE = 0.5  # seconds within which a second signal is the first one again: timeout(1) sends it to process and group
_ENDING = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"  # which a progress bar hides

came: list[int] = []  # the signals of the command that runs, in order


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for the first signal, end the process for the second, or after `GRACE` seconds.

    Python handles signals between two steps of its own, so not while its main thread waits for torch or for a file. So
    a second thread watches, to which C code passes every signal as it comes.
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
        if handler is not signal.SIG_IGN:  # as for what a shell starts in the background
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.shutdown(socket.SHUT_WR)  # children may hold it open
        watch.join()
        theirs.close()
        ours.close()


def _interrupt(number: int, frame: Any) -> None:
    """What the first signal calls, once Python runs. Children that are at work for nobody end."""
    came.append(number)
    sandbox = sys.modules.get("heatcli.artifact.sandbox")
    if sandbox is not None:
        sandbox.end_all()
    if len(came) == 1:
        raise KeyboardInterrupt


def _watch(signals: socket.socket) -> None:
    """End the process at the second signal, or when it takes too long; return once nothing sends any more."""
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
    """End without a word to anybody: files that are half written have another name."""
    os.write(2, (_SHOW_CURSOR if sys.stderr.isatty() else b"") + b"heatcli: interrupted; ended at once\n")
    os._exit(128 + number)
