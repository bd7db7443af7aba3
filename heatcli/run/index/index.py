"""The index of a folder: one line of JSON per image, appended when the image is done. Interruptions leave it intact.

A line holds the checksums of the image's files, so that `--resume` notices files that a power cut has damaged. Checking
them takes 0.04 ms per image. The alternative, to sync every file before its line, takes a disk write per image.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Literal

import msgspec

from heatcli.errors import UsageError, printable
from heatcli.report.schema import FigurePart, LedgerPart, Report
from heatcli.system.compress import crc32
from heatcli.system.files import is_url, joined, locked, read, reading, size, write_all, writing

INDEX = "index.jsonl"
PARTS = "index.part-"  # prefix of the names of an index's parts behind a URL
NAME: Literal["heatcli.index/1"] = "heatcli.index/1"
Content = bytes  # in `FileEntry`, `bytes` is the name of a field
LONGEST = 1 << 24  # bytes of a line; a longer line is damaged
WAY_OUT = "give another folder, or --overwrite to explain everything anew"


class FileEntry(msgspec.Struct, frozen=True):
    """A file that was written for an image: its name below the index's folder, its size in bytes, and its checksum."""

    name: str
    bytes: int
    crc32: int | None = None

    @classmethod
    def of(cls, name: str, content: Content) -> FileEntry:
        """The entry of a file with this content."""
        return cls(name, len(content), crc32(content))

    def is_in(self, folder: str) -> bool:
        """Whether the file exists with this checksum, or with this size if there is no checksum.

        Raises `UsageError` if the file cannot be read.
        """
        name = joined(folder, self.name)
        with reading(name, "file of a run", "try again, or leave --resume out"):
            if self.crc32 is None:
                return size(name) == self.bytes
            if not is_url(name) and size(name) != self.bytes:
                return False
            try:
                content = read(name)
            except FileNotFoundError:
                return False
            return len(content) == self.bytes and crc32(content) == self.crc32


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An image, or one class of an image. With the target `top:K` an image has K rows, in the order of `rank`.

    `stem`: the stem of the image's files, below the index's folder. `of`: the number of the image's rows. `biases`:
    the total relevance of each bias. `cut`: the relevance per pixel at which the colour scale ends. `expected`,
    `predicted`: labels, as in the report's target. `run`: the parameters are in `run.RUN.json`; None means `run.json`.
    `error`: why the image was not explained; the other fields are then empty.
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
    cut: float | None = None
    expected: str | None = None
    predicted: str | None = None
    run: str | None = None
    error: str | None = None

    @property
    def called(self) -> str:
        """The name of the explained class, or its number where it has none."""
        return self.label or str(self.index)

    @property
    def last(self) -> bool:
        """Whether this is the image's last row."""
        return self.rank in (None, self.of)


def bias_share(pixels: float, biases: Mapping[str, float]) -> float | None:
    """Σ|bias total| / (|pixel total| + Σ|bias total|), as in `heatcli check`; None if both are 0."""
    booked = sum(map(abs, biases.values()))
    whole = abs(pixels) + booked
    return booked / whole if whole else None


class _Named(msgspec.Struct, frozen=True):
    """The field that lines of every version have."""

    schema: str


_decode = msgspec.json.Decoder(Row).decode


def row_of(
    report: Report, stem: str, rank: int | None, of: int, files: dict[str, FileEntry], image: str = ""
) -> Row:  # fmt: skip
    """The row for a report. `image`: the picture's path as the user gave it; by default the path in the report."""
    target = report.target
    return Row(
        image=image or report.image.path, stem=stem, sha256=report.image.sha256, rank=rank, of=of,
        method=report.method.name, index=target.index, label=target.label, score=target.score,
        probability=target.probability, quantity=target.quantity, ledger=report.ledger,
        biases={b.name: b.total for b in report.biases}, files=files,
        cut=report.figure.cut if isinstance(report.figure, FigurePart) else None,
        expected=target.expected or None, predicted=target.predicted or None,
    )  # fmt: skip


def line_of(row: Row) -> bytes:
    """A row as a line of JSON. Bytes of names that are not Unicode are escaped."""
    try:
        return msgspec.json.encode(row) + b"\n"
    except UnicodeEncodeError:
        texts = ("image", "stem", "error", "label")
        written = {name: printable(value) for name in texts if (value := getattr(row, name)) is not None}
        return msgspec.json.encode(msgspec.structs.replace(row, **written)) + b"\n"


