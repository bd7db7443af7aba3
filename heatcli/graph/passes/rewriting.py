"""Helpers for passes: how often a value is read, new operators, replacement of operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from heatcli.graph.kinds import classified
from heatcli.graph.nested import leaves
from heatcli.graph.operator import Constant, Graph, Operator, Ref, needed_for

Pass = Callable[[Graph], Graph]


def uses(graph: Graph) -> Counter[str]:
    """How often each value is read. The graph's output counts as one more read."""
    return Counter([*(name for op in graph.operators for name in op.refs), graph.output])


def made(
    like: Operator, target: Callable[..., Any], args: tuple[Any, ...], shapes: Mapping[str, tuple[int, ...]],
    name: str = "", shape: tuple[int, ...] | None = None, index: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Operator:  # fmt: skip
    """`target(*args)` in place of `like`, with its name, shape and dtype unless given otherwise, classified.

    `shapes`: shapes of the values it reads, by name; all of them carry the image.
    """
    sources = tuple(x.name for x in leaves(args) if isinstance(x, Ref))
    return classified(
        Operator(
            name=name or like.name, target=target, args=args, kwargs=kwargs or {}, index=index,
            shape=like.shape if shape is None else shape, dtype=like.dtype, sources=sources,
            source_shapes=tuple(shapes[source] for source in sources), node=like.node,
        )
    )  # fmt: skip


def replaced(graph: Graph, by: Mapping[str, tuple[Operator, ...]]) -> Graph:
    """The graph with each operator named in `by` replaced, without operators that the output no longer needs."""
    operators = [new for op in graph.operators for new in by.get(op.name, (op,))]
    return replace(graph, operators=needed_for(graph.output, operators))


def is_filled(x: object, value: float) -> bool:
    """Whether an argument is the number `value`, or a constant tensor filled with it."""
    if isinstance(x, Constant):
        return bool((x.value == value).all())
    return isinstance(x, (int, float)) and x == value
