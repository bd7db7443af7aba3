"""The record of a run's parameters: `run.json`, written by the first run into a folder.

A run with other parameters writes `run.RUN.json`. RUN is a hash of the parameters, and also stands in the run's lines
of the index.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from heatcli.errors import UsageError
from heatcli.system.files import reading, sync_folder, synced, writing
from heatcli.version import __version__

RECORD = "run.json"
NAME = "heatcli.run/1"
_WAY_OUT = "give another folder"
_ANEW = f"{_WAY_OUT}, or --overwrite to explain everything anew"
OTHERS = "run.*.json"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters that the results depend on, by the name of the option."""

    schema: str = NAME
    version: str = __version__
    parameters: dict[str, Any]


def read_record(path: Path, name: str = "") -> Record:
    """The record in a file. `name`: the file's name for messages. Raises `UsageError`."""
    name = name or str(path)
    with reading(name, "record of a run", _ANEW):
        found = msgspec.json.decode(path.read_bytes(), type=Record)
    if found.schema != NAME:
        raise UsageError(f"{name}: is of another version of heatcli, {found.schema}, not {NAME}; {_WAY_OUT}")
    return found


def name_of(run: str | None) -> str:
    """The name of a run's record: `run.json` for None, else `run.RUN.json`."""
    return RECORD if run is None else f"run.{run}.json"


def is_like(own: Record, other: Record) -> bool:
    """Whether two records hold the same parameters."""
    return not _different(own, other)


def run_of(record: Record) -> str:
    """The mark of a record's parameters: 12 hexadecimal digits of their SHA-256."""
    plain = msgspec.json.encode(_plain(record), order="deterministic")
    return hashlib.sha256(plain).hexdigest()[:12]


def _plain(record: Record) -> dict[str, Any]:
    """The parameters of a record as plain data."""
    return _flat(msgspec.json.decode(msgspec.json.encode(record.parameters)))


_FOLLOW = ("procedure", "rules")  # parameters that follow from the method and its options


def _different(own: Record, other: Record) -> list[str]:
    here, there = _plain(own), _plain(other)
    return [name for name in here | there if here.get(name) != there.get(name)]


def agree(own: Record, other: Record, where: str, otherwise: str = "holds a run with other parameters") -> None:
    """Check that a folder's record `other` has the parameters of `own`. Raises `UsageError` with the differences.

    `where`: the record's path. `otherwise`: the message, before the differences.
    """
    if different := _different(own, other):
        here, there = _plain(own), _plain(other)
        shown = [name for name in different if not name.startswith(_FOLLOW)] or different
        pairs = [(name, *_differing(there.get(name), here.get(name))) for name in shown[:3]]
        differences = "; ".join(f"{name} {_short(theirs)}, not {_short(ours)}" for name, theirs, ours in pairs)
        folder = where.removesuffix(RECORD).rstrip("/") or "."
        raise UsageError(f"{folder}: {otherwise} ({differences}); {_WAY_OUT}")


def claim(folder: Path, own: Record, run: str | None = None) -> Path:
    """Write the record into `folder` unless it is there, and return its path.

    Raises `UsageError` if the record there has other parameters.
    """
    path = folder / name_of(run)
    temporary = folder / f".{RECORD}.{os.getpid()}.tmp"
    try:
        with writing(path):
            synced(temporary, msgspec.json.format(msgspec.json.encode(own), indent=1) + b"\n")
            try:
                path.hardlink_to(temporary)  # fails if the path exists, even if another run creates it at this moment
            except FileExistsError:
                agree(own, read_record(path), str(path))
            sync_folder(folder)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def _flat(parameters: dict[str, Any]) -> dict[str, Any]:
    """`{"param": {"epsilon": 1}}` as `{"param epsilon": 1}`."""
    return {
        f"{name} {key}".strip(): inner
        for name, value in parameters.items()
        for key, inner in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _differing(a: Any, b: Any) -> tuple[Any, Any]:
    """Two values that differ; of two lists of names, the names that only one list has."""
    lists = all(isinstance(x, list) and all(isinstance(item, str) for item in x) for x in (a, b))
    if not lists or set(a) == set(b):
        return a, b
    return [item for item in a if item not in b], [item for item in b if item not in a]


def _short(value: Any) -> str:
    """A value in a few words; None is what nobody gave."""
    if value is None:
        return "by default"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else text[:12] + "…"
