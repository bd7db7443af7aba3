"""The index of a folder: one line of JSON an image, appended as it finishes, whole after any interruption."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from heatcli.files import joined, locked, size
from heatcli.report.schema import LedgerPart, Report

INDEX = "index.jsonl"
NAME: Literal["heatcli.index/1"] = "heatcli.index/1"


class FileEntry(msgspec.Struct, frozen=True):
    """A file that was written for an image: its name below the index's folder, and its bytes."""

    name: str
    bytes: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One image; or, with the target `top:K`, one of its K classes, in the order of `rank`.

    `stem` is what the names of its files begin with, below the index's folder; `biases` is the total of every bias of
    the network. `error` says why there is nothing else.
    """

    image: str
    stem: str
    schema: Literal["heatcli.index/1"] = NAME
    sha256: str | None = None
    rank: int | None = None
    of: int = 1
    method: str | None = None
    index: int | None = None
    label: str | None = None
    score: float | None = None
    probability: float | None = None
    quantity: str | None = None
    ledger: LedgerPart | None = None
    biases: dict[str, float] = {}
    files: dict[str, FileEntry] = {}
    error: str | None = None

    @property
    def last(self) -> bool:
        """Whether this is the image's last row."""
        return self.rank in (None, self.of)


_decode = msgspec.json.Decoder(Row).decode


def row_of(report: Report, stem: str, rank: int | None, of: int, files: dict[str, FileEntry]) -> Row:
    """The line that stands for a report."""
    target = report.target
    return Row(
        image=report.image.path, stem=stem, sha256=report.image.sha256, rank=rank, of=of, method=report.method.name,
        index=target.index, label=target.label, score=target.score, probability=target.probability,
        quantity=target.quantity, ledger=report.ledger, biases={b.name: b.total for b in report.biases}, files=files,
    )  # fmt: skip


def images(lines: Iterable[bytes]) -> Iterator[list[tuple[Row, bytes]]]:
    """The rows of each image with their lines; a torn line, or an image that lacks some of its rows, is left out."""
    rows: list[tuple[Row, bytes]] = []
    for line in lines:
        try:
            row = _decode(line) if line.endswith(b"\n") else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            row = None
        if row is None:
            rows = []
            continue
        if rows and rows[0][0].stem != row.stem:
            rows = []
        rows.append((row, line))
        if row.last:
            if row.error is not None or len(rows) == row.of:
                yield rows
            rows = []


class Index:
    """The index in `folder` that several runs may append to at once: whole images, each under the folder's `lock`.

    `files` is the folder that its files are in.
    """

    def __init__(self, folder: Path, lock: Path, files: str) -> None:
        self.path, self._lock, self._files = folder / INDEX, lock, files
        self._size: int | None = 0  # None: others have appended, too

    def append(self, rows: Iterable[Row]) -> None:
        """Write the rows of one or more images."""
        content = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        with locked(self._lock), self.path.open("ab") as file:
            before = os.fstat(file.fileno()).st_size
            file.write(content)
            self._size = before + len(content) if before == self._size else None

    def keep(self, wanted: Callable[[list[Row]], bool]) -> None:
        """Keep only images whose rows are `wanted`, and the later of two lines for one. Constant memory but for stems.

        Raises `OSError` where the folder cannot be written to.
        """
        with locked(self._lock):
            if self.path.exists():
                self._rewrite(wanted)
            self._size = self.path.stat().st_size if self.path.exists() else 0

    def _rewrite(self, wanted: Callable[[list[Row]], bool]) -> None:
        best: dict[int, int] = {}  # hash of the stem → number of the image
        twice = set[int]()
        with self.path.open("rb") as file:
            for number, rows in enumerate(images(file)):
                key = hash(rows[0][0].stem)
                twice.update({key} & best.keys())
                best[key] = number
        with self.path.open("rb") as file:
            for number, rows in enumerate(images(file)) if twice else ():
                key = hash(rows[0][0].stem)
                if key in twice and self.is_there([row for row, _ in rows]):
                    best[key] = number  # of two runs, the one whose files are there
        temporary = self.path.with_name(f".{INDEX}.{os.getpid()}.tmp")
        try:
            with self.path.open("rb") as file, temporary.open("wb") as kept:
                for number, rows in enumerate(images(file)):
                    if best[hash(rows[0][0].stem)] == number and wanted([row for row, _ in rows]):
                        kept.writelines(line for _, line in rows)
                kept.flush()
                os.fsync(kept.fileno())
            temporary.replace(self.path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def is_there(self, rows: list[Row]) -> bool:
        """Whether all files of an image are there with the bytes that its rows say."""
        files = [file for row in rows for file in row.files.values()]
        return all(size(joined(self._files, file.name)) == file.bytes for file in files)

    def close(self) -> None:
        """Where other runs have appended meanwhile, leave one line of each image."""
        if self._size is None:
            self.keep(bool)

    def rows(self) -> Iterator[list[Row]]:
        """Every image's rows."""
        if self.path.exists():
            with self.path.open("rb") as file:
                for rows in images(file):
                    yield [row for row, _ in rows]
