"""The matcher: regions of a graph that are a function of one value, and which function.

Exporters write one function in many ways, so regions are not compared operator by operator. A region is run in
float64 with the artifact's own constants, and its output is compared with the output of each operator of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatcli.graph.nested import leaves, mapped
from heatcli.graph.operator import Constant, Graph, Operator, Ref

POINTWISE = frozenset(
    """add sub rsub mul div neg pow square exp exp2 expm1 log log2 log1p sqrt rsqrt reciprocal abs sign tanh erf erfc
    sigmoid log_sigmoid_forward softplus relu leaky_relu prelu _prelu_kernel elu celu silu gelu mish hardswish
    hardsigmoid hardtanh clamp clamp_min clamp_max maximum minimum threshold softshrink hardshrink where masked_fill
    addcmul addcdiv ge gt le lt eq ne logical_not bitwise_not logical_or
    logical_and bitwise_or bitwise_and clone alias detach _to_copy""".split()
)
_LARGEST = 40  # operators in a region; every function of the tables needs fewer than half as many


@dataclass(frozen=True, eq=False)
class Region:
    """The operators, in forward order, on all paths from the value `source` to the output of the last operator.

    No other operator reads the values in between.
    """

    source: str
    source_shape: tuple[int, ...]
    operators: tuple[Operator, ...]

    @property
    def end(self) -> Operator:
        """The operator whose output is the region's output."""
        return self.operators[-1]

    @property
    def constants(self) -> list[Constant]:
        """The artifact's tensors in the region, in order."""
        return [c for op in self.operators for c in op.constants]

    @property
    def numbers(self) -> list[float]:
        """Every number in the region, including tensors of one element."""
        every = [x for op in self.operators for x in leaves((op.args, op.kwargs))]
        tensors = [float(c.value) for c in every if isinstance(c, Constant) and c.value.numel() == 1]
        return [*tensors, *(float(x) for x in every if type(x) in (int, float))]

    def __call__(self, x: Tensor) -> Tensor | None:
        """The region's output in float64 for `source` = `x`; None if an operator does not accept the input."""
        values = {self.source: x}
        try:
            for op in self.operators:
                args, kwargs = mapped(partial(_given, op, values), (op.args, op.kwargs))
                returned = op.target(*args, **kwargs)
                values[op.name] = returned if op.index is None else returned[op.index]
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        return values[self.end.name]

    def at(self, points: Tensor) -> Tensor | None:
        """The output [P, …] at the numbers `points` [P] of a pointwise region; `…` is the shape of its constants.

        None if the region is not pointwise, or differs between images.
        """
        if any(not is_pointwise(op) or op.shape != self.source_shape for op in self.operators):
            return None
        try:
            shape = np.broadcast_shapes(*(squeezed(c.value).shape for c in self.constants))  # torch's imports sympy
        except ValueError:
            return None
        if math.prod(shape) == 1:
            return self(points)
        dims = len(self.source_shape)
        if len(shape) > dims or (len(shape) == dims and shape[0] != 1):
            return None
        shape = (*(1,) * (dims - len(shape)), *shape)
        return self(points.reshape(-1, *(1,) * (dims - 1)).expand(-1, *shape[1:]))

    def name_of(self, value: Tensor) -> str | None:
        """The name of the artifact's tensor in the region with those values, of any shape; None if there is none."""
        flat = value.double().cpu().flatten()
        for constant in self.constants:
            same = constant.value if constant.value.numel() == flat.numel() else squeezed(constant.value)
            same = same.double().cpu().flatten()
            if same.numel() == flat.numel() and constant.value.numel() > 1 and torch.allclose(same, flat, 1e-6, 1e-9):
                return constant.name
        return None

    def constant(self, name: str, value: Tensor) -> Constant:
        """A constant computed from the region's constants, on their device, in the dtype of the output.

        `value`: of any shape.
        """
        device = next((c.value.device for c in self.constants), torch.device("cpu"))
        return Constant(name, value.to(device, self.end.dtype))


def _given(op: Operator, values: dict[str, Tensor], leaf: Any) -> Any:
    """An argument as the region's run uses it: on the CPU, floating point as float64."""
    if isinstance(leaf, Ref):
        return values[leaf.name]
    if isinstance(leaf, Constant):
        value = leaf.value.detach().cpu()
        value = squeezed(value) if is_pointwise(op) else value
        return value.double() if value.is_floating_point() else value
    if isinstance(leaf, torch.dtype) and leaf.is_floating_point:
        return torch.float64
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def squeezed(value: Tensor) -> Tensor:
    """A tensor of any shape, with size 1 along every dimension along which it is constant: undoes broadcasting."""
    for d, size in enumerate(value.shape):
        if size > 1 and bool((value == value.narrow(d, 0, 1)).all()):
            value = value.narrow(d, 0, 1)
    return value.reshape(()) if value.numel() == 1 else value


def is_pointwise(op: Operator) -> bool:
    """Whether each output element depends only on the input elements at the same position."""
    return op.title in POINTWISE


class Regions:
    """The regions of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.output = graph.output
        self.by_name = {op.name: op for op in graph.operators}
        self.place = {op.name: i for i, op in enumerate(graph.operators)}
        self.shapes = {graph.input: graph.input_shape, **{op.name: op.shape for op in graph.operators if op.sources}}
        self.readers: dict[str, set[str]] = {}
        for op in graph.operators:
            for name in op.refs:
                self.readers.setdefault(name, set()).add(op.name)
        self.through, self._depth = {graph.input: graph.input}, {graph.input: 0}
        for op in graph.operators:
            first, *rest = op.refs
            for name in rest:
                first = self._meeting_point(first, name)
            self.through[op.name], self._depth[op.name] = first, self._depth[first] + 1

    def _meeting_point(self, a: str, b: str) -> str:
        """The last value that all paths to `a` and all paths to `b` pass through."""
        while a != b:
            if self._depth[a] < self._depth[b]:
                a, b = b, a
            a = self.through[a]
        return a

    def ending_in(self, end: Operator, allowed: Callable[[Operator], bool]) -> Iterator[Region]:
        """The regions of `allowed` operators that end in `end`, smallest first."""
        source, members = end.name, {end.name}
        while source in self.by_name and allowed(end) and end.sources:
            source = self.through[source]
            ahead = [end.name, *members]
            while ahead:
                for name in self.by_name[ahead.pop()].refs:
                    if name != source and name not in members:
                        if not allowed(self.by_name[name]) or len(members) == _LARGEST:
                            return
                        members.add(name)
                        ahead.append(name)
            inner = members - {end.name}
            if self.output in inner or any(not self.readers[name] <= members for name in inner):
                return
            if source in self.shapes:
                operators = tuple(self.by_name[name] for name in sorted(members, key=self.place.__getitem__))
                yield Region(source, self.shapes[source], operators)
            if source not in self.by_name or not allowed(self.by_name[source]):
                return
            members.add(source)
