"""The cache: an artifact's description and its captured graphs, since it was last used.

The cache is a folder of the user, with one file an entry. A file's name is the SHA-256 of everything that the entry
depends on, the artifact's bytes first, which are read and hashed every time. A file holds its own checksum (SHA-256 of
name and content), then its content. A damaged or truncated file, or one of another version, is ignored and rewritten.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor

from heatcli.artifact.artifact import Artifact
from heatcli.artifact.described import Described, described, unopened
from heatcli.errors import ModelError
from heatcli.graph import stored
from heatcli.graph.operator import Graph
from heatcli.system.files import Stamp, digest, stamp, write_atomically
from heatcli.version import __version__

FOLDER = "HEATCLI_CACHE"  # the environment variable that names another folder
LIMIT = 2 << 30  # bytes; least recently used entries are removed first
_OWN = re.compile(r"[0-9a-f]{64}\.(artifact|graph)")  # no other file in the folder is ever removed
_HALF_WRITTEN = re.compile(rf"\.{_OWN.pattern}\.\d+\.\d+\.tmp")  # from killed processes
_CAPTURED_BY = "onnx onnxruntime torchvision".split()
_T = TypeVar("_T")


class Cache:
    """The cache for one artifact. `load` opens the artifact if the cache does not suffice."""

    def __init__(self, path: Path, load: Callable[[Path], Artifact]) -> None:
        self.path, self._load = path, load
        self._stamps: dict[Path, Stamp | None] = {path: stamp(path)}
        self.sha256 = digest(path)
        self._external_data: dict[str, str] = {}
        self._opened: Artifact | None = None

    def artifact(self) -> Artifact:
        """The artifact's description. If it is cached, the file is opened only when its module is requested."""
        key = self._key("artifact")
        known = self._read(key, self._unopened)
        if known is not None:
            return known
        artifact = self._opened = self._load(self.path)
        self._stamps |= {self.path.parent / name: before for name, before in artifact.external_data.items()}
        self._external_data = {name: digest(self.path.parent / name) for name in artifact.external_data}
        self._write(key, [described(artifact, self._external_data)])
        return artifact

    def graph(self, about: Mapping[str, Any], capture: Callable[[], Graph]) -> Graph:
        """The graph that `capture` returns under the conditions `about`, besides those common to all graphs."""
        key = self._key("graph", **about)
        graph = self._read(key, stored.from_bytes)
        if graph is None:
            graph = capture()
            if graph.is_of_every_image and (graph.verified is None or graph.verified.agrees):
                with contextlib.suppress(stored.NotStorableError):
                    self._write(key, stored.to_bytes(graph))
        return graph

    def _unopened(self, content: Tensor) -> Artifact:
        """The cached artifact, unopened. Raises `ValueError` if its other files have changed."""
        known = msgspec.msgpack.decode(content.numpy().data, type=Described)
        paths = {name: self.path.parent / name for name in known.external_data}
        stamps = {path: stamp(path) for path in paths.values()}
        if known.external_data != {name: digest(path) for name, path in paths.items()}:
            raise ValueError("other weights")
        self._stamps |= stamps
        self._external_data = known.external_data
        return unopened(content, self._open)

    def _open(self) -> Artifact:
        """The artifact, opened from its file. Raises `ModelError` if the file has changed."""
        if self._opened is None:
            self._opened = self._load(self.path)
            self.check_unchanged()
        return self._opened

    def check_unchanged(self) -> None:
        """Raise `ModelError` if the artifact's files have changed since they were hashed."""
        if not self._unchanged():
            raise ModelError(f"{self.path}: was changed while it was in use; run again")

    def _key(self, what: str, **about: Any) -> str:
        """The file name for `what`: the SHA-256 of everything it depends on."""
        depends = {"sha256": self.sha256, "external_data": self._external_data, "by": _captured_by(), **about}
        return hashlib.sha256(msgspec.json.encode(depends, order="deterministic")).hexdigest() + f".{what}"

    def _unchanged(self) -> bool:
        """Whether the artifact's files are unchanged since they were hashed."""
        return all(stamp(path) == before for path, before in self._stamps.items())

    def _read(self, key: str, decode: Callable[[Tensor], _T]) -> _T | None:
        """What `decode` makes of an entry; None for a missing or damaged one."""
        try:
            path = folder() / key
            status = path.stat()
            if not S_ISREG(status.st_mode) or status.st_size > LIMIT:  # reading a pipe would never end
                return None
            with path.open("rb") as file:
                content = torch.empty(os.fstat(file.fileno()).st_size, dtype=torch.uint8)
                if file.readinto(content.numpy().data) != len(content):
                    return None
            if content[:64].numpy().tobytes() != _checksum(key, [content[64:].numpy().data]):
                return None
            entry = decode(content[64:])
        except Exception:  # a missing or damaged entry; the caller writes a new one
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # marks the entry as recently used
        return entry

    def _write(self, key: str, parts: Sequence[stored.Buffer]) -> None:
        """Write atomically, then remove old entries. If the folder is not writable, nothing is cached."""
        if not self._unchanged() or sum(map(len, parts)) > LIMIT // 2:
            return
        with contextlib.suppress(Exception):
            folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(folder() / key, b"".join([_checksum(key, parts), *parts]))
            make_room(folder(), LIMIT)


def folder() -> Path:
    """`$HEATCLI_CACHE`, or `heatcli` in the user's cache folder."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    import platformdirs

    try:
        return platformdirs.user_cache_path("heatcli", appauthor=False)
    except RuntimeError:  # a user without a home folder: a path that holds no files
        return Path(os.devnull)


def make_room(folder: Path, limit: int) -> None:
    """Remove the least recently used entries until the cache's files in `folder` take at most `limit` bytes."""
    files = []
    for path, status in _entries(folder):
        if _OWN.fullmatch(path.name):
            files.append((status.st_mtime_ns, status.st_size, path))
        elif _HALF_WRITTEN.fullmatch(path.name) and status.st_mtime < time.time() - 3600:
            path.unlink(missing_ok=True)
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            yield path, path.stat()


def _checksum(key: str, parts: Sequence[stored.Buffer]) -> bytes:
    """The SHA-256 of name and content in hexadecimal, 64 bytes."""
    checksum = hashlib.sha256(key.encode())
    for part in parts:
        checksum.update(part)
    return checksum.hexdigest().encode()


@functools.cache
def _captured_by() -> list[str]:
    """Everything that a graph depends on besides the artifact: the capturing code, its libraries, and the CPU."""
    code, root = hashlib.sha256(), Path(__file__).parents[1]
    rooms = [source for room in ("artifact", "graph", "model") for source in sorted((root / room).rglob("*.py"))]
    for source in (*rooms, root / "system" / "torch_private.py"):
        code.update(source.read_bytes())
    libraries = [f"{name} {version(name)}" for name in _CAPTURED_BY]
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return [__version__, code.hexdigest(), f"torch {torch.__version__}", *libraries, cpu]
