"""Files, local or at a URL (`s3://…`, through fsspec), written so that readers see the old or the new file whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from heatcli.errors import ImageError, UsageError, boundary, first_line, reason
from heatcli.system.extras import optional

Stamp = tuple[int, ...]
TRIES = 4  # attempts at an operation of an object store
PAUSE = 0.1  # seconds after the first failure, doubled after each
_T = TypeVar("_T")
TEXT = 1 << 24  # limit in bytes for small text files: sidecars, specs, labels


def stamp(path: Path) -> Stamp | None:
    """A tuple that changes when the file is replaced or rewritten; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reading(path: Path | str, what: str, way_out: str) -> AbstractContextManager[None]:
    """Boundary for readers of heatcli's own files: any failure inside becomes one line that names the file.

    `what`: the kind of file. `way_out`: advice for the user. Raises `UsageError`.
    """
    return boundary(path, UsageError, damaged=f"is no {what}, or a damaged one", way_out=way_out)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Boundary for writers: an `OSError` becomes one line that names the file. Raises `UsageError`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {reason(error)}") from error


def is_url(name: str | Path) -> bool:
    """Whether `name` is a URL for fsspec rather than a local path."""
    return "://" in str(name)


def joined(folder: str, part: str) -> str:
    """A path below a folder, local or remote, as pathlib writes it."""
    if is_url(folder):
        return f"{folder.rstrip('/')}/{part}"
    return str(Path(folder, part))


MOST_UP = 2  # the most `..` in a path that others are shown


def seen_from(folder: Path | str, name: Path | str) -> str:
    """The name of a file, to be written into a file in `folder` that others read.

    A relative path, or the bare name if that path would climb more than `MOST_UP` folders, so that no path of this
    machine is shown. URLs stay as they are.
    """
    if is_url(name):
        return str(name)
    if not is_url(folder):
        start, end = os.path.abspath(folder), os.path.abspath(name)  # noqa: PTH100  (links stay, no file is touched)
        with contextlib.suppress(ValueError):  # another drive
            common = os.path.commonpath([start, end])
            found = Path(os.path.relpath(end, start))
            if found.parts.count("..") <= MOST_UP and common != os.path.dirname(common):  # noqa: PTH120
                return found.as_posix()
    return Path(name).name


def write_atomically(path: Path | str, content: bytes, scratch: Path | None = None) -> None:
    """Write to a temporary name (in `scratch`, or in the same folder), then rename.

    Raises `UsageError` on failure. `is_own_fault` of its cause says whether other names can be written.
    """
    folder, name = os.path.split(path)  # strings are faster than pathlib, and this runs a million times
    temporary = os.path.join(scratch or folder, f".{name}.{os.getpid()}.{threading.get_ident()}.tmp")  # noqa: PTH118
    try:
        _dump(temporary, content)
        try:
            os.replace(temporary, path)  # noqa: PTH105
        except FileNotFoundError:  # the folder does not exist yet
            Path(folder).mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        if isinstance(error, OSError):
            raise UsageError(f"{path}: cannot be written: {reason(error)}") from error
        raise


def write_json(path: Path, record: Any) -> None:
    """Write a record of msgspec as indented JSON, as `write_atomically`."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def _dump(name: str, content: bytes) -> None:
    """Write a new file by system calls, which are several times faster than `open` for small files."""
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        write_all(file, content)
    finally:
        os.close(file)


def write_all(file: int, content: bytes) -> None:
    """Write all bytes to a file descriptor. Raises `OSError`."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def synced(path: Path, content: bytes) -> None:
    """Write a new file and flush it to disk. Raises `OSError`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, if the system can."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def remove(name: str) -> None:
    """Remove a file, local or remote; failures are ignored."""
    with contextlib.suppress(Exception):  # every store raises its own exceptions
        if is_url(name):
            system, path = remote(name)
            system.rm_file(path)
        else:
            os.unlink(name)  # noqa: PTH108


# Errors that concern one file name: other files in the folder can still be written.
_OWN_FAULTS = frozenset(
    {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
)


def is_own_fault(error: BaseException | None) -> bool:
    """Whether a file could not be written because of its own name, so that others still can be (not a full disk)."""
    return isinstance(error, OSError) and error.errno in _OWN_FAULTS


def write(name: str, content: bytes, scratch: Path | None = None) -> None:
    """Write a whole file, local or remote; object stores show a file only when complete. Raises `UsageError`."""
    if not is_url(name):
        write_atomically(name, content, scratch)
        return
    system, path = remote(name)

    def send() -> None:
        """One attempt."""
        try:
            system.pipe_file(path, content)
        except FileNotFoundError:  # a store with folders, where this folder does not exist yet
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, content)

    try:
        persistent(send)
    except Exception as error:  # every store raises its own exceptions
        raise UsageError(f"{name}: cannot be written: {first_line(error)}") from error


def persistent(action: Callable[[], _T]) -> _T:
    """The result of a call to an object store, with retries. Raises the last attempt's exception."""
    for number in range(TRIES - 1):
        try:
            return action()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise  # a definite answer, not a failure
        except Exception:  # every store raises its own exceptions
            time.sleep(PAUSE * 2**number)
    return action()


_KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def open_regular(path: Path | str) -> IO[bytes]:
    """Open a regular file to read. Raises `OSError`, also for a FIFO, device, socket or directory. Never blocks."""
    _regular(os.stat(path))  # noqa: PTH116  (before opening: opening a device can have side effects)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(path, flags), "rb")  # noqa: PTH123, SIM115  (a descriptor; closed by the caller)
    try:
        _regular(os.fstat(file.fileno()))  # the file may have been replaced
    except OSError:
        file.close()
        raise
    return file


def _regular(status: os.stat_result) -> None:
    """Raise `OSError` if a file is not a regular one."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "none")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")


def read_regular(path: Path | str, most: int | None = None) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises `OSError`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {most:,} are read")
        return file.read(size)


def is_folder(path: Path | str) -> bool:
    """Whether `path` is a folder; False for impossible names, for some of which `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def is_there(path: Path | str) -> bool:
    """Whether the name exists, even as a broken link, which is an error rather than an absence."""
    return os.path.lexists(path)


def read(name: str, most: int | None = None) -> bytes:
    """The content of a regular file or a remote one. `most`: limit in bytes for local files.

    Raises `OSError`, or `ImageError` for other failures of a store.
    """
    if not is_url(name):
        return read_regular(name, most)
    system, path = remote(name)
    try:
        content: bytes = persistent(lambda: system.cat_file(path))
    except OSError:
        raise
    except Exception as error:  # every store raises its own exceptions
        raise ImageError(f"{name}: cannot be read: {first_line(error)}") from error
    return content


def size(name: str) -> int | None:
    """The size of a file in bytes, local or remote; None if there is none."""
    try:
        if not is_url(name):
            return os.stat(name).st_size  # noqa: PTH116  (twice as fast, and called a million times)
        system, path = remote(name)
        return int(persistent(lambda: system.size(path)))
    except FileNotFoundError:
        return None
    except OSError:
        if is_url(name):  # a store's failure does not tell whether the file exists
            raise
        return None


def remote(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. Raises `UsageError` if it is not available."""
    fsspec = optional("fsspec.core", f"{url}: URLs need fsspec", "urls")
    try:
        system, path = fsspec.url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(f"{url}: cannot be opened: {first_line(error)}") from error
    return system, path


def make_folder(folder: Path) -> None:
    """Create `folder` if needed and check that it is writable. Raises `UsageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise UsageError(f"{folder}: is a file, not a folder to write to") from error
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to: {error.strerror}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on an existing file."""
    with path.open("rb") as file:
        _lock(file, wait=True)
        yield


SCRATCH = ".heatcli-"


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder for half-written files inside `folder`. Folders of killed processes are removed too."""
    new = Path(tempfile.mkdtemp(prefix=".new-heatcli-", dir=folder))
    with (new / "lock").open("wb") as lock:
        _lock(lock, wait=True)
        locked_folder = new.rename(folder / new.name.replace(".new-heatcli-", SCRATCH))  # visible only once locked
        try:
            for other in folder.glob(f"{SCRATCH}*"):
                _remove_dead(other)
            yield locked_folder
        finally:
            shutil.rmtree(locked_folder, ignore_errors=True)


def _remove_dead(folder: Path) -> None:
    """Remove a scratch folder that no process holds."""
    with contextlib.suppress(OSError), (folder / "lock").open("rb") as lock:
        if _lock(lock, wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[bytes], wait: bool) -> bool:
    """Whether the lock on an open file was acquired. It is released when the process ends, in any way."""
    try:
        import fcntl
    except ImportError:  # Windows: no locks between runs that share a folder
        return wait
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
