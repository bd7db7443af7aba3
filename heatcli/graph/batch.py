"""One capture for batches of any size: two captures show which numbers in the graph are the batch size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from heatcli.graph.operator import Constant, Graph, Operator, Ref, Returned
from heatcli.system.torch_private import pytree


class _DiffersError(Exception):
    """The two graphs differ in more than their batch size."""


def rebatched(one: Graph, other: Graph, n: int) -> Graph | None:
    """The graph for `n` images, computed from two graphs of one artifact for two other batch sizes.

    Every whole number that differs between the two graphs must be a·N + b for batch size N, and constants must have
    the same shapes. Else the result is None, and the artifact has to be captured for `n` images.
    """
    try:
        return _Between(one, other, n).graph()
    except _DiffersError:
        return None


class _Between:
    """The graph for `n` images, from `one` and `other`, two graphs of one artifact for `first` and `second` images."""

    def __init__(self, one: Graph, other: Graph, n: int) -> None:
        self.one, self.other, self.n = one, other, n
        self.first, self.second = one.input_shape[0], other.input_shape[0]

    def graph(self) -> Graph:
        """The whole graph for n images."""
        one, other = self.one, self.other
        if len(one.operators) != len(other.operators) or one.output != other.output or self.first == self.second:
            raise _DiffersError
        if one.reading != other.reading or len(one.returned) != len(other.returned):
            raise _DiffersError
        return replace(
            one,
            input_shape=self.shape(one.input_shape, other.input_shape),
            output_shape=self.shape(one.output_shape, other.output_shape),
            operators=tuple(self.operator(a, b) for a, b in zip(one.operators, other.operators, strict=True)),
            final=None if one.final is None or other.final is None else self.operator(one.final, other.final),
            returned=self.returned(),
        )

    def returned(self) -> tuple[Returned, ...]:
        """The returned tensors for n images."""
        pairs = zip(self.one.returned, self.other.returned, strict=True)
        return tuple(replace(a, shape=self.shape(a.shape, b.shape)) for a, b in pairs)

    def operator(self, a: Operator, b: Operator) -> Operator:
        """The operator for n images, from the same operator for `first` and for `second` images."""
        if (a.name, a.target, a.index, a.kind, a.sources) != (b.name, b.target, b.index, b.kind, b.sources):
            raise _DiffersError
        if [o.value.shape for o in a.offsets] != [o.value.shape for o in b.offsets]:
            raise _DiffersError
        (leaves, spec), (others, other_spec) = (pytree.tree_flatten((op.args, dict(op.kwargs))) for op in (a, b))
        if spec != other_spec:
            raise _DiffersError
        args, kwargs = pytree.tree_unflatten([self.leaf(x, y) for x, y in zip(leaves, others, strict=True)], spec)
        return replace(
            a, args=args, kwargs=kwargs, shape=self.shape(a.shape, b.shape),
            source_shapes=tuple(self.shape(x, y) for x, y in zip(a.source_shapes, b.source_shapes, strict=True)),
        )  # fmt: skip

    def leaf(self, x: Any, y: Any) -> Any:
        """One argument for n images."""
        if type(x) is int and type(y) is int:
            return self.number(x, y)
        if isinstance(x, Constant) and isinstance(y, Constant):
            same = x.name == y.name and x.value.shape == y.value.shape
        else:
            same = isinstance(x, Ref) == isinstance(y, Ref) and bool(x == y)
        if not same:
            raise _DiffersError
        return x

    def number(self, x: int, y: int) -> int:
        """The whole number a·n + b that is x for `first` images and y for `second`."""
        step, remainder = divmod(y - x, self.second - self.first)
        if remainder or (x < 0) != (y < 0):  # a negative number counts from the end, or stands for another
            raise _DiffersError
        return x + step * (self.n - self.first)

    def shape(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        """A shape for n images."""
        if len(x) != len(y):
            raise _DiffersError
        return tuple(self.number(i, j) for i, j in zip(x, y, strict=True))
