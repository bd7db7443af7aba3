"""What is known of an artifact since it was last used: what its file says of itself, and its captured graphs.

They lie in the user's cache folder, one file each, named by the SHA-256 of all that they depend on: the bytes of the
artifact first, which are read and hashed every time. A file is its SHA-256 (with its name), then its content. One that
is damaged, cut short or not what this version writes is as good as none: it is made anew from the artifact.
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

import heatcli
from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.errors import ModelError
from heatcli.files import Stamp, digest, stamp, write_atomically
from heatcli.graph import stored
from heatcli.graph.operator import Graph

FOLDER = "HEATCLI_CACHE"  # the environment variable that names another folder
LIMIT = 2 << 30  # bytes; what was not used for longest goes first
_OWN = re.compile(r"[0-9a-f]{64}\.(artifact|graph)")  # nothing else in the folder is ever removed
_HALF_WRITTEN = re.compile(rf"\.{_OWN.pattern}\.\d+\.\d+\.tmp")  # left by a process that was killed
_CAPTURED_BY = "onnx onnxruntime".split()
_T = TypeVar("_T")


class _Input(msgspec.Struct, array_like=True, frozen=True):
    name: str
    shape: tuple[int | None, ...] | None
    dtype: str


class _Artifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of an `Artifact` but the module; `parts`, `stamps`: the other files that it consists of."""

    inputs: tuple[_Input, ...]
    embedded: str
    renamed: dict[str, str]
    rewrites: tuple[str, ...]
    parts: dict[str, str]
    stamps: dict[str, Stamp | None]
    against: str
    remarks: tuple[str, ...] = ()


class Cache:
    """The cache as it serves one artifact; `load` is what opens the artifact where the cache does not know enough."""

    def __init__(self, path: Path, load: Callable[[Path], Artifact]) -> None:
        self.path, self._load = path, load
        self._stamps: dict[Path, Stamp | None] = {path: stamp(path)}
        self.sha256 = digest(path)
        self._parts: dict[str, str] = {}
        self._opened: Artifact | None = None

    def artifact(self) -> Artifact:
        """What the file says of itself; where that is known, it is opened only once its module is asked for."""
        key = self._key("artifact")
        known = self._read(key, self._known)
        if known is not None:
            return known
        artifact = self._opened = self._load(self.path)
        self._stamps |= {self.path.parent / name: before for name, before in artifact.parts.items()}
        self._parts = {name: digest(self.path.parent / name) for name in artifact.parts}
        self._write(key, [described(artifact, self._parts)])
        return artifact

    def graph(self, about: Mapping[str, Any], capture: Callable[[], Graph]) -> Graph:
        """The graph that `capture` yields under the conditions `about`, beside those that hold for all graphs."""
        key = self._key("graph", **about)
        graph = self._read(key, stored.from_bytes)
        if graph is None:
            graph = capture()
            if not graph.guards and (graph.verified is None or graph.verified.agrees):  # it holds for every image
                with contextlib.suppress(stored.NotStorableError):
                    self._write(key, stored.to_bytes(graph))
        return graph

    def _known(self, content: Tensor) -> Artifact:
        """The artifact as it was recorded, unopened. Raises `ValueError` where its other files are not those."""
        known = msgspec.msgpack.decode(content.numpy().data, type=_Artifact)
        paths = {name: self.path.parent / name for name in known.parts}
        stamps = {path: stamp(path) for path in paths.values()}
        if known.parts != {name: digest(path) for name, path in paths.items()}:
            raise ValueError("other weights")
        self._stamps |= stamps
        self._parts = known.parts
        return unopened(content, self._open)

    def _open(self) -> Artifact:
        if self._opened is None:
            self._opened = self._load(self.path)
            self.check_unchanged()
        return self._opened

    def check_unchanged(self) -> None:
        """Raise `ModelError` where the artifact's files are not those that were hashed."""
        if not self._unchanged():
            raise ModelError(f"{self.path}: was changed while it was in use; run again")

    def _key(self, what: str, **about: Any) -> str:
        """The name of the file that holds `what`: the SHA-256 of all that it depends on."""
        depends = {"sha256": self.sha256, "parts": self._parts, "by": _captured_by(), **about}
        return hashlib.sha256(msgspec.json.encode(depends, order="deterministic")).hexdigest() + f".{what}"

    def _unchanged(self) -> bool:
        """Whether the artifact's files are those that were hashed."""
        return all(stamp(path) == before for path, before in self._stamps.items())

    def _read(self, key: str, decode: Callable[[Tensor], _T]) -> _T | None:
        try:
            path = folder() / key
            found_there = path.stat()
            if not S_ISREG(found_there.st_mode) or found_there.st_size > LIMIT:  # a pipe would never end
                return None
            with path.open("rb") as file:
                content = torch.empty(os.fstat(file.fileno()).st_size, dtype=torch.uint8)
                if file.readinto(content.numpy().data) != len(content):
                    return None
            if content[:64].numpy().tobytes() != _checksum(key, [content[64:].numpy().data]):
                return None
            found = decode(content[64:])
        except Exception:  # not there, or whatever is wrong with it: it is not what is written below
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
        return found

    def _write(self, key: str, parts: Sequence[stored.Buffer]) -> None:
        """Write atomically, and make room. A folder that cannot be written to is no error: then nothing is cached."""
        if not self._unchanged() or sum(map(len, parts)) > LIMIT // 2:
            return
        with contextlib.suppress(Exception):
            folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(folder() / key, b"".join([_checksum(key, parts), *parts]))
            make_room(folder(), LIMIT)


