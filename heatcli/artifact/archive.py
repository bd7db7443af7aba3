"""Zip archives written by torch, read once by one strict reader. torch receives a rewritten archive.

A file that two readers could interpret differently is refused: local headers that differ from the central directory,
bytes outside all entries, names that occur twice or differ only in case, encrypted entries. Wrong checksums are refused
too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from heatcli.errors import ModelError
from heatcli.system.compress import crc32

Buffer = bytes | memoryview

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_STORED, _DEFLATED = 0, 8
_MOST_16, _MOST_32 = 0xFFFF, 0xFFFFFFFF  # mean that the number is in a 64-bit field
_DESCRIPTOR = 1 << 3  # sizes and checksum follow the content
_UTF_8 = 1 << 11
_FLAGS = _DESCRIPTOR | _UTF_8 | 0b110  # the last two bits: deflate's effort
_DAMAGED = "is a damaged or truncated zip archive"
_ANEW = "export or copy it anew"
_INFLATED = 64 << 20  # bytes that every archive may inflate to; larger archives may inflate to 100 times their size


class Refused(Exception):  # noqa: N818
    """An entry has forbidden content. The text says what, and follows the file's name in messages."""


class _Entry(NamedTuple):
    """An entry of the central directory; `packed` and `size` are bytes before and after inflating."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def names(path: Path) -> list[str]:
    """The names of an archive's entries, without reading contents. Raises `ModelError` as `read` does."""
    try:
        with path.open("rb") as file:

            def part(start: int, size: int) -> bytes:
                """That many bytes from `start`."""
                file.seek(start)
                return file.read(size)

            return [entry.name for entry in _directory(path, part, file.seek(0, 2))[0]]
    except OSError as error:
        raise ModelError(f"{path}: cannot be read as a model: {error.strerror}") from error


