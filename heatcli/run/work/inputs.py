"""From what was given to the names of images: folders, patterns, lists, URLs; and shards of them."""

from __future__ import annotations

import glob
import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePath

from heatcli.errors import UsageError, boundary, printable
from heatcli.images.read import SUFFIXES
from heatcli.run.index.index import number_of
from heatcli.system.files import is_folder, is_there, is_url, read_regular, remote

STDIN = "-"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"\x93NUMPY", b"PK\x03\x04")
LEVELS = 3  # of names of outputs, see `Found.stem`
LISTS = (".txt", ".list", ".lst")
LONGEST = 1 << 32  # bytes of a list: tens of millions of names


class Names:
    """Many strings in little memory: their bytes, and where each ends."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("Q")

    def append(self, name: str) -> None:
        """One more."""
        self._text += os.fsencode(name)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:
        return os.fsdecode(bytes(self._text[self._ends[i - 1] if i else 0 : self._ends[i]]))


def stem_of(part: str, mirror: bool) -> str:
    """A name without its suffix; without its folders, too, unless outputs `mirror` them. Slashes on any system.

    Bytes that are no UTF-8 are escaped, so that the index can hold the stem of what failed for them.
    """
    path = PurePath(part.partition("://")[2] or part)
    folders = [name for name in path.parts[:-1] if name not in ("..", path.anchor)] if mirror else []
    return printable("/".join([*folders, path.stem]))


class Found:
    """The images a run is asked for, by name: each one's path, and the stem of its outputs.

    A shard is of those stems, so that images whose outputs collide meet in one.
    """

    def __init__(self, mirror: bool, shard: tuple[int, int] | None = None) -> None:
        self._names, self._mirror, self._shard = Names(), mirror, shard
        self._starts, self._roots = [0], [0]  # from which number on how many characters are the folder's own
        self.empty = list[str]()  # what was given and holds no images, in words

    def add(self, names: Iterable[str], root: str = "") -> int:
        """Names that all begin with `root`; the number of those in any shard."""
        self._starts.append(len(self._names))
        self._roots.append(len(root))
        count = 0
        for name in names:
            count += 1
            if self._shard is None or self._has(name[len(root) :], *self._shard):
                self._names.append(name)
        return count

    def _has(self, part: str, k: int, n: int) -> bool:
        return number_of(stem_of(part, self._mirror)) % n == k - 1

    def __len__(self) -> int:
        return len(self._names)

    def path(self, i: int) -> str:
        """The path of image `i`, as given."""
        return self._names[i]

    def stem(self, i: int, level: int = 0) -> str:
        """What the names of its outputs begin with, below the output folder.

        `level`: how much of its own name the stem holds: 0 as little as need be, 1 its suffix, 2 its folders, too.
        """
        name = self._names[i]
        part = name[self._roots[bisect_right(self._starts, i) - 1] :] if level < LEVELS - 1 else name
        stem = stem_of(part, self._mirror or level == LEVELS - 1)
        return stem if level == 0 else f"{stem}{printable(PurePath(name).suffix)}"


def find(
    inputs: Iterable[Path | str],
    recursive: bool,
    pattern: str | None,
    shard: tuple[int, int] | None,
    out: str,
    suffixes: Collection[str] = SUFFIXES,
) -> Found:
    """The images that `inputs` stand for, in their order, each folder's by name. Raises `UsageError` for none.

    What lies in `out` is left out where folders are searched recursively.
    """
    found, named, ends = Found(recursive, shard), False, tuple(suffixes)
    for given in map(str, inputs):
        given = given if is_url(given) else str(Path(given))
        if _is_folder(given):
            root = "" if given == "." else given.rstrip("/") + "/"
            if found.add(_in_folder(given, root, recursive, pattern, out, ends), root):
                named = True
            else:
                kind = "no images" if pattern is None else f"nothing that matches {pattern}"
                found.empty.append(f"{given}: {kind} in this folder")
        elif given == STDIN or given.endswith(LISTS):
            found.add(_listed(given))
            named = True
        elif _is_pattern(given):
            if found.add(_matching(given)):
                named = True
            else:
                found.empty.append(f"{given}: no file matches this pattern")
        else:
            found.add([given])
            named = True
    if found.empty and not named:
        raise UsageError("; ".join(found.empty))
    return found


def is_many(given: Path | str) -> bool:
    """Whether an input stands for any number of images: a folder, a pattern or a list."""
    name = str(given)
    return name == STDIN or name.endswith(LISTS) or _is_folder(name) or _is_pattern(name)


def _is_pattern(name: str) -> bool:
    return glob.has_magic(name) and (is_url(name) or not is_there(name))


def _is_folder(name: str) -> bool:
    if is_url(name):
        system, path = remote(name)
        return not glob.has_magic(name) and bool(system.isdir(path))
    return is_folder(name)


def _listed(given: str) -> Iterator[str]:
    """The names in a list, one a line, or separated by NUL where there is one."""
    with boundary("stdin" if given == STDIN else given, UsageError, "cannot be read as a list of images"):
        try:
            content = sys.stdin.buffer.read() if given == STDIN else read_regular(given, LONGEST)
        except FileNotFoundError as error:
            raise UsageError(f"{given}: no such list of images") from error
    if content.startswith(_MAGIC):
        name = "stdin" if given == STDIN else given
        raise UsageError(f"{name}: is an image, not a list of images; give the image's own name")
    zero = b"\0" in content
    names = [name if zero else name.rstrip(b"\r") for name in content.split(b"\0" if zero else b"\n")]
    if not any(names):
        raise UsageError(f"{'stdin' if given == STDIN else given}: lists no images")
    return (os.fsdecode(name) for name in names if name)


def _in_folder(
    given: str, root: str, recursive: bool, pattern: str | None, out: str, ends: tuple[str, ...]
) -> Iterator[str]:
    if is_url(given):
        yield from _in_remote(given, recursive, pattern, ends)
    elif pattern is not None:
        whole = f"**/{pattern}" if recursive and "/" not in pattern else pattern
        inner = os.path.realpath(out)
        for part in sorted(glob.glob(whole, root_dir=given, recursive=True)):  # noqa: PTH207  (names, not paths)
            if not is_folder(root + part) and not _below(root + part, inner):
                yield root + part
    else:
        yield from _scan(given, root, recursive, os.path.realpath(out), ends)


def _below(name: str, folder: str) -> bool:
    return os.path.realpath(name).startswith(folder + os.sep)


def _scan(folder: str, root: str, recursive: bool, out: str, ends: tuple[str, ...]) -> Iterator[str]:
    """What has an image's suffix and is no folder, by name; then, one by one, the folders below.

    A link that leads nowhere, a FIFO, a folder below that cannot be listed: each is named like an image, so that it
    fails like one when it is read.
    """
    with boundary(folder, UsageError, "cannot be listed"), os.scandir(folder) as entries:
        files, folders = [], []
        for entry in entries:
            if entry.name.lower().endswith(ends) and not _leads_to_folder(entry):
                files.append(entry.name)
            elif recursive and entry.is_dir(follow_symlinks=False) and os.path.realpath(entry.path) != out:
                folders.append(entry.name)
    for name in sorted(files):
        yield root + name
    for name in sorted(folders):
        below = _scan(root + name, f"{root}{name}/", recursive, out, ends)
        try:
            first = next(below, None)
        except UsageError:
            yield root + name
            continue
        if first is not None:
            yield first
            yield from below


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _in_remote(given: str, recursive: bool, pattern: str | None, ends: tuple[str, ...]) -> Iterator[str]:
    system, path = remote(given)
    base = path.rstrip("/")
    if pattern is not None:
        names = system.glob(f"{base}/**/{pattern}" if recursive and "/" not in pattern else f"{base}/{pattern}")
    else:
        names = system.find(base, maxdepth=None if recursive else 1)
    for name in sorted(names):
        if pattern is not None or name.lower().endswith(ends):
            yield f"{given.rstrip('/')}/{name[len(base) :].lstrip('/')}"


def _matching(pattern: str) -> Iterator[str]:
    if not is_url(pattern):
        return (name for name in sorted(glob.glob(pattern, recursive=True)) if not is_folder(name))  # noqa: PTH207
    system, path = remote(pattern)
    return (str(system.unstrip_protocol(name)) for name in sorted(system.glob(path)))