def described(artifact: Artifact, parts: Mapping[str, str] | None = None) -> bytes:
    """What the file says of itself, as bytes; `parts`: the SHA-256 of its other files."""
    inputs = tuple(_Input(i.name, i.shape, str(i.dtype)) for i in artifact.inputs)
    record = _Artifact(
        inputs=inputs, embedded=artifact.embedded, renamed=dict(artifact.renamed), rewrites=artifact.rewrites,
        parts=dict(parts or {}), stamps=dict(artifact.parts), against=artifact.against, remarks=artifact.remarks,
    )  # fmt: skip
    return msgspec.msgpack.encode(record)


def unopened(content: Tensor, opened: Callable[[], Artifact]) -> Artifact:
    """The artifact of which `described` made these bytes, opened only once its module is asked for."""
    known = msgspec.msgpack.decode(content.numpy().data, type=_Artifact)

    def run(values: Sequence[Tensor]) -> list[Tensor]:
        """By the runtime of the artifact, opened."""
        runtime = opened().runtime
        return runtime(values) if runtime else []

    def differs(values: Sequence[Tensor]) -> str | None:
        """Likewise, its first node that says something else."""
        first = opened().differs
        return first(values) if first else None

    return Artifact(
        module_for=lambda shapes: opened().module_for(shapes),
        inputs=tuple(InputInfo(i.name, i.shape, stored.torch_name(i.dtype)) for i in known.inputs),
        embedded=known.embedded, renamed=known.renamed, rewrites=known.rewrites, parts=known.stamps,
        runtime=run if known.against else None, against=known.against, differs=differs if known.against else None,
        remarks=known.remarks,
    )  # fmt: skip


def folder() -> Path:
    """`$HEATCLI_CACHE`, or else `heatcli` in the user's cache folder."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    import platformdirs

    try:
        return platformdirs.user_cache_path("heatcli", appauthor=False)
    except RuntimeError:  # a user who has no home: a folder that holds nothing
        return Path(os.devnull)


def make_room(folder: Path, limit: int) -> None:
    """Remove what was not used for longest until the cache's files in `folder` are no more than `limit` bytes."""
    files = []
    for path, found in _entries(folder):
        if _OWN.fullmatch(path.name):
            files.append((found.st_mtime_ns, found.st_size, path))
        elif _HALF_WRITTEN.fullmatch(path.name) and found.st_mtime < time.time() - 3600:
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
    """64 bytes."""
    found = hashlib.sha256(key.encode())
    for part in parts:
        found.update(part)
    return found.hexdigest().encode()


@functools.cache
def _captured_by() -> list[str]:
    """All but the artifact that a graph depends on: the code that captures, its libraries, the CPU that folds."""
    code = hashlib.sha256()
    for room in ("artifact", "graph"):
        for source in sorted((Path(__file__).parents[1] / room).rglob("*.py")):
            code.update(source.read_bytes())
    libraries = [f"{name} {version(name)}" for name in _CAPTURED_BY]
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return [heatcli.__version__, code.hexdigest(), f"torch {torch.__version__}", *libraries, cpu]
