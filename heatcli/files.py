"""Files, local or behind a URL (`s3://…`, through fsspec), so that a reader sees the old one or the new, never half."""

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
from pathlib import Path
from typing import IO, Any, TypeVar

from heatcli.errors import HeatcliError, ImageError, UsageError, first_line, reason

Stamp = tuple[int, ...]
TRIES = 4  # of an object store that fails
PAUSE = 0.1  # seconds after the first failure, doubled after each
_T = TypeVar("_T")
TEXT = 1 << 24  # bytes of a small text that is read: a sidecar, a spec, labels


def stamp(path: Path) -> Stamp | None:
    """What differs once a file is another one or has other content; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def reading(path: Path | str, what: str, way_out: str) -> Iterator[None]:
    """The boundary of a reader of our own files: whatever goes wrong inside is one line that names the file.

    `what` the file should be, and the user's `way_out`. Raises `UsageError`.
    """
    try:
        yield
    except HeatcliError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {reason(error)}; {way_out}") from error
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise UsageError(f"{path}: is no {what}, or a damaged one; {way_out}") from error


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """The boundary of a writer: what the system refuses is one line that names the file. Raises `UsageError`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {reason(error)}") from error


def is_url(name: str | Path) -> bool:
    """Whether `name` is a URL for fsspec rather than a path here."""
    return "://" in str(name)


def joined(folder: str, part: str) -> str:
    """A path below a folder, local or remote, as pathlib would write it."""
    if is_url(folder):
        return f"{folder.rstrip('/')}/{part}"
    return str(Path(folder, part))


def write_atomically(path: Path | str, content: bytes, scratch: Path | None = None) -> None:
    """Write to a temporary name (in `scratch`, or else in the same folder), then rename.

    Raises `UsageError` where that cannot be done, `ImageError` where only this name is too long.
    """
    folder, name = os.path.split(path)  # names, not paths: this is called a million times
    temporary = os.path.join(scratch or folder, f".{name}.{os.getpid()}.{threading.get_ident()}.tmp")  # noqa: PTH118
    try:
        _dump(temporary, content)
        try:
            os.replace(temporary, path)  # noqa: PTH105
        except FileNotFoundError:  # the folder is not there yet
            Path(folder).mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        if isinstance(error, OSError):
            kind = ImageError if error.errno == errno.ENAMETOOLONG else UsageError
            raise kind(f"{path}: cannot be written: {reason(error)}") from error
        raise


def _dump(name: str, content: bytes) -> None:
    """Write a new file by bare system calls: `open` takes several times as long for small ones."""
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        write_all(file, content)
    finally:
        os.close(file)


def write_all(file: int, content: bytes) -> None:
    """Write all of it to a file descriptor. Raises `OSError`."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def synced(path: Path, content: bytes) -> None:
    """Write a new file, and wait until the disk has it. Raises `OSError`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where the system can."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def remove(name: str) -> None:
    """Remove a file, local or remote, where that can be done."""
    with contextlib.suppress(Exception):  # each store raises its own
        if is_url(name):
            system, path = remote(name)
            system.rm_file(path)
        else:
            os.unlink(name)  # noqa: PTH108


# What the name of one file is refused for: others in the same folder can be written.
_OWN_FAULTS = frozenset(
    {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
)


def is_own_fault(error: BaseException | None) -> bool:
    """Whether a file could not be written for its own name, so that others still can: not a full disk, say."""
    return isinstance(error, OSError) and error.errno in _OWN_FAULTS


def write(name: str, content: bytes, scratch: Path | None = None) -> None:
    """Write a whole file, local or remote: object stores show it once it is complete. Raises `UsageError`."""
    if not is_url(name):
        write_atomically(name, content, scratch)
        return
    system, path = remote(name)

    def send() -> None:
        """Try once."""
        try:
            system.pipe_file(path, content)
        except FileNotFoundError:  # a store that has folders, and not this one yet
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, content)

    try:
        persistent(send)
    except Exception as error:  # each store raises its own
        raise UsageError(f"{name}: cannot be written: {first_line(error)}") from error


