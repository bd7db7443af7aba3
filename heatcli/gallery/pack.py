"""The data in a page: kept on disk until the page is written, then compressed to text that the script decodes."""

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

ROWS = 64  # explanations in a block
FULL = 32767  # the largest int16, which stands for the largest |bias| of an image


def packed(content: bytes) -> str:
    """Content compressed (gzip) and encoded (Base64) as text for an HTML page."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


class Store:
    """Collects entries and returns blocks. Memory holds only the numbers of an entry, a temporary file the rest.

    A block of up to `ROWS` entries is: a table of lengths in bytes, uint32 [n, 1 + sides]; the WebPs; the biases of
    each side, int16. A bias is (its value) · scale / `FULL`, where `scale` is the entry's largest |bias|, a column.
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
        """Delete the temporary file."""
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
        """The biases of an entry as int16, in the order of `names`, to which new names are added."""
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
        """The approximate size of the page's data as text."""
        return (sum(map(sum, self._lengths)) + len(msgspec.json.encode(self.columns)) // 4) * 4 // 3

    def table(self) -> str:
        """The columns as packed JSON."""
        return packed(msgspec.json.encode(self.columns))

    def blocks(self, beside: Path | None = None) -> Iterator[str]:
        """The packed blocks. `beside`: a folder for the WebPs, `NUMBER.webp`, which are then not in the blocks."""
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
