"""If, Loop and Scan, sequences and optional values, executed in Python."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Call
from heatcli.artifact.onnx.tensors import dtype_of
from heatcli.artifact.onnx.value import Operator, Value


def _if(call: Call, condition: Tensor) -> tuple[Value, ...]:
    """ONNX's If. Runs the branch that the condition selects."""
    return call.body("then_branch" if bool(condition) else "else_branch")()


def _loop(call: Call, most: Tensor | None, condition: Tensor | None, *state: Value) -> tuple[Value, ...]:
    """ONNX's Loop. Runs the body until its condition is false or `most` runs are done; stacks the scanned outputs."""
    body = call.body("body")
    limit = None if most is None else int(most)
    going = condition is None or bool(condition)
    scanned: list[list[Tensor]] = [[] for _ in range(len(call.node.outputs) - len(state))]
    count, values = 0, list(state)
    device = next((v.device for v in (most, condition, *state) if isinstance(v, Tensor)), torch.device("cpu"))
    while going and (limit is None or count < limit):
        number = torch.tensor(count, device=device)
        again, *outputs = body(number, torch.tensor(True, device=device), *values)
        values = outputs[: len(state)]
        for kept, value in zip(scanned, outputs[len(state) :], strict=False):
            kept.append(value)
        count, going = count + 1, bool(again)
    return (*values, *(torch.stack(kept) if kept else torch.zeros(0, device=device) for kept in scanned))


def _scan(call: Call, *inputs: Value) -> tuple[Value, ...]:
    """ONNX's Scan. Runs the body along an axis of the scanned inputs; carries the state on."""
    if call.opset < 9:
        raise ValueError("opset 8 has a Scan of its own, which heatcli does not know")
    count = call.get("num_scan_inputs")
    values, sequences = list(inputs[:-count]), inputs[-count:]
    axes = list(call.get("scan_input_axes") or [0] * count)
    back = list(call.get("scan_input_directions") or [0] * count)
    body, steps = call.body("body"), sequences[0].shape[axes[0]]
    scanned: list[list[Tensor]] = [[] for _ in range(len(call.node.outputs) - len(values))]
    for i in range(steps):
        places = [steps - 1 - i if b else i for b in back]
        parts = [torch.select(s, axis, j) for s, axis, j in zip(sequences, axes, places, strict=True)]
        outputs = body(*values, *parts)
        for kept, value in zip(scanned, outputs[len(values) :], strict=False):
            kept.append(value)
        values = list(outputs[: len(values)])
    ways = list(call.get("scan_output_directions") or [0] * len(scanned))
    along = list(call.get("scan_output_axes") or [0] * len(scanned))
    ordered = (list(reversed(kept)) if way else kept for kept, way in zip(scanned, ways, strict=True))
    return (*values, *(torch.stack(kept, axis) for kept, axis in zip(ordered, along, strict=True)))


def _sequence_at(call: Call, values: list[Value], place: Tensor) -> Value:
    """ONNX's SequenceAt."""
    return values[int(place)]


def _insert(call: Call, values: list[Value], value: Value, place: Tensor | None = None) -> tuple[list[Value]]:
    """ONNX's SequenceInsert."""
    at = len(values) if place is None else int(place) % (len(values) + 1) if int(place) >= 0 else int(place)
    at = at + len(values) if at < 0 else at
    return ([*values[:at], value, *values[at:]],)


def _erase(call: Call, values: list[Value], place: Tensor | None = None) -> tuple[list[Value]]:
    """ONNX's SequenceErase."""
    at = (len(values) - 1 if place is None else int(place)) % len(values)
    return ([*values[:at], *values[at + 1 :]],)


def _split(call: Call, x: Tensor, size: Tensor | None = None) -> tuple[list[Tensor]]:
    """ONNX's SplitToSequence."""
    axis = call.get("axis", 0)
    if size is None:
        parts = torch.split(x, 1, axis)
        keep = call.get("keepdims", 1)
        return (
            list(parts)
            if keep
            else [torch.reshape(p, [n for d, n in enumerate(p.shape) if d != axis % x.dim()]) for p in parts],
        )
    sizes: Any = int(size) if not size.dim() else [v.item() for v in size.unbind()]
    return (list(torch.split(x, sizes, axis)),)


def _join(call: Call, values: list[Tensor]) -> Tensor:
    """ONNX's ConcatFromSequence."""
    axis = call.get("axis")
    return torch.stack(values, axis) if call.get("new_axis", 0) else torch.cat(values, axis)


def _has(call: Call, value: Value = None) -> Tensor:
    """ONNX's OptionalHasElement."""
    return torch.tensor(value is not None)


def _number_of(call: Call, values: list[Value]) -> Tensor:
    """ONNX's SequenceLength."""
    return torch.tensor(len(values))


def _map(call: Call, values: list[Value], *more: Value) -> tuple[list[Value], ...]:
    """ONNX's SequenceMap."""
    body = call.body("body")
    rows = [body(v, *(m[i] if isinstance(m, list) else m for m in more)) for i, v in enumerate(values)]
    return tuple([row[i] for row in rows] for i in range(len(call.node.outputs)))


def _empty(call: Call) -> tuple[list[Value]]:
    """ONNX's SequenceEmpty."""
    dtype_of(call.get("dtype", 1))
    return ([],)


OPERATORS: dict[str, Operator] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "SequenceConstruct": lambda call, *values: (list(values),),
    "SequenceEmpty": _empty,
    "SequenceAt": _sequence_at,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceLength": _number_of,
    "SequenceMap": _map,
    "SplitToSequence": _split,
    "ConcatFromSequence": _join,
    "Optional": lambda call, value=None: (value,),
    "OptionalGetElement": lambda call, value: (value,),
    "OptionalHasElement": _has,
}
