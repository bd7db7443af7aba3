"""What an artifact contains: format, input, operators by kind, biases, parameters."""

from __future__ import annotations

from collections import Counter
from typing import Any

from heatcli.artifact.model import Model
from heatcli.graph.kinds import UNKNOWN


def inspect(model: Model) -> dict[str, Any]:
    """A description of `model`, ready for JSON. Captures it once. Raises `ModelError`."""
    shape = (model.batch_size or 1, *model.shape)
    graph = model.graph(shape)
    counts = Counter((op.kind or "given", op.title) for op in graph.operators)
    biases = graph.offsets()
    constants = {id(c.value): c for op in graph.operators for c in op.constants}.values()
    return {
        "path": str(model.path),
        "sha256": model.sha256,
        "format": model.format,
        "input": {
            "shape": [model.batch_size, *model.shape],
            "mean": model.input.mean,
            "std": model.input.std,
            "resize": model.input.resize,
        },
        "output": {
            "classes": graph.output_shape[-1] if len(graph.output_shape) > 1 else 1,
            "labels": list(model.labels),
            "final": None if graph.final is None else graph.final.title.lstrip("_"),
        },
        "operators": [
            {"kind": kind, "operator": title, "count": count, "rule": kind != UNKNOWN}
            for (kind, title), count in sorted(counts.items())
        ],
        "biases": [{"name": name, "operator": op, "size": size} for name, (op, size) in biases.items()],
        "parameters": sum(c.value.numel() for c in constants if c.value.is_floating_point()),
    }
