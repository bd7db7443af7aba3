"""Inputs of a run (folders, patterns, lists, URLs) resolved to the names of images, and shards of the names."""

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
LEVELS = 3  # lengths of an output's name, see `Found.stem`
LISTS = (".txt", ".list", ".lst")
LINE = 4096  # bytes of a text's first line that are looked at
LONGEST = 1 << 32  # bytes of a list: tens of millions of names


class Names:
    """A list of strings in little memory: one buffer of bytes, and the end of each string in it."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("Q")

    def append(self, name: str) -> None:
        """Add a name."""
        self._text += os.fsencode(name)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:
        return os.fsdecode(bytes(self._text[self._ends[i - 1] if i else 0 : self._ends[i]]))


def stem_of(part: str, mirror: bool) -> str:
    """A name without its suffix, and without its folders unless `mirror`. The separator is `/` on every system.

    Bytes that are not UTF-8 are escaped, because the index holds the stems of such images as failed.
    """
    path = PurePath(part.partition("://")[2] or part)
    folders = [name for name in path.parts[:-1] if name not in ("..", path.anchor)] if mirror else []
    return printable("/".join([*folders, path.stem]))


class Found:
    """The images of a run: the path of each, and the stem of its outputs.

    Shards divide the stems, not the paths, so that images whose outputs collide are in the same shard.
    """

    def __init__(self, mirror: bool, shard: tuple[int, int] | None = None) -> None:
        self._names, self._mirror, self._shard = Names(), mirror, shard
        self._starts, self._roots = [0], [0]  # images from number `start` on begin with `root` characters of a folder
        self.empty = list[str]()  # a sentence for each input that holds no images

    def add(self, names: Iterable[str], root: str = "") -> int:
        """Add names that begin with `root`, those of the shard only. Returns the number of names in all shards."""
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
        """The path of image `i`, as the user gave it."""
        return self._names[i]

    def stem(self, i: int, level: int = 0) -> str:
        """The stem of image `i`'s outputs, below the output folder.

        `level`: how much of the image's name the stem holds: 0 the name without its suffix, 1 also the suffix, 2 also
        the folders.
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
    """The images that `inputs` stand for, in the order of `inputs`; the images of a folder are sorted by name.

    `suffixes`: of images, lower case. A recursive search leaves out the folder `out`. Raises `UsageError` if there is
    no image, or a list or a folder cannot be read.
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
        elif _is_list(given, ends):
            found.add(_listed(given))
            named = True
        elif _is_pattern(given):
            if found.add(_matching(given)):
                named = True
            else:
                found.empty.append(f"{given}: no file matches this pattern")
        else:
            _check_text(given, ends)
            found.add([given])
            named = True
    if found.empty and not named:
        raise UsageError("; ".join(found.empty))
    return found


def is_many(given: Path | str, suffixes: Collection[str] = SUFFIXES) -> bool:
    """Whether an input can stand for several images: a folder, a pattern or a list. `suffixes`: of images."""
    name = str(given)
    return _is_list(name, tuple(suffixes)) or _is_folder(name) or _is_pattern(name)


def _is_list(name: str, ends: tuple[str, ...]) -> bool:
    """Whether an input is a list of images; a text is none where it is an input itself."""
    return name == STDIN or (name.endswith(LISTS) and not name.endswith(ends))


def _check_text(given: str, ends: tuple[str, ...]) -> None:
    """Raise `UsageError` for a text that is an input itself, and looks like a list of inputs."""
    if given.endswith(LISTS) and not is_url(given) and is_there(given):
        with boundary(given, UsageError, "cannot be read"), Path(given).open("rb") as file:
            name = file.readline(LINE).strip()
        if name.lower().endswith(tuple(map(os.fsencode, ends))) and is_there(os.fsdecode(name)):
            raise UsageError(f"{given}: is a text for this network, and looks like a list of files; name it LIST.lst")


def _is_pattern(name: str) -> bool:
    return glob.has_magic(name) and (is_url(name) or not is_there(name))


def _is_folder(name: str) -> bool:
    """Whether an input is a folder, local or remote."""
    if is_url(name):
        system, path = remote(name)
        return not glob.has_magic(name) and bool(system.isdir(path))
    return is_folder(name)


def _listed(given: str) -> Iterator[str]:
    """The names in a list: separated by NUL if the list contains one, else one per line."""
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
    """The images of a folder, by name. `root`: what their names begin with. `ends`: the suffixes of images."""
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
    """The files with an image's suffix, by name; then the same of each folder below.

    A broken link, a FIFO, and a folder below that cannot be listed count as images: reading them fails, and the run
    reports the failure with their name.
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
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _in_remote(given: str, recursive: bool, pattern: str | None, ends: tuple[str, ...]) -> Iterator[str]:
    """The images of a folder behind a URL, by name."""
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
    """The files that a pattern matches, by name."""
    if not is_url(pattern):
        return (name for name in sorted(glob.glob(pattern, recursive=True)) if not is_folder(name))  # noqa: PTH207
    system, path = remote(pattern)
    return (str(system.unstrip_protocol(name)) for name in sorted(system.glob(path)))
