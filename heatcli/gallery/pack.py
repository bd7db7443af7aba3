"""A page's own data: on disk until the page is written, then compressed text that the page's script opens."""

from __future__ import annotations

import base64
import gzip
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heatcli.gallery.columns import Entry
from heatcli.system.files import write_atomically

ROWS = 64  # explanations a block
FULL = 32767  # of int16: the largest bias of an image


def packed(content: bytes) -> str:
    """Compressed, as text that needs no escape in a page."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


class Store:
    """Entries in, blocks out. Of each entry, memory holds its numbers alone; the rest waits in a temporary file.

    A block is, for up to `ROWS` entries: a table uint32 [n, 1 + sides] of lengths in bytes; the WebPs; then each side's
    biases, int16, as shares of `FULL` of the entry's largest |bias|, which is the column `scale`.
    """

    def __init__(self, sides: int) -> None:
        self.columns: dict[str, list[Any]] = {}
        self.names: list[str] = []
        self._place: dict[str, int] = {}
        self._sides, self._lengths = sides, list[tuple[int, ...]]()
        self._file = tempfile.TemporaryFile(prefix="heatcli-")  # noqa: SIM115  (closed by `close`)

    def __len__(self) -> int:
        return len(self._lengths)

    def close(self) -> None:
        """Give the temporary file up."""
        self._file.close()

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        scale = max((abs(total) for side in entry.biases for total in side.values()), default=0.0)
        values = entry.values | {"scale": float(f"{scale:.7g}")}
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)
        parts = [entry.thumbnail.webp, *(self._numbers(side, scale) for side in entry.biases)]
        self._lengths.append(tuple(map(len, parts)))
        self._file.writelines(parts)

    def _numbers(self, totals: dict[str, float], scale: float) -> bytes:
        if not totals or not scale:
            return b""
        for name in totals.keys() - self._place.keys():
            self._place.setdefault(name, -1)
        for name in totals:
            if self._place[name] < 0:
                self._place[name] = len(self.names)
                self.names.append(name)
        found = np.zeros(len(self.names), "<i2")
        for name, total in totals.items():
            found[self._place[name]] = round(total / scale * FULL)
        return found.tobytes()

    @property
    def bytes(self) -> int:
        """About what the page's data takes as text."""
        return (sum(map(sum, self._lengths)) + len(msgspec.json.encode(self.columns)) // 4) * 4 // 3

    def table(self) -> str:
        """The columns: those of few values as numbers of the values, packed."""
        return packed(msgspec.json.encode(self.columns))

    def blocks(self, beside: Path | None = None) -> Iterator[str]:
        """Every block, packed. `beside`: a folder that the WebPs go to instead, `NUMBER.webp`."""
        self._file.seek(0)
        for start in range(0, len(self), ROWS):
            lengths: Sequence[tuple[int, ...]] = self._lengths[start : start + ROWS]
            entries = [[self._file.read(length) for length in own] for own in lengths]
            if beside is not None:
                for i, own in enumerate(entries, start):
                    write_atomically(beside / f"{i}.webp", own[0])
                    own[0] = b""
            table = np.array([[len(part) for part in own] for own in entries], "<u4")
            parts = [own[column] for column in range(1 + self._sides) for own in entries]
            yield packed(table.tobytes() + b"".join(parts))
