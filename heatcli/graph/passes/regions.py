"""The matcher: parts of a graph that are a function of one value, and what function they are.

An exporter may write one function in many ways, so a region is not compared operator by operator. It is run, in
float64 with the artifact's own constants, and what it gives is compared with what an operator of a table gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from heatcli.graph.operator import Constant, Graph, Operator, Ref

POINTWISE = frozenset(
    """add sub rsub mul div neg pow square exp exp2 expm1 log log2 log1p sqrt rsqrt reciprocal abs sign tanh erf erfc
    sigmoid log_sigmoid_forward softplus relu leaky_relu prelu _prelu_kernel elu celu silu gelu mish hardswish
    hardsigmoid hardtanh clamp clamp_min clamp_max maximum minimum threshold softshrink hardshrink where masked_fill
    addcmul addcdiv ge gt le lt eq ne logical_not bitwise_not logical_or
    logical_and bitwise_or bitwise_and clone alias detach _to_copy""".split()
)
_LARGEST = 40  # operators of a region; no function of the tables is written in half as many


@dataclass(frozen=True, eq=False)
class Region:
    """The operators, in forward order, on all ways from the value `source` to the output of the last of them.

    Nothing else reads what lies between.
    """

    source: str
    source_shape: tuple[int, ...]
    operators: tuple[Operator, ...]

    @property
    def end(self) -> Operator:
        """The operator whose output the region's is."""
        return self.operators[-1]

    @property
    def constants(self) -> list[Constant]:
        """The artifact's tensors in it, in order."""
        return [c for op in self.operators for c in op.constants]

    @property
    def numbers(self) -> list[float]:
        """Every number in it, those that are tensors of one element too."""
        leaves = [x for op in self.operators for x in pytree.tree_leaves((op.args, dict(op.kwargs)))]
        tensors = [float(c.value) for c in leaves if isinstance(c, Constant) and c.value.numel() == 1]
        return [*tensors, *(float(x) for x in leaves if type(x) in (int, float))]

    def __call__(self, x: Tensor) -> Tensor | None:
        """Its output in float64 where `source` is `x`; None where an operator does not take that."""
        values = {self.source: x}
        try:
            for op in self.operators:
                args, kwargs = pytree.tree_map(lambda leaf, op=op: _given(op, leaf, values), (op.args, dict(op.kwargs)))
                returned = op.target(*args, **kwargs)
                values[op.name] = returned if op.index is None else returned[op.index]
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        return values[self.end.name]

    def at(self, points: Tensor) -> Tensor | None:
        """Its output [P, …] at the numbers `points` [P], `…` as its constants are shaped, if it is pointwise.

        None where it is not, or not the same for all images.
        """
        if any(not is_pointwise(op) or op.shape != self.source_shape for op in self.operators):
            return None
        try:
            shape = torch.broadcast_shapes(*(squeezed(c.value).shape for c in self.constants))  # type: ignore[no-untyped-call]
        except RuntimeError:
            return None
        if shape.numel() == 1:
            return self(points)
        dims = len(self.source_shape)
        if len(shape) > dims or (len(shape) == dims and shape[0] != 1):
            return None
        shape = (*(1,) * (dims - len(shape)), *shape)
        return self(points.reshape(-1, *(1,) * (dims - 1)).expand(-1, *shape[1:]))

    def name_of(self, value: Tensor) -> str | None:
        """The name of the artifact's tensor in the region that has those values; None where there is none."""
        flat = value.double().cpu().flatten()
        for constant in self.constants:
            own = constant.value if constant.value.numel() == flat.numel() else squeezed(constant.value)
            own = own.double().cpu().flatten()
            if own.numel() == flat.numel() and constant.value.numel() > 1 and torch.allclose(own, flat, 1e-6, 1e-9):
                return constant.name
        return None

    def constant(self, name: str, value: Tensor) -> Constant:
        """A constant that was computed from the region's, of the dtype of its output and on their device."""
        device = next((c.value.device for c in self.constants), torch.device("cpu"))
        return Constant(name, value.to(device, self.end.dtype))


def _given(op: Operator, leaf: Any, values: dict[str, Tensor]) -> Any:
    """An argument as a region is run with it."""
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
    """A tensor without what broadcasting adds: of size 1 along dimensions along which it does not vary."""
    for d, size in enumerate(value.shape):
        if size > 1 and bool((value == value.narrow(d, 0, 1)).all()):
            value = value.narrow(d, 0, 1)
    return value.reshape(()) if value.numel() == 1 else value


def is_pointwise(op: Operator) -> bool:
    """Whether each element of its output depends on the elements of its inputs in that place alone."""
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
                first = self._met(first, name)
            self.through[op.name], self._depth[op.name] = first, self._depth[first] + 1

    def _met(self, a: str, b: str) -> str:
        """The last value that all ways to `a` and all to `b` lead through."""
        while a != b:
            if self._depth[a] < self._depth[b]:
                a, b = b, a
            a = self.through[a]
        return a

    def ending_in(self, end: Operator, allowed: Callable[[Operator], bool]) -> Iterator[Region]:
        """The regions of `allowed` operators that end in `end`, the smallest first."""
        source, found = end.name, {end.name}
        while source in self.by_name and allowed(end) and end.sources:
            source = self.through[source]
            ahead = [end.name, *found]
            while ahead:
                for name in self.by_name[ahead.pop()].refs:
                    if name != source and name not in found:
                        if not allowed(self.by_name[name]) or len(found) == _LARGEST:
                            return
                        found.add(name)
                        ahead.append(name)
            inner = found - {end.name}
            if self.output in inner or any(not self.readers[name] <= found for name in inner):
                return
            if source in self.shapes:
                operators = tuple(self.by_name[name] for name in sorted(found, key=self.place.__getitem__))
                yield Region(source, self.shapes[source], operators)
            if source not in self.by_name or not allowed(self.by_name[source]):
                return
            found.add(source)
