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
from pathlib import Path

import msgspec

from heatcli.files import joined, read, remote, size, write
from heatcli.run.index import INDEX, Row
from heatcli.run.record import RECORD, Record
from heatcli.run.runindex import RunIndex

EVERY = 60.0  # seconds between parts: what a killed run may have to do again
PARTS = "index.part-"


class RemoteIndex(RunIndex):
    """As `RunIndex`, for an output folder behind a URL."""

    def __init__(self, out: str, record: Record) -> None:
        self._out, folder = out, Path(tempfile.mkdtemp(prefix="heatcli-"))
        self._fresh, self._sent, self._part = bytearray(), time.monotonic(), 0
        # parts sort by when their run began, so that of two lines on an image the later run's counts
        self._unique = f"{time.time_ns():020}-{uuid.uuid4().hex[:12]}"
        if size(joined(out, RECORD)) is not None:
            (folder / RECORD).write_bytes(read(joined(out, RECORD)))
        (folder / INDEX).write_bytes(self._all_parts())
        super().__init__(out, record, folder)

    def _all_parts(self) -> bytes:
        """Every line that any run has left there, the joined index first."""
        system, path = remote(self._out)
        system.invalidate_cache()
        base = path.rstrip("/")
        names = sorted(map(str, system.glob(f"{base}/{PARTS}*.jsonl")))
        whole = [f"{base}/{INDEX}"] if system.exists(f"{base}/{INDEX}") else []
        return b"".join(bytes(system.cat_file(name)) for name in [*whole, *names])

    def claim(self) -> None:
        """The record, here and there."""
        if not self._claimed:
            super().claim()
            write(joined(self._out, RECORD), (self._folder / RECORD).read_bytes())

    def append(self, rows: Iterable[Row]) -> None:
        """Into the journal; what is new goes there as a part every minute."""
        rows = list(rows)
        super().append(rows)
        self._fresh += b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
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
        self._send()
        shutil.rmtree(self._folder)

    def finish(self, parquet: bool) -> None:
        """Join all parts into one index there. `close` comes after it."""
        self._send()
        self.path.write_bytes(self._all_parts())
        self.keep(bool)
        super().finish(parquet)
        for path in [self.path, *([self.path.with_suffix(".parquet")] if parquet else [])]:
            write(joined(self._out, path.name), path.read_bytes())
