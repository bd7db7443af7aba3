"""All known operators, by domain and name. A duplicate name raises `KeyError`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
from heatcli.artifact.onnx.value import Operator, Takes

_STANDARD = (
    control, convolution, elementwise, layout, making, normalisation, pooling, quantised, recurrent, reduction, resize,
    signal, vision,
)  # fmt: skip


def _assembled(tables: Iterable[tuple[str, Mapping[str, Operator]]]) -> dict[tuple[str, str], Operator]:
    """All tables as one: (domain, name) → operator. Raises `KeyError` for a duplicate."""
    operators: dict[tuple[str, str], Operator] = {}
    for domain, table in tables:
        for name, operator in table.items():
            if (domain, name) in operators:
                raise KeyError(f"two operators {name!r} of domain {domain!r}")
            operators[domain, name] = operator
    return operators


OPERATORS = _assembled([*(("", module.OPERATORS) for module in _STANDARD), ("com.microsoft", microsoft.OPERATORS)])
# Operators that only move and select numbers, so that they treat integers and real numbers alike.
_MOVING = frozenset(
    """Reshape Transpose Flatten Squeeze Unsqueeze Concat Slice Split Gather Expand Tile Identity DepthToSpace
    SpaceToDepth MaxPool Resize NhwcMaxPool""".split()
)


def takes(domain: str, name: str) -> Takes:
    """How an operator receives quantised values."""
    if name in quantised.OPERATORS or (domain, name) in (("", "Cast"), ("", "Mul"), ("", "Pad")):
        return Takes.QUANTISED
    if domain == "com.microsoft" and name in microsoft.QUANTISED:
        return Takes.QUANTISED
    return Takes.REAL if name in _MOVING else Takes.WHOLE
