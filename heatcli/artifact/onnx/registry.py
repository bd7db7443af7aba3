"""All operators that heatcli knows, by domain and name; a name that two files claim is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from heatcli.artifact.onnx.node import Operator, Takes
from heatcli.artifact.onnx.operators import (
    control,
    convolution,
    elementwise,
    layout,
    making,
    microsoft,
    normalisation,
    pooling,
    quantised,
    recurrent,
    reduction,
    resize,
    signal,
    vision,
)

_STANDARD = (
    control, convolution, elementwise, layout, making, normalisation, pooling, quantised, recurrent, reduction, resize,
    signal, vision,
)  # fmt: skip


def _assembled(tables: Iterable[tuple[str, Mapping[str, Operator]]]) -> dict[tuple[str, str], Operator]:
    found: dict[tuple[str, str], Operator] = {}
    for domain, table in tables:
        for name, operator in table.items():
            if (domain, name) in found:
                raise KeyError(f"two operators {name!r} of domain {domain!r}")
            found[domain, name] = operator
    return found


OPERATORS = _assembled([*(("", module.OPERATORS) for module in _STANDARD), ("com.microsoft", microsoft.OPERATORS)])
# Operators that only move and choose numbers: what they do to whole ones they do to real ones.
_MOVING = frozenset(
    """Reshape Transpose Flatten Squeeze Unsqueeze Concat Slice Split Gather Expand Tile Identity DepthToSpace
    SpaceToDepth MaxPool Resize NhwcMaxPool""".split()
)


def takes(domain: str, name: str) -> Takes:
    """What an operator is given of quantised values."""
    if name in quantised.OPERATORS or (domain, name) in (("", "Cast"), ("", "Mul"), ("", "Pad")):
        return Takes.QUANTISED
    if domain == "com.microsoft" and name in microsoft.QUANTISED:
        return Takes.QUANTISED
    return Takes.REAL if name in _MOVING else Takes.WHOLE