def images(path: Path, damaged: list[int] | None = None) -> Iterator[list[tuple[Row, bytes]]]:
    """The rows of each image in an index, with their lines, without damaged lines and images that lack rows.

    `damaged`: a list to which the numbers of left-out lines are added. An incomplete last line does not count as
    damaged, because an interrupted write leaves one. Raises `UsageError` if the index cannot be read, or is of another
    version.
    """
    rows: list[tuple[Row, bytes]] = []
    numbers: list[int] = []
    bad = [] if damaged is None else damaged
    torn = False
    with reading(path, "index", WAY_OUT), path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, LONGEST), b""), 1):
            row = _row(path, line)
            if rows and (row is None or rows[0][0].stem != row.stem):
                bad += numbers
                rows, numbers = [], []
            if row is None:
                bad.append(number)
                torn = line.startswith(b"{") and not line.endswith(b"\n")
                continue
            torn = False
            rows.append((row, line))
            numbers.append(number)
            if row.last:
                if row.error is not None or len(rows) == row.of:
                    yield rows
                else:
                    bad += numbers
                rows, numbers = [], []
    if torn:
        bad.pop()


def _row(path: Path, line: bytes) -> Row | None:
    """The row of a line; None if the line is damaged. Raises `UsageError` for a line of another version."""
    if not line.endswith(b"\n"):
        return None
    try:
        line.decode()  # msgspec does not check the encoding of fields that it skips
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        schema = msgspec.json.decode(line, type=_Named).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if schema.startswith(NAME.partition("/")[0]) and schema != NAME:
        raise UsageError(f"{path}: is of another version of heatcli, {schema}, not {NAME}; {WAY_OUT}")
    return None


def damage_note(path: str, damaged: list[int]) -> str:
    """A note on damaged lines; empty if there are none."""
    if not damaged:
        return ""
    some = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
    lines = f"line {some} is" if len(damaged) == 1 else f"{len(damaged):,} lines ({some}) are"
    return f"{path}: {lines} damaged and left out; the images of damaged lines count as not done"


def number_of(name: str) -> int:
    """A 64-bit hash of a name that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


class Index:
    """The index in `folder`. Several runs may append to it at once, each holding the file lock `lock`.

    `files`: the folder of the images' files. `damaged`: the numbers of the damaged lines.
    """

    def __init__(self, folder: Path, lock: Path, files: str) -> None:
        self.path, self._lock, self._files = folder / INDEX, lock, files
        self._size: int | None = 0  # bytes; None if another run has appended to the index
        self.damaged: list[int] = []

    def append(self, rows: Iterable[Row]) -> None:
        """Write all rows of one or more images. Raises `UsageError`, and leaves the index as it was."""
        content = b"".join(map(line_of, rows))
        with writing(self.path), locked(self._lock), self.path.open("ab+", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                write_all(file.fileno(), self._ending(file, before) + content)
            except BaseException:
                file.truncate(before)
                raise
            self._size = before + len(content) if before == self._size else None

    @staticmethod
    def _ending(file: IO[bytes], end: int) -> bytes:
        """A line break if the last line has none, as after a process that was killed; else nothing."""
        if not end:
            return b""
        file.seek(end - 1)
        return b"" if file.read(1) == b"\n" else b"\n"

    def keep(self, wanted: Callable[[list[Row]], bool]) -> None:
        """Keep only images whose rows are `wanted`, and only the later of two entries of an image.

        In memory are one image's rows and the hashes of all stems. Raises `UsageError` if the index cannot be read or
        written.
        """
        with writing(self.path), locked(self._lock):
            if self.path.exists():
                self._rewrite(wanted)
            self._size = self.path.stat().st_size if self.path.exists() else 0

    def _rewrite(self, wanted: Callable[[list[Row]], bool]) -> None:
        """Write the index anew, as `keep` says, and replace the old one."""
        best: dict[int, int] = {}  # hash of the stem → number of the image
        twice = set[int]()
        self.damaged.clear()
        for number, rows in enumerate(images(self.path, self.damaged)):
            key = hash(rows[0][0].stem)
            twice.update({key} & best.keys())
            best[key] = number
        for number, rows in enumerate(images(self.path)) if twice else ():
            key = hash(rows[0][0].stem)
            if key in twice and self.is_there([row for row, _ in rows]):
                best[key] = number  # of two entries, the later one whose files exist
        temporary = self.path.with_name(f".{INDEX}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as kept:
                for number, rows in enumerate(images(self.path)):
                    if best[hash(rows[0][0].stem)] == number and wanted([row for row, _ in rows]):
                        kept.writelines(line for _, line in rows)
                kept.flush()
                os.fsync(kept.fileno())
            temporary.replace(self.path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def is_there(self, rows: list[Row]) -> bool:
        """Whether all files of an image exist with the checksums in its rows. Raises `UsageError`."""
        return all(file.is_in(self._files) for row in rows for file in row.files.values())

    def close(self) -> None:
        """If other runs have appended to the index, remove double entries. Raises `UsageError`."""
        if self._size is None:
            self.keep(bool)

    def rows(self) -> Iterator[list[Row]]:
        """The rows of each image. Raises `UsageError`."""
        if self.path.exists():
            for rows in images(self.path):
                yield [row for row, _ in rows]
