"""The index of a folder behind a URL. Object stores cannot append: a journal here, parts there, joined at the end.

Parts stay where they are: of two runs that end at the same moment, one may join without the other's last part, and the
next run into that folder then finds it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from heatcli.run.index.index import INDEX, PARTS, Row, line_of
from heatcli.run.index.record import OTHERS, RECORD, Record, name_of
from heatcli.run.index.runindex import RunIndex
from heatcli.system.files import joined, persistent, read, reading, remote, size, write

EVERY = 60.0  # seconds between parts: what a killed run may have to do again


class RemoteIndex(RunIndex):
    """As `RunIndex`, for an output folder behind a URL."""

    def __init__(self, out: str, record: Record, resume: bool = False) -> None:
        self._out, folder = out, Path(tempfile.mkdtemp(prefix="heatcli-"))
        self._fresh, self._sent, self._part = bytearray(), time.monotonic(), 0
        # parts sort by when their run began, so that of two lines on an image the later run's counts
        self._unique = f"{time.time_ns():020}-{uuid.uuid4().hex[:12]}"
        self._folder = folder
        try:
            with reading(out, "folder of a run", "try again"):
                if size(joined(out, RECORD)) is not None:
                    (folder / RECORD).write_bytes(read(joined(out, RECORD)))
                    system, path = remote(out)
                    others = persistent(lambda: system.glob(f"{path.rstrip('/')}/{OTHERS}"))
                    for name in map(str, others):
                        (folder / name.rpartition("/")[2]).write_bytes(bytes(system.cat_file(name)))
                if lines := self._all_parts():
                    (folder / INDEX).write_bytes(lines)
            super().__init__(out, record, folder, resume)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _all_parts(self) -> bytes:
        """Every line that any run has left there, the joined index first."""
        system, path = remote(self._out)
        system.invalidate_cache()
        base = path.rstrip("/")
        names = sorted(map(str, persistent(lambda: system.glob(f"{base}/{PARTS}*.jsonl"))))
        whole = [f"{base}/{INDEX}"] if size(joined(self._out, INDEX)) is not None else []
        parts = (bytes(persistent(partial(system.cat_file, name))) for name in [*whole, *names])
        return b"".join(part if part.endswith(b"\n") else part + b"\n" for part in parts if part)

    def claim(self) -> None:
        """The record, here and there."""
        if not self._claimed:
            super().claim()
            name = name_of(self.run)
            write(joined(self._out, name), (self._folder / name).read_bytes())

    def append(self, rows: Iterable[Row]) -> None:
        """Into the journal; what is new goes there as a part every minute."""
        rows = list(rows)
        super().append(rows)
        self._fresh += b"".join(map(line_of, rows))
        if time.monotonic() - self._sent > EVERY:
            self._send()

    def _send(self) -> None:
        if self._fresh:
            write(joined(self._out, f"{PARTS}{self._unique}-{self._part:06}.jsonl"), bytes(self._fresh))
            self._part += 1
            self._fresh.clear()
        self._sent = time.monotonic()

    def close(self) -> None:
        """Send what is left, also after an interrupt."""
        try:
            self._send()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self, parquet: bool) -> None:
        """Join all parts into one index there. `close` comes after it."""
        self._send()
        with reading(self.name, "index", "the same with --resume goes on"):
            self.path.write_bytes(self._all_parts())
        self.keep(bool)
        super().finish(parquet)
        for path in [self.path, *([self.path.with_suffix(".parquet")] if parquet else [])]:
            write(joined(self._out, path.name), path.read_bytes())
