"""Results of commands as JSON, for stdout and for files. What else a command says is in `say.py`."""

from __future__ import annotations

import sys
from typing import Any


def print_json(record: Any) -> None:
    """Print a record as one line of JSON on stdout, in UTF-8 for any locale."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(record) + b"\n")


def as_json(found: Any) -> bytes:
    """A record as indented JSON with a final line break."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found)) + b"\n"