def persistent(action: Callable[[], _T]) -> _T:
    """What comes of a call to an object store, which may fail now and then; raises what it raises in the end."""
    for number in range(TRIES - 1):
        try:
            return action()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise  # an answer
        except Exception:  # each store raises its own
            time.sleep(PAUSE * 2**number)
    return action()


_KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def open_regular(path: Path | str) -> IO[bytes]:
    """Open a regular file to read. Raises `OSError`, also for a FIFO, a device, a socket, a directory; never waits."""
    _regular(os.stat(path))  # noqa: PTH116  (before it is opened: to open a device can do something)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(path, flags), "rb")  # noqa: PTH123, SIM115  (a descriptor; closed by the caller)
    try:
        _regular(os.fstat(file.fileno()))  # it may be another one by now
    except OSError:
        file.close()
        raise
    return file


def _regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "none")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")


def read_regular(path: Path | str, most: int | None = None) -> bytes:
    """The content of a regular file of at most so many bytes. Raises `OSError`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {most:,} are read")
        return file.read(size)


def is_folder(path: Path | str) -> bool:
    """Whether it is a folder; a name that no file can have is none (`Path.is_dir` raises for some)."""
    return os.path.isdir(path)  # noqa: PTH112


def is_there(path: Path | str) -> bool:
    """Whether anything has that name: also a link that leads nowhere, which is an error and not an absence."""
    return os.path.lexists(path)


def read(name: str, most: int | None = None) -> bytes:
    """The content of a regular file, or of a remote one; `most`: bytes that are read of a local one at most.

    Raises `OSError`, or `ImageError` where a store fails otherwise.
    """
    if not is_url(name):
        return read_regular(name, most)
    system, path = remote(name)
    try:
        content: bytes = persistent(lambda: system.cat_file(path))
    except OSError:
        raise
    except Exception as error:  # each store raises its own
        raise ImageError(f"{name}: cannot be read: {first_line(error)}") from error
    return content


def size(name: str) -> int | None:
    """The size of a file in bytes, local or remote; None where there is none."""
    try:
        if not is_url(name):
            return os.stat(name).st_size  # noqa: PTH116  (twice as fast, and called a million times)
        system, path = remote(name)
        return int(persistent(lambda: system.size(path)))
    except FileNotFoundError:
        return None
    except OSError:
        if is_url(name):  # whether it is there is not known
            raise
        return None


def remote(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. Raises `UsageError` where it is not to be had."""
    try:
        import fsspec
    except ImportError as error:
        raise UsageError(
            f"{url}: URLs need fsspec; pip install 'heatcli[ray]', or fsspec and the store's own"
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(f"{url}: cannot be opened: {first_line(error)}") from error
    return system, path


def make_folder(folder: Path) -> None:
    """Make sure that `folder` exists and can be written to. Raises `UsageError`."""
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
    """Hold the lock on a file that exists."""
    with path.open("rb") as file:
        _lock(file, wait=True)
        yield


SCRATCH = ".heatcli-"


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for half-written files inside `folder`, gone afterwards; those of killed processes are removed too."""
    made = Path(tempfile.mkdtemp(prefix=".new-heatcli-", dir=folder))
    with (made / "lock").open("wb") as lock:
        _lock(lock, wait=True)
        own = made.rename(folder / made.name.replace(".new-heatcli-", SCRATCH))  # seen by others once it is locked
        try:
            for other in folder.glob(f"{SCRATCH}*"):
                _remove_dead(other)
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _remove_dead(folder: Path) -> None:
    """Remove a scratch folder that no process holds any more."""
    with contextlib.suppress(OSError), (folder / "lock").open("rb") as lock:
        if _lock(lock, wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[bytes], wait: bool) -> bool:
    """Whether the lock on an open file was had; it ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: runs that share a folder are on their own
        return wait
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
