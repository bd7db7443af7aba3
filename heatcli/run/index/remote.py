"""The index of a folder behind a URL. Object stores cannot append, so an index is written in parts.

Lines go into a local file; new lines are uploaded as a part every minute. The end of a run joins all parts. The parts
are not deleted: of two runs that end at the same moment, one may miss the other's last part, which the next run finds.
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

EVERY = 60.0  # seconds between parts; a killed run loses the lines since the last part


class RemoteIndex(RunIndex):
    """As `RunIndex`, for an output folder behind a URL. Raises `UsageError` if the folder cannot be read."""

    def __init__(self, out: str, record: Record, resume: bool = False) -> None:
        self._out, folder = out, Path(tempfile.mkdtemp(prefix="heatcli-"))
        self._fresh, self._sent, self._part = bytearray(), time.monotonic(), 0
        # Parts are sorted by the start of their run, because the later of two entries of an image counts.
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
        """All lines behind the URL, of the joined index first."""
        system, path = remote(self._out)
        system.invalidate_cache()
        base = path.rstrip("/")
        names = sorted(map(str, persistent(lambda: system.glob(f"{base}/{PARTS}*.jsonl"))))
        whole = [f"{base}/{INDEX}"] if size(joined(self._out, INDEX)) is not None else []
        parts = (bytes(persistent(partial(system.cat_file, name))) for name in [*whole, *names])
        return b"".join(part if part.endswith(b"\n") else part + b"\n" for part in parts if part)

    def claim(self) -> None:
        """Write the record, locally and behind the URL. Raises `UsageError`."""
        if not self._claimed:
            super().claim()
            name = name_of(self.run)
            write(joined(self._out, name), (self._folder / name).read_bytes())

    def append(self, rows: Iterable[Row]) -> None:
        """Append rows to the local file, and upload new lines as a part every `EVERY` seconds. Raises `UsageError`."""
        rows = list(rows)
        super().append(rows)
        self._fresh += b"".join(map(line_of, rows))
        if time.monotonic() - self._sent > EVERY:
            self._send()

    def _send(self) -> None:
        """Upload the new lines as a part."""
        if self._fresh:
            write(joined(self._out, f"{PARTS}{self._unique}-{self._part:06}.jsonl"), bytes(self._fresh))
            self._part += 1
            self._fresh.clear()
        self._sent = time.monotonic()

    def close(self) -> None:
        """Upload the remaining lines, also after an interrupt, and delete the local file."""
        try:
            self._send()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self, parquet: bool) -> None:
        """Join all parts into one index behind the URL. Call it before `close`. Raises `UsageError`."""
        self._send()
        with reading(self.name, "index", "the same with --resume goes on"):
            self.path.write_bytes(self._all_parts())
        self.keep(bool)
        super().finish(parquet)
        for path in [self.path, *([self.path.with_suffix(".parquet")] if parquet else [])]:
            write(joined(self._out, path.name), path.read_bytes())
