"""The index as Parquet (extra `parquet`): one row per image, or per class with `top:K`."""

from __future__ import annotations

import contextlib
import os
from itertools import islice
from pathlib import Path
from typing import Any

from heatcli.errors import UsageError, first_line
from heatcli.report.schema import LedgerPart
from heatcli.run.index.index import Row, images
from heatcli.system.extras import optional
from heatcli.system.files import writing

ROWS = 10_000  # in memory at once
FILES = ("overlay", "report", "pixels")


def require() -> Any:
    """The module `pyarrow`. Raises `UsageError` if it is not installed."""
    return optional("pyarrow", "Parquet needs pyarrow", "parquet")


def write_parquet(index: Path) -> Path:
    """Write `index.parquet` beside `index.jsonl`, and return its path. Raises `UsageError`.

    The columns are the fields of `Row`; ledger and files have one column per entry.
    """
    pyarrow = require()
    from pyarrow import parquet

    schema = _schema(pyarrow)
    path = index.with_suffix(".parquet")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = (row for found in images(index) for row, _ in found)
    try:
        with writing(path):
            with parquet.ParquetWriter(temporary, schema) as writer:
                while some := list(islice(rows, ROWS)):
                    writer.write_table(pyarrow.Table.from_pylist([_flat(row) for row in some], schema=schema))
            temporary.replace(path)
    except pyarrow.ArrowException as error:
        raise UsageError(f"{path}: cannot be written: {first_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def _schema(pyarrow: Any) -> Any:
    """The columns and their types."""
    text, number, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    return pyarrow.schema(
        [("image", text), ("sha256", text), ("rank", whole), ("method", text), ("index", whole), ("label", text),
         ("score", number), ("probability", number), ("quantity", text),
         *((f"ledger_{name}", number) for name in LedgerPart.__struct_fields__),
         ("biases", pyarrow.map_(text, number)), *((name, text) for name in FILES), ("error", text)]
    )  # fmt: skip


def _flat(row: Row) -> dict[str, Any]:
    """A row's values by column."""
    plain = ("image", "sha256", "rank", "method", "index", "label", "score", "probability", "quantity", "error")
    ledger = {f"ledger_{name}": getattr(row.ledger, name, None) for name in LedgerPart.__struct_fields__}
    files = {name: row.files[name].name if name in row.files else None for name in FILES}
    return {name: getattr(row, name) for name in plain} | ledger | files | {"biases": list(row.biases.items())}
