"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def npz(arrays: Mapping[str, Any]) -> bytes:
    """An `.npz` file of arrays by name."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
