"""What a folder's index was made with, so that one folder never mixes two: `run.json`, written by the first run."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

import heatcli
from heatcli.artifact.model import Model
from heatcli.artifact.sidecar import Output
from heatcli.errors import UsageError
from heatcli.files import reading, sync_folder, synced, writing
from heatcli.images.baselines import Reference
from heatcli.run.request import Request

RECORD = "run.json"
NAME = "heatcli.run/1"
_WAY_OUT = "give another folder"
_ANEW = f"{_WAY_OUT}, or delete run.json and the index to explain everything anew"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters that results depend on, each under the name of its option."""

    schema: str = NAME
    version: str = heatcli.__version__
    parameters: dict[str, Any]


def record_of(model: Model, request: Request) -> Record:
    """Everything that what is written depends on, but for the images."""
    parameters = {
        "model": model.sha256,
        "input": msgspec.to_builtins(model.input),
        "labels": _digest("\n".join(model.labels).encode()) if model.labels else None,
        "inputs": {name: _digest(_bytes(value)) for name, value in model.others.items()},
        "head": model.head or 0,
        "output": msgspec.to_builtins(model.output) if model.output != Output() else None,
        "passes": [*model.artifact.rewrites, *model.passes],
        "method": request.method.name,
        "param": request.method.parameters,
        "procedure": repr(request.method.procedure),
        "rules": {kind: repr(rule) for kind, rule in request.method.rules.items()},
        "baseline": _with_content(_named(request.baseline), model),
        "target": request.target or "top",
        "region": _with_content(request.region),
        "pixels": request.pixels,
        "cmap": request.cmap,
        "opacity": request.opacity,
        "recursive": request.recursive,
    }
    return Record(parameters=msgspec.to_builtins(parameters))


def read_record(path: Path, name: str = "") -> Record:
    """The record in a file; `name`: what the user knows the file as. Raises `UsageError`."""
    name = name or str(path)
    with reading(name, "record of a run", _ANEW):
        found = msgspec.json.decode(path.read_bytes(), type=Record)
    if found.schema != NAME:
        raise UsageError(f"{name}: is of another version of heatcli, {found.schema}, not {NAME}; {_WAY_OUT}")
    return found


def agree(own: Record, other: Record, where: str, otherwise: str = "holds a run with other parameters") -> None:
    """Check that a folder's record is like this run's. Raises `UsageError`, naming what differs."""
    here, there = _flat(msgspec.json.decode(msgspec.json.encode(own.parameters))), _flat(other.parameters)
    different = [name for name in here | there if here.get(name) != there.get(name)]
    if different:
        pairs = [(name, *_apart(there.get(name), here.get(name))) for name in different[:3]]
        told = "; ".join(f"{name} {_short(theirs)}, not {_short(ours)}" for name, theirs, ours in pairs)
        folder = where.removesuffix(RECORD).rstrip("/") or "."
        raise UsageError(f"{folder}: {otherwise} ({told}); {_WAY_OUT}")


def claim(folder: Path, own: Record) -> Path:
    """The record in `folder`, written if there is none. Raises `UsageError` if it is of a run with other parameters."""
    path = folder / RECORD
    temporary = folder / f".{RECORD}.{os.getpid()}.tmp"
    try:
        with writing(path):
            synced(temporary, msgspec.json.format(msgspec.json.encode(own), indent=1) + b"\n")
            try:
                path.hardlink_to(temporary)  # fails if it exists, also where another run makes it at this moment
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


def _named(baseline: str | Reference | None) -> str | None:
    return baseline.name if isinstance(baseline, Reference) else baseline


def _with_content(text: str | None, model: Model | None = None) -> Any:
    """An option that may name a file, and that file's hash."""
    name = (text or "").partition(":")[2] or text or ""
    path = Path(name)
    if text == "mean" and model is not None and model.mean_file is not None:
        path = model.mean_file
    try:
        return [text, _digest(path.read_bytes())] if text and path.is_file() else text
    except OSError:
        return text


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _bytes(value: Tensor) -> bytes:
    return repr((value.dtype, tuple(value.shape))).encode() + value.detach().cpu().contiguous().numpy().tobytes()


def _apart(a: Any, b: Any) -> tuple[Any, Any]:
    """Two values that differ; of lists of names, what only one of them has."""
    lists = all(isinstance(x, list) and all(isinstance(item, str) for item in x) for x in (a, b))
    if not lists or set(a) == set(b):
        return a, b
    return [item for item in a if item not in b], [item for item in b if item not in a]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else text[:12] + "…"
