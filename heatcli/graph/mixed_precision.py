"""The graph pass `mixed-precision`: bfloat16 where it saves time at little loss of accuracy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from heatcli.graph.facts import facts_of
from heatcli.graph.kinds import LAYOUT, classified, has_weights
from heatcli.graph.operator import Constant, Graph, Operator, Ref, renamed
from heatcli.system.torch_private import pytree

_LOW = torch.bfloat16  # same range as float32, so no loss scaling is needed


def mixed_precision(graph: Graph) -> Graph:
    """Run convolutions and dense layers, and value-preserving operators between them, in bfloat16; the rest in float32.

    As in torch's autocast, except that the last layers, whose outputs are scores, stay in float32. So do nonlinear
    activations that are curved, whose secants divide small differences, and on the CPU grouped convolutions, which are
    slower in bfloat16 there.
    """
    if graph.reads_memory:
        return graph
    last, operators = _last_layers(graph), dict[str, Operator]()

    def is_low(name: str) -> bool:
        return name in operators and operators[name].dtype == _LOW

    def cast(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
        """The name of the value in `dtype`. The cast is added where it does not exist yet."""
        if is_low(name) == (dtype == _LOW):
            return name
        cast_name = f"{name}.{dtype}".replace("torch.", "")
        if cast_name not in operators:
            operators[cast_name] = classified(Operator(
                name=cast_name, target=torch.ops.aten._to_copy.default, args=(Ref(name),), kwargs={"dtype": dtype},
                index=None, shape=shape, dtype=dtype, sources=(name,), source_shapes=(shape,),
            ))  # fmt: skip
        return cast_name

    for op in graph.operators:
        if op.sources and op.dtype == torch.float32:
            down = (_gains(op) and op.name not in last) or (_is_as_good(op) and all(map(is_low, op.refs)))
            dtype = _LOW if down else torch.float32
            names = {s: cast(s, shape, dtype) for s, shape in zip(op.sources, op.source_shapes, strict=True)}
            op = _lowered(renamed(op, names)) if down else renamed(op, names)
        operators[op.name] = op
    return replace(graph, operators=tuple(operators.values()))


def _last_layers(graph: Graph) -> set[str]:
    """Layers with weights that reach the output without another such layer in between."""
    after, last = {graph.output}, set()
    for op in reversed(graph.operators):
        if op.name in after and has_weights(op):
            last.add(op.name)
        elif op.name in after:
            after.update(op.refs)
    return last


def _gains(op: Operator) -> bool:
    """Whether the operator is faster in bfloat16."""
    if op.title == "convolution" and op.arg(8) > 1 and op.constants[0].value.device.type == "cpu":
        return False
    return has_weights(op)


def _is_as_good(op: Operator) -> bool:
    """Whether the output in bfloat16 is as accurate as a rounded float32 output, for bfloat16 inputs."""
    return (facts_of(op).rounds_once or op.kind == LAYOUT) and not op.constants and "dtype" not in op.kwargs


def _lowered(op: Operator) -> Operator:
    """The same operator, with its constants and offsets, in bfloat16."""

    def low(x: Any) -> Any:
        return Constant(x.name, x.value.to(_LOW)) if isinstance(x, Constant) else x

    offsets = tuple(replace(o, value=o.value.to(_LOW)) for o in op.offsets)
    return replace(op, args=pytree.tree_map(low, op.args), dtype=_LOW, offsets=offsets)
