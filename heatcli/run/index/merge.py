"""Merging the indexes of several folders, such as the shards of one run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from heatcli.errors import UsageError
from heatcli.run.index.index import INDEX, Row, images, line_of, number_of, told
from heatcli.run.index.record import RECORD, Record, agree, read_record
from heatcli.system.files import make_folder, writing


def merge(folders: Sequence[Path], output: Path, say: Callable[[str], None] = lambda _: None) -> int:
    """Write the rows of all folders' indexes into the index `output`, and return its number of images.

    File names become relative to the new index. If several folders have an image, its last entry without an error
    counts. `say`: called with a sentence on damaged lines. Raises `UsageError` for a folder without an index, for runs
    with different parameters, and for different images with the same name.
    """
    _check(folders)
    best = _chosen(folders, say)
    make_folder(output.parent)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with writing(output):
            with temporary.open("wb") as file:
                for number, (folder, rows) in enumerate(_all(folders)):
                    if number in best:
                        moved = Path(os.path.relpath(folder, output.parent)).as_posix()
                        file.writelines(line_of(_moved(row, moved)) for row in rows)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(output)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return len(best)


def _check(folders: Sequence[Path]) -> None:
    """Raise `UsageError` for a folder without an index, and for runs with different parameters."""
    first: Record | None = None
    for folder in folders:
        if not (folder / INDEX).is_file():
            raise UsageError(f"{folder}: has no {INDEX}; heatcli explain FOLDER --out DIR writes one")
        record = folder / RECORD
        if not record.is_file():
            continue  # a merged index has no record
        found = read_record(record)
        first = first or found
        agree(first, found, str(record), "holds a run with other parameters than the folders before it")


def _chosen(folders: Sequence[Path], say: Callable[[str], None]) -> set[int]:
    """The numbers of the entries to take: for each image the last one that was explained, else the last failed one."""
    best: dict[int, tuple[bool, int]] = {}
    shas: dict[int, str | None] = {}
    for number, (_, rows) in enumerate(_all(folders, say)):
        key = number_of(f"{rows[0].image}\0{rows[0].method or ''}")
        explained = all(row.error is None for row in rows)
        if explained and shas.setdefault(number_of(rows[0].image), rows[0].sha256) != rows[0].sha256:
            raise UsageError(f"{rows[0].image}: two folders explain two different pictures of this name")
        if key not in best or (explained, number) > best[key]:
            best[key] = (explained, number)
    return {number for _, number in best.values()}


def _all(folders: Sequence[Path], say: Callable[[str], None] = lambda _: None) -> Iterator[tuple[Path, list[Row]]]:
    """The rows of each image of each folder, with the folder. `say`: called with notes on damaged lines."""
    for folder in folders:
        damaged: list[int] = []
        for rows in images(folder / INDEX, damaged):
            yield folder, [row for row, _ in rows]
        if note := told(str(folder / INDEX), damaged):
            say(note)


def _moved(row: Row, folder: str) -> Row:
    """The row with file names relative to another folder."""
    if folder == ".":
        return row
    files = {what: msgspec.structs.replace(file, name=f"{folder}/{file.name}") for what, file in row.files.items()}
    return msgspec.structs.replace(row, stem=f"{folder}/{row.stem}", files=files)
