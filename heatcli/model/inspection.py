"""An artifact's contents: format, input, operators by kind, biases, parameters."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from heatcli.artifact.artifact import Artifact
from heatcli.artifact.recognise import Format
from heatcli.graph.kinds import UNKNOWN
from heatcli.graph.layers import layers_of, spatial
from heatcli.graph.operator import Reading
from heatcli.model.model import Model


def draft_sidecar(model: Model) -> str:
    """The text of a sidecar with everything known about `model`, to be corrected by hand."""
    spec = model.input
    size = f"[{', '.join(map(str, spec.shape))}]" if spec.shape else "[224, 224]  # not known: correct this"

    def numbers(value: Any) -> str:
        """Numbers as TOML."""
        return str(value) if isinstance(value, float | int) else f"[{', '.join(map(str, value))}]"

    names = ", ".join(msgspec.json.encode(label).decode() for label in model.labels)
    return (
        f"# What heatcli needs to know about {model.path.name}.\n"
        f"[input]\nsize = {size}\nchannels = {spec.channels or 3}\n"
        f"mean = {numbers(spec.mean)}  # of pixels in 0..1\nstd = {numbers(spec.std)}\n"
        f'resize = "{spec.resize}"  # stretch, crop or crop:N\ninterpolation = "{spec.interpolation}"\n'
        + (f'order = "{spec.order}"\n' if spec.order else "")
        + (f'range = "{spec.range}"\n' if spec.range else "")
        + "\n"
        + _output_part(model)
        + (f"[labels]\nnames = [{names}]\n" if names else '# [labels]\n# names = ["first", "second"]\n')
        + (f'\n[baseline]\nmean = "{model.pictures.mean_file.name}"\n' if model.pictures.mean_file else "")
    )


def _output_part(model: Model) -> str:
    """The sidecar's `[output]` table, "" if nothing is known about the output."""
    lines = [f"axis = {model.settings.output.axis}\n"] if model.settings.output.axis is not None else []
    lines += [f'kind = "{model.settings.output.kind}"\n'] if model.settings.output.kind is not None else []
    return f"[output]\n{''.join(lines)}\n" if lines else ""


def outline(path: Path, format: Format, artifact: Artifact, missing: str) -> dict[str, Any]:
    """What an artifact's file says of itself, where it cannot be run yet because `missing` is unknown."""
    return {
        "path": str(path),
        "format": format,
        "inputs": [
            {"name": i.name, "shape": None if i.shape is None else list(i.shape), "dtype": str(i.dtype)[6:]}
            for i in artifact.inputs
        ],
        "missing": missing,
    }


def layers(model: Model) -> list[dict[str, Any]]:
    """Every layer that can be named, in forward order: what `--layer` takes for it, and the shape of its value."""
    graph = model.graph((model.batch_size or 1, *model.pictures.input_shape))
    maps = {op.name for op in spatial(graph)}
    return [
        {
            "name": layer.name,
            "module": layer.module or None,
            "node": layer.operator.node or None,
            "operator": layer.operator.title,
            "shape": list(layer.operator.shape[1:]),
            "weights": layer.parameters[0] if layer.parameters else None,
            "maps": layer.name in maps,
        }
        for layer in layers_of(graph)
    ]


def inspect(model: Model) -> dict[str, Any]:
    """A description of `model`, ready for JSON. Captures the model. Raises `ModelError`, `UsageError`."""
    shape = (model.batch_size or 1, *model.pictures.input_shape)
    graph = model.graph(shape)
    reading = graph.reading or Reading()
    counts = Counter((op.kind or "given", op.title) for op in graph.operators)
    biases = graph.offsets
    constants = {id(c.value): c for op in graph.operators for c in op.constants}.values()
    return {
        "path": str(model.path),
        "sha256": model.sha256,
        "format": model.format,
        "input": {
            "shape": [model.batch_size, *model.pictures.input_shape],
            "kind": "sequence" if model.pictures.alphabet else model.pictures.layout.kind,
            "axes": model.pictures.layout.axes,
            "sized": model.pictures.sized,
            "mean": model.input.mean,
            "std": model.input.std,
            "resize": model.input.resize,
            "order": model.input.order or "rgb",
            "told_by": model.settings.told_by or None,
        },
        "outputs": [
            {
                "number": number,
                "name": one.name,
                "shape": list(one.shape),
                "dtype": str(one.dtype)[6:],
                "explained": graph.boxes is not None or number == (model.capture.head or 0),
            }
            for number, one in enumerate(graph.returned)
        ],
        "output": {
            "classes": reading.classes,
            "axis": reading.axis,
            "why": reading.why,
            "kind": reading.kind,
            "before": list(graph.before),
            "unclear": reading.unclear or None,
            "labels": list(model.labels),
            "ends": reading.ends.lstrip("_") or None,
            "final": None if graph.final is None else graph.final.title.lstrip("_"),
        },
        "explains": None if model.explained is None else msgspec.to_builtins(model.explained),
        "verified": None
        if graph.verified is None
        else {**asdict(graph.verified), "seconds": model.capture.compared_in},
        "operators": [
            {"kind": kind, "operator": title, "count": count, "rule": kind != UNKNOWN}
            for (kind, title), count in sorted(counts.items())
        ],
        "biases": [{"name": name, "operator": op, "size": size} for name, (op, size) in biases.items()],
        "parameters": sum(c.value.numel() for c in constants if c.value.is_floating_point()),
    }
