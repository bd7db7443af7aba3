"""Joining the indexes of several folders, or of the shards of one run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from heatcli.errors import UsageError
from heatcli.run.index import INDEX, FileEntry, Row, images
from heatcli.run.inputs import digest
from heatcli.run.record import RECORD, Record, agree


def merge(folders: Sequence[Path], output: Path) -> int:
    """Write the rows of all folders' indexes into one, and return how many images it holds.

    File names become relative to the new index. An image that several folders have is taken once, explained rather
    than failed. Raises `UsageError` for a folder without an index, for runs with different parameters, and for images
    that differ under one name.
    """
    _check(folders)
    best = _chosen(folders)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as file:
        try:
            for number, (folder, rows) in enumerate(_all(folders)):
                if number in best:
                    moved = Path(os.path.relpath(folder, output.parent)).as_posix()
                    file.writelines(msgspec.json.encode(_moved(row, moved)) + b"\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(output)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return len(best)


def _check(folders: Sequence[Path]) -> None:
    first: Record | None = None
    for folder in folders:
        if not (folder / INDEX).is_file():
            raise UsageError(f"{folder}: has no {INDEX}; heatcli explain FOLDER --out DIR writes one")
        record = folder / RECORD
        if not record.is_file():
            continue  # an index that was joined before
        if first is None:
            first = msgspec.json.decode(record.read_bytes(), type=Record)
        agree(first, record.read_bytes(), str(record), "holds a run with other parameters than the folders before it")


def _chosen(folders: Sequence[Path]) -> set[int]:
    """Numbers of the images to take: the last of each that was explained, or else that failed."""
    best: dict[int, tuple[bool, int]] = {}
    shas: dict[int, str | None] = {}
    for number, (_, rows) in enumerate(_all(folders)):
        key = digest(rows[0].image)
        explained = rows[0].error is None
        if explained and shas.setdefault(key, rows[0].sha256) != rows[0].sha256:
            raise UsageError(f"{rows[0].image}: two folders explain two different pictures of this name")
        if key not in best or (explained, number) > best[key]:
            best[key] = (explained, number)
    return {number for _, number in best.values()}


def _all(folders: Sequence[Path]) -> Iterator[tuple[Path, list[Row]]]:
    for folder in folders:
        with (folder / INDEX).open("rb") as file:
            for rows in images(file):
                yield folder, [row for row, _ in rows]


def _moved(row: Row, folder: str) -> Row:
    """The same row, its files' names seen from another folder."""
    if folder == ".":
        return row
    files = {what: FileEntry(f"{folder}/{file.name}", file.bytes) for what, file in row.files.items()}
    return msgspec.structs.replace(row, stem=f"{folder}/{row.stem}", files=files)
