"""Standard streams whose errors do not end a run: text that cannot be written is dropped; the exit status says so."""

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

PIPE = 141  # the exit status in shells of a program that SIGPIPE has ended


class Stream(io.TextIOBase):
    """A standard stream that drops what it cannot write.

    `error`: the first error, after which nothing is written; None before. `lost`: whether text was dropped. Characters
    that the encoding lacks are written as escapes. After an error the file descriptor leads to the null device, so that
    Python can flush its buffers at exit.
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
        """The encoding of the wrapped stream."""
        return self._stream.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How the wrapped stream handles characters that its encoding lacks."""
        return self._stream.errors

    @property
    def buffer(self) -> _Bytes:
        """A binary stream that writes to this one."""
        return _Bytes(self)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the stream is a terminal that still takes text."""
        return self.error is None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """The file descriptor of the wrapped stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write the text, or drop it after an error."""
        self._attempt(lambda: self._stream.write(text), text)
        return len(text)

    def flush(self) -> None:
        """Flush, unless there was an error."""
        self._attempt(self._stream.flush)

    def write_bytes(self, content: bytes) -> None:
        """Write bytes after the text in the buffer, or drop them after an error."""

        def both() -> None:
            self._stream.flush()
            self._stream.buffer.write(content)

        self._attempt(both, content)

    def _attempt(self, action: Callable[[], Any], content: str | bytes = "") -> None:
        """Call `action`, which writes `content`, unless there was an error before."""
        if self.error is not None:
            self.lost = self.lost or bool(content)
            return
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: other code has closed the stream
            self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")
            self.lost = bool(content) or isinstance(error, OSError)  # a failed flush loses the text in the buffer
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


class _Bytes(io.RawIOBase):
    """A binary stream that writes to a `Stream`."""

    def __init__(self, stream: Stream) -> None:
        self._to = stream

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, content: Any) -> int:
        """Write the bytes, or drop them after an error."""
        self._to.write_bytes(bytes(content))
        return len(content)

    def flush(self) -> None:
        """Flush, unless there was an error."""
        self._to.flush()


@contextlib.contextmanager
def unfailing() -> Iterator[Stream]:
    """A block in which stdout and stderr are `Stream`s; yields stdout.

    Standard descriptors that are closed are opened first; otherwise the next file that is opened would become stdout.
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
    """Open the null device for each standard descriptor that is closed. Returns the numbers of these descriptors."""
    closed = set()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is the closed one
    return closed


def told_by_status(main: Callable[[], None]) -> Callable[[], None]:
    """`main` with streams that do not fail. If results on stdout were lost, the exit status is not 0."""

    def run() -> Any:
        """Run `main` and return the exit status."""
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
                if not broken:  # the reader has closed the pipe on purpose
                    print(f"heatcli: stdout: cannot be written: {stdout.error.strerror}", file=sys.stderr)
        return status

    @wraps(main)
    def ended() -> None:
        """Run `main` and exit with its status."""
        try:
            status = run()
        except OSError as error:  # for example, no file descriptor is left
            print(f"heatcli: cannot start: {error.strerror}", file=sys.stderr)
            sys.exit(1)
        sys.exit(status)

    return ended
