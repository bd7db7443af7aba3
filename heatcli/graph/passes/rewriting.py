"""What passes are written with: who reads a value, which operators an output needs, operators that a pass makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch.utils import _pytree as pytree

from heatcli.graph.kinds import classified
from heatcli.graph.operator import Constant, Graph, Operator, Ref

Pass = Callable[[Graph], Graph]


def uses(graph: Graph) -> Counter[str]:
    """How often each value is read; being the output counts as once."""
    return Counter([*(name for op in graph.operators for name in op.refs), graph.output])


def needed_for(output: str, operators: Iterable[Operator]) -> tuple[Operator, ...]:
    """Those of the operators, given in forward order, that the value `output` is computed from."""
    needed, kept = {output}, []
    for op in reversed(list(operators)):
        if op.name in needed:
            needed.update(op.refs)
            kept.append(op)
    return tuple(reversed(kept))


def made(
    like: Operator, target: Callable[..., Any], args: tuple[Any, ...], shapes: Mapping[str, tuple[int, ...]],
    name: str = "", shape: tuple[int, ...] | None = None, index: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Operator:  # fmt: skip
    """`target(*args)` in the place of `like`: of its name, shape and dtype but where others are given, classified.

    `shapes`: of the values that it reads, by name; all of them carry the image.
    """
    sources = tuple(x.name for x in pytree.tree_leaves(args) if isinstance(x, Ref))
    return classified(
        Operator(
            name=name or like.name, target=target, args=args, kwargs=kwargs or {}, index=index,
            shape=like.shape if shape is None else shape, dtype=like.dtype, sources=sources,
            source_shapes=tuple(shapes[source] for source in sources),
        )
    )  # fmt: skip


def replaced(graph: Graph, by: Mapping[str, tuple[Operator, ...]]) -> Graph:
    """The graph with each operator that `by` names in favour of others, and without what nothing needs any more."""
    operators = [new for op in graph.operators for new in by.get(op.name, (op,))]
    return replace(graph, operators=needed_for(graph.output, operators))


def is_filled(x: object, value: float) -> bool:
    """Whether an argument is that number, or a constant full of it."""
    if isinstance(x, Constant):
        return bool((x.value == value).all())
    return isinstance(x, (int, float)) and x == value
