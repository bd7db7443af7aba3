"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path

from heatcli.errors import UsageError


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, then rename. Raises `UsageError` where that cannot be done."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


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
