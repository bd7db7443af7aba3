"""The parameters that the results of a run depend on, as the record beside the index holds them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from heatcli.artifact.sidecar import Output
from heatcli.figures.draw import Style
from heatcli.images.baselines import Reference
from heatcli.methods.pairs import COSINE
from heatcli.model.model import Model
from heatcli.report.build import ALL
from heatcli.run.index.record import Record
from heatcli.run.work.pair import Other
from heatcli.run.work.request import Request
from heatcli.system.files import digest


def record_of(model: Model, request: Request) -> Record:
    """Everything that the written files depend on, except the images. Files count by the SHA-256 of their content."""
    parameters = {
        "model": model.sha256,
        "input": msgspec.to_builtins(model.input),
        "labels": _digest("\n".join(model.labels).encode()) if model.labels else None,
        "inputs": {name: _digest(_bytes(value)) for name, value in model.capture.others.items()},
        "head": model.capture.head or 0,
        "output": _changed(model.settings.output, Output()) or None,
        "passes": [*model.artifact.rewrites, *model.capture.passes],
        "method": request.method.name,
        "param": request.method.parameters,
        "procedure": repr(request.method.procedure),
        "rules": {kind: repr(rule) for kind, rule in request.method.rules.items()},
        "baseline": _with_content(_baseline_name(request.baseline), model),
        "target": request.target or "top",
        "region": _with_content(request.region),
        "pixels": request.pixels,
        "cmap": request.style.cmap,
        "opacity": request.style.opacity,
        **_pair(request),
        **({} if request.expected is None else {"expected": _with_content(request.expected.given)}),
        **({} if request.biases == ALL else {"biases": request.biases}),
        **_changed_style(request),
        **_beside(model),
        "recursive": request.recursive,
    }
    return Record(parameters=msgspec.to_builtins(parameters))


def _changed_style(request: Request) -> dict[str, Any]:
    """The parts of the style that differ from the default."""
    changed = _changed(request.style, Style())
    found = {name: value for name, value in changed.items() if name not in ("cmap", "opacity")}
    return {**({"figure": found} if found else {}), **({"arrays": request.arrays} if request.arrays else {})}


def _changed(given: Any, default: Any) -> dict[str, Any]:
    """The fields that differ from the default. Records of older runs do not have fields that came later."""
    own, usual = msgspec.to_builtins(given), msgspec.to_builtins(default)
    return {name: value for name, value in own.items() if value != usual[name]}


def _beside(model: Model) -> dict[str, Any]:
    """What lies beside the artifact, or is named by flags, as far as there is any: records of older runs lack it."""
    settings, artifact = model.settings, model.artifact
    anchors = settings.anchors
    found = {
        "external data": {name: digest(model.path.parent / name) for name in artifact.external_data},
        "anchors": "" if anchors is None else _digest(_bytes(anchors.boxes)),
        "named inputs": msgspec.to_builtins(dict(settings.inputs)),
        "concept names": settings.concepts and _digest(msgspec.json.encode(settings.concepts)),
    }
    return {name: value for name, value in found.items() if value}


def _baseline_name(baseline: str | Reference | None) -> str | None:
    return baseline.name if isinstance(baseline, Reference) else baseline


def _pair(request: Request) -> dict[str, Any]:
    """The other picture of pairs; records of runs without one say nothing of it."""
    pair = request.pair
    if pair is None:
        return {}
    path = pair.path if isinstance(pair, Other) else pair
    return {"pair": _with_content(path), "similarity": request.similarity or COSINE}


def _with_content(text: str | None, model: Model | None = None) -> Any:
    """The value of an option; if the value names a file or a folder, also a SHA-256 of what it holds."""
    name = (text or "").partition(":")[2] or text or ""
    path = Path(name)
    if text == "mean" and model is not None and model.pictures.mean_file is not None:
        path = model.pictures.mean_file
    try:
        if text and path.is_dir():  # too much to read: the names and sizes of its files
            files = sorted((str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*"))
            return [text, _digest(repr(files).encode())]
        return [text, _digest(path.read_bytes())] if text and path.is_file() else text
    except OSError:
        return text


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _bytes(value: Tensor) -> bytes:
    return repr((value.dtype, tuple(value.shape))).encode() + value.detach().cpu().contiguous().numpy().tobytes()
