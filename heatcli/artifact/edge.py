"""The edge between heatcli and somebody else's file: whatever is raised behind it is a `ModelError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heatcli.errors import HeatcliError, ModelError, first_line


@contextmanager
def edge(path: Path, what: str) -> Iterator[None]:
    """Raise any exception of the block as a `ModelError` that names the file; `what` could not be done with it.

    An artifact is read by torch, protobuf, ONNX Runtime and code of the artifact's own. Which exceptions they raise for
    a damaged file, nobody can list.
    """
    try:
        yield
    except HeatcliError as error:
        if isinstance(error, ModelError) and str(path) not in str(error):
            raise type(error)(f"{path}: {error}") from error
        raise
    except Exception as error:
        raise ModelError(f"{path}: cannot be {what}: {type(error).__name__}: {first_line(error)}") from error
