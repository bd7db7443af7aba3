"""Standard streams that never end a run: what they do not take is dropped, and the exit status tells of stdout's."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, TextIO

PIPE = 141  # the status of a program that SIGPIPE ends, as shells tell it


class Stream(io.TextIOBase):
    """A standard stream as a command writes to it; `error`: why it takes nothing any more; `lost`: it did not take all.

    Characters that its encoding lacks are written as escapes. What cannot be written once is not tried again: the file
    descriptor then leads to the null device, so that the end of Python does not fail on what is left in buffers.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        self.lost = False
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's own."""
        return self._stream.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What becomes of characters that the encoding lacks."""
        return self._stream.errors

    @property
    def buffer(self) -> _Bytes:
        """The same stream for bytes."""
        return _Bytes(self)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether somebody reads along."""
        return self.error is None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """The file descriptor."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write, or drop."""
        self._attempt(lambda: self._stream.write(text), text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        self._attempt(self._stream.flush)

    def write_bytes(self, content: bytes) -> None:
        """Write after the text that is there, or drop."""

        def both() -> None:
            self._stream.flush()
            self._stream.buffer.write(content)

        self._attempt(both, content)

    def _attempt(self, action: Callable[[], Any], content: str | bytes = "") -> None:
        """Do it, unless something was dropped before: then `content` is, too."""
        if self.error is not None:
            self.lost = self.lost or bool(content)
            return
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: closed by somebody else
            self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")
            self.lost = bool(content) or isinstance(error, OSError)  # of a flush: what came before
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


class _Bytes(io.RawIOBase):
    """A stream's side for bytes."""

    def __init__(self, stream: Stream) -> None:
        self._to = stream

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, content: Any) -> int:
        """Write, or drop."""
        self._to.write_bytes(bytes(content))
        return len(content)

    def flush(self) -> None:
        """Flush, or drop."""
        self._to.flush()


@contextlib.contextmanager
def unfailing() -> Iterator[Stream]:
    """Put a `Stream` in the place of stdout and stderr; yields that of stdout.

    Descriptors that the caller has closed are opened first, or the next file that is written would become stdout.
    """
    closed = _open_descriptors()
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as null:
        made = [Stream(stream or null) for stream in before]
        for number, stream in enumerate(made, 1):
            if number in closed:
                stream.error = OSError(errno.EBADF, "it is closed")
        sys.stdout, sys.stderr = made
        try:
            yield made[0]
        finally:
            for stream in made:
                stream.flush()
            sys.stdout, sys.stderr = before


def _open_descriptors() -> set[int]:
    """Lead each standard descriptor that is closed to the null device; their numbers."""
    closed = set()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    return closed


def told_by_status(main: Callable[[], None]) -> Callable[[], None]:
    """`main` with streams that do not fail; a status of 0 becomes another one where results on stdout were lost."""

    def run() -> Any:
        """The status."""
        status: Any = 0
        with unfailing() as stdout:
            try:
                main()
            except SystemExit as end:
                status = end.code
            stdout.flush()
            if stdout.error is not None and stdout.lost:
                broken = stdout.error.errno == errno.EPIPE
                status = status or (PIPE if broken else 1)
                if not broken:  # who ends a pipe early knows it
                    print(f"heatcli: stdout: cannot be written: {stdout.error.strerror}", file=sys.stderr)
        return status

    @wraps(main)
    def ended() -> None:
        """Run it and end with its status."""
        try:
            status = run()
        except OSError as error:  # such as no file descriptor left for what a command needs first
            print(f"heatcli: cannot start: {error.strerror}", file=sys.stderr)
            sys.exit(1)
        sys.exit(status)

    return ended
