"""The graph pass `mixed-precision`: bfloat16 where it saves time and says as much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from heatcli.graph.facts import facts_of
from heatcli.graph.kinds import LAYOUT, classified, has_weights
from heatcli.graph.operator import Constant, Graph, Operator, Ref, renamed

_LOW = torch.bfloat16  # of as wide a range as float32, so that nothing has to be scaled


def mixed_precision(graph: Graph) -> Graph:
    """Run convolutions and dense layers in bfloat16, and what hands values on between them; all else in float32.

    As torch's autocast does, but that the last layers, whose outputs are scores, stay in float32, as do activations
    that curve, whose slopes are quotients of small differences. Grouped convolutions do on the CPU, where they are
    slower in bfloat16.
    """
    if graph.reads_memory:
        return graph
    last, operators = _last_layers(graph), dict[str, Operator]()

    def is_low(name: str) -> bool:
        return name in operators and operators[name].dtype == _LOW

    def cast(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
        """The name of a value in that dtype, which is made where it is not there yet."""
        if is_low(name) == (dtype == _LOW):
            return name
        own = f"{name}.{dtype}".replace("torch.", "")
        if own not in operators:
            operators[own] = classified(Operator(
                name=own, target=torch.ops.aten._to_copy.default, args=(Ref(name),), kwargs={"dtype": dtype},
                index=None, shape=shape, dtype=dtype, sources=(name,), source_shapes=(shape,),
            ))  # fmt: skip
        return own

    for op in graph.operators:
        if op.sources and op.dtype == torch.float32:
            down = (_gains(op) and op.name not in last) or (_is_as_good(op) and all(map(is_low, op.refs)))
            dtype = _LOW if down else torch.float32
            names = {s: cast(s, shape, dtype) for s, shape in zip(op.sources, op.source_shapes, strict=True)}
            op = _lowered(renamed(op, names)) if down else renamed(op, names)
        operators[op.name] = op
    return replace(graph, operators=tuple(operators.values()))


def _last_layers(graph: Graph) -> set[str]:
    """Layers with weights between which and the output there are no others."""
    behind, last = {graph.output}, set()
    for op in reversed(graph.operators):
        if op.name in behind and has_weights(op):
            last.add(op.name)
        elif op.name in behind:
            behind.update(op.refs)
    return last


def _gains(op: Operator) -> bool:
    """Whether it takes less time in bfloat16."""
    if op.title == "convolution" and op.arg(8) > 1 and op.constants[0].value.device.type == "cpu":
        return False
    return has_weights(op)


def _is_as_good(op: Operator) -> bool:
    """Whether what it gives is as good in bfloat16, if what it is given is so already."""
    return (facts_of(op).rounds_once or op.kind == LAYOUT) and not op.constants and "dtype" not in op.kwargs


def _lowered(op: Operator) -> Operator:
    """The same operator in bfloat16, what it adds at zero input, too."""

    def low(x: Any) -> Any:
        return Constant(x.name, x.value.to(_LOW)) if isinstance(x, Constant) else x

    offsets = tuple(replace(o, value=o.value.to(_LOW)) for o in op.offsets)
    return replace(op, args=pytree.tree_map(low, op.args), dtype=_LOW, offsets=offsets)
