"""What an artifact contains: format, input, operators by kind, biases, parameters."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import msgspec

from heatcli.artifact.model import Model
from heatcli.graph.kinds import UNKNOWN
from heatcli.graph.operator import Reading


def draft_sidecar(model: Model) -> str:
    """The text of a sidecar that says what is known of `model`, to be corrected by hand."""
    spec = model.input
    size = f"[{', '.join(map(str, spec.shape))}]" if spec.shape else "[224, 224]  # not known: correct this"

    def numbers(value: Any) -> str:
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
        + (f'\n[baseline]\nmean = "{model.mean_file.name}"\n' if model.mean_file else "")
    )


def _output_part(model: Model) -> str:
    """What is said of the output, where something is."""
    said = [f"axis = {model.output.axis}\n"] if model.output.axis is not None else []
    said += [f'kind = "{model.output.kind}"\n'] if model.output.kind is not None else []
    return f"[output]\n{''.join(said)}\n" if said else ""


def inspect(model: Model) -> dict[str, Any]:
    """A description of `model`, ready for JSON. Captures it once. Raises `ModelError`."""
    shape = (model.batch_size or 1, *model.input_shape)
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
            "shape": [model.batch_size, *model.input_shape],
            "mean": model.input.mean,
            "std": model.input.std,
            "resize": model.input.resize,
            "order": model.input.order or "rgb",
            "told_by": model.told_by or None,
        },
        "outputs": [
            {
                "number": number,
                "name": one.name,
                "shape": list(one.shape),
                "dtype": str(one.dtype)[6:],
                "explained": number == (model.head or 0),
            }
            for number, one in enumerate(graph.returned)
        ],
        "output": {
            "classes": reading.classes,
            "axis": reading.axis,
            "why": reading.why,
            "kind": reading.kind,
            "unclear": reading.unclear or None,
            "labels": list(model.labels),
            "ends": reading.ends.lstrip("_") or None,
            "final": None if graph.final is None else graph.final.title.lstrip("_"),
        },
        "verified": None if graph.verified is None else {**asdict(graph.verified), "seconds": model.compared_in},
        "operators": [
            {"kind": kind, "operator": title, "count": count, "rule": kind != UNKNOWN}
            for (kind, title), count in sorted(counts.items())
        ],
        "biases": [{"name": name, "operator": op, "size": size} for name, (op, size) in biases.items()],
        "parameters": sum(c.value.numel() for c in constants if c.value.is_floating_point()),
    }