def read(path: Path) -> dict[str, Buffer]:
    """The contents of an archive's entries, by name below the archive's only folder; directories are left out.

    Raises `ModelError` for a damaged archive, or one that torch does not write.
    """
    try:
        whole = memoryview(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read as a model: {error.strerror}") from error
    entries, end = _directory(path, lambda start, size: whole[start : start + size], len(whole))
    _check_names(path, [entry.name for entry in entries])
    allowed = max(_INFLATED, 100 * len(whole))
    if sum(entry.size for entry in entries) > allowed:
        raise ModelError(f"{path}: inflates to more than {allowed} bytes; refused")
    entries.sort(key=lambda entry: entry.offset)
    contents: dict[str, Buffer] = {}
    position = 0
    for entry, following in zip(entries, [*(entry.offset for entry in entries[1:]), end], strict=True):
        if entry.offset != position:
            raise ModelError(f"{path}: {_DAMAGED} (it does not start with its first entry); {_ANEW}")
        start = _after_header(path, entry, whole)
        position = start + entry.packed
        if position > following or bytes(whole[position:following]) not in _descriptors(entry):
            raise ModelError(f"{path}: {_DAMAGED} (what follows {entry.name} belongs to no entry); {_ANEW}")
        content: Buffer = whole[start:position]
        if entry.method == _DEFLATED:
            content = _inflated(path, entry, content)
        if crc32(content) != entry.crc:
            raise ModelError(f"{path}: is damaged: the checksum of {entry.name} is wrong; {_ANEW}")
        if not entry.name.endswith("/"):
            contents[entry.name.partition("/")[2]] = content
        position = following
    return contents


def text(path: Path, entries: Mapping[str, Buffer], name: str) -> str:
    """The text of an entry, "" if there is no such entry. Raises `ModelError` if it is no UTF-8."""
    try:
        return bytes(entries.get(name, b"")).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: holds {name}, which is no UTF-8 text; write it anew") from error


def safe(
    path: Path, entries: Mapping[str, Buffer], checked: Callable[[Mapping[str, Buffer]], Mapping[str, Buffer]]
) -> bytes:
    """An archive of the entries that `checked` returns. Raises `ModelError` if it refuses an entry."""
    try:
        return written(checked(entries))
    except Refused as error:
        line = "".join(letter if letter.isprintable() else " " for letter in str(error))
        raise ModelError(f"{path}: {line}") from error
    except RecursionError as error:
        raise ModelError(f"{path}: is nested too deeply; refused") from error


def written(entries: Mapping[str, Buffer]) -> bytes:
    """An archive of these entries in a folder `archive`, uncompressed, in the 64-bit form."""
    parts: list[Buffer] = []
    directory: list[Buffer] = []
    offset = 0
    for name, content in entries.items():
        encoded = f"archive/{name}".encode()
        size, crc = len(content), crc32(content)
        sizes = struct.pack("<2H2Q", 1, 16, size, size)
        local = _LOCAL.pack(b"PK\3\4", 45, _UTF_8, _STORED, 0, 0x21, crc, _MOST_32, _MOST_32, len(encoded), len(sizes))
        parts += [local, encoded, sizes, content]
        places = struct.pack("<2H3Q", 1, 24, size, size, offset)
        central = _CENTRAL.pack(
            b"PK\1\2", 45, 45, _UTF_8, _STORED, 0, 0x21, crc, _MOST_32, _MOST_32, len(encoded), len(places), 0, 0, 0, 0,
            _MOST_32,
        )  # fmt: skip
        directory += [central, encoded, places]
        offset += len(local) + len(encoded) + len(sizes) + size
    length, count = sum(map(len, directory)), len(entries)
    end_64 = _END_64.pack(b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, count, count, length, offset)
    locator = _LOCATOR.pack(b"PK\6\7", 0, offset + length, 1)
    end = _END.pack(b"PK\5\6", 0, 0, _MOST_16, _MOST_16, _MOST_32, _MOST_32, 0)
    return b"".join([*parts, *directory, end_64, locator, end])


def _directory(path: Path, part: Callable[[int, int], Buffer], size: int) -> tuple[list[_Entry], int]:
    """The entries, and the end of their contents. `part(start, length)` reads from a file of `size` bytes."""
    try:
        start, length, count = _end(part, size)
        directory = bytes(part(start, length))
        if len(directory) != length:
            raise ValueError("cut short")
        entries = list(_entries(directory))
    except (struct.error, ValueError) as error:
        raise ModelError(f"{path}: {_DAMAGED} ({error}); {_ANEW}") from error
    if len(entries) != count:
        raise ModelError(f"{path}: {_DAMAGED} ({len(entries)} entries, not {count}); {_ANEW}")
    return entries, start


def _end(part: Callable[[int, int], Buffer], size: int) -> tuple[int, int, int]:
    """The start of the central directory, its length, and its number of entries. Raises `ValueError`."""
    if size < _END.size:
        raise ValueError("no central directory")
    position = size - _END.size
    magic, disk, first_disk, here, count, length, start, comment = _END.unpack(part(position, _END.size))
    if magic != b"PK\5\6" or disk or first_disk or here != count or comment:
        raise ValueError("no central directory at its end")
    before = bytes(part(position - _LOCATOR.size, _LOCATOR.size)) if position >= _LOCATOR.size else b""
    if before.startswith(b"PK\6\7"):
        _, disk, place, disks = _LOCATOR.unpack(before)
        position -= _LOCATOR.size + _END_64.size
        if place != position or position < 0 or disk or disks != 1:
            raise ValueError("no central directory where it should be")
        fields = _END_64.unpack(part(position, _END_64.size))
        magic, own_size, _, _, disk, first_disk, here_64, count_64, length_64, start_64 = fields
        if magic != b"PK\6\6" or own_size != _END_64.size - 12 or disk or first_disk or here_64 != count_64:
            raise ValueError("no 64-bit central directory")
        for short, long, most in (
            (count, count_64, _MOST_16),
            (length, length_64, _MOST_32),
            (start, start_64, _MOST_32),
        ):
            if short not in (most, long):
                raise ValueError("two central directories")
        count, length, start = count_64, length_64, start_64
    if start + length != position:
        raise ValueError("bytes around its central directory belong to no entry")
    return start, length, count


def _entries(directory: bytes) -> Iterable[_Entry]:
    """The entries of a central directory. Raises `ValueError`."""
    position = 0
    while position < len(directory):
        fields = _CENTRAL.unpack_from(directory, position)
        magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, disk, _, _, offset = (
            fields
        )
        position += _CENTRAL.size
        encoded = directory[position : position + name_length]
        extra = directory[position + name_length : position + name_length + extra_length]
        position += name_length + extra_length
        if magic != b"PK\1\2" or len(extra) != extra_length or comment or disk:
            raise ValueError("a broken central directory")
        if flags & ~_FLAGS or method not in (_STORED, _DEFLATED):
            raise ValueError("an entry that is encrypted or packed in an unusual way")
        size, packed, offset = _extended(extra, size, packed, offset)
        if method == _STORED and size != packed:
            raise ValueError("a stored entry of two sizes")
        yield _Entry(encoded.decode(), flags, method, crc, packed, size, offset)


def _extended(extra: bytes, *values: int) -> tuple[int, ...]:
    """The values, with `0xFFFFFFFF` replaced from the 64-bit extra field. Raises `ValueError`."""
    long = [value == _MOST_32 for value in values]
    if not any(long):
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            replaced = iter(struct.unpack_from(f"<{sum(long)}Q", extra, position + 4))
            return tuple(next(replaced) if is_long else value for is_long, value in zip(long, values, strict=True))
        position += 4 + length
    raise ValueError("a size is missing")


def _check_names(path: Path, all_names: list[str]) -> None:
    """Refuse names that lead outside, that occur twice or differ only in case, and a second folder."""
    folders, known = set(), set()
    for name in all_names:
        folder, slash, _ = name.partition("/")
        steps = name.removesuffix("/").split("/")
        if not slash or "\\" in name or not name.isprintable() or not {"", ".", ".."}.isdisjoint(steps):
            raise ModelError(f"{path}: holds an entry named {name[:80]!r}; refused")
        if name.casefold() in known:
            raise ModelError(f"{path}: holds two entries named {name[:80]!r}; refused")
        known.add(name.casefold())
        folders.add(folder)
    if len(folders) != 1:
        raise ModelError(f"{path}: holds {len(folders)} folders where torch writes one; refused")


def _after_header(path: Path, entry: _Entry, whole: memoryview) -> int:
    """The start of an entry's content. Raises `ModelError` if its local header differs from the directory."""
    try:
        fields = _LOCAL.unpack_from(whole, entry.offset)
        magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
        position = entry.offset + _LOCAL.size
        encoded = bytes(whole[position : position + name_length])
        extra = bytes(whole[position + name_length : position + name_length + extra_length])
        if magic != b"PK\3\4" or (flags, method, encoded.decode()) != (entry.flags, entry.method, entry.name):
            raise ValueError("another header")
        empty = bool(flags & _DESCRIPTOR) and (crc, packed, size) in ((0, 0, 0), (0, _MOST_32, _MOST_32))
        if not empty and (crc, *_extended(extra, size, packed)) != (entry.crc, entry.size, entry.packed):
            raise ValueError("another size or checksum")
    except (struct.error, ValueError) as error:
        raise ModelError(f"{path}: is damaged: the header of {entry.name} is wrong; {_ANEW}") from error
    return int(position + name_length + extra_length)


def _descriptors(entry: _Entry) -> set[bytes]:
    """The bytes that may stand between an entry's content and the next entry."""
    if not entry.flags & _DESCRIPTOR:
        return {b""}
    short = [min(n, _MOST_32) for n in (entry.packed, entry.size)]
    forms = struct.pack("<3I", entry.crc, *short), struct.pack("<I2Q", entry.crc, entry.packed, entry.size)
    return {start + form for start in (b"", b"PK\7\x08") for form in forms}


def _inflated(path: Path, entry: _Entry, content: Buffer) -> bytes:
    """A deflated entry's content, at most as long as its header says."""
    inflater = zlib.decompressobj(-15)
    try:
        inflated = inflater.decompress(content, entry.size + 1)
    except zlib.error as error:
        raise ModelError(f"{path}: is damaged: {entry.name} cannot be inflated; {_ANEW}") from error
    if len(inflated) != entry.size or not inflater.eof or inflater.unused_data:
        raise ModelError(f"{path}: is damaged: {entry.name} is not as long as its header says; {_ANEW}")
    return inflated
