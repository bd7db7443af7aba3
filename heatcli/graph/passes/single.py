"""The graph for one image, of an artifact with a fixed batch size whose images do not stay apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from heatcli.graph.kinds import classified, mark_first
from heatcli.graph.operator import Graph, Operator, Ref, renamed

COPIES, FIRST_ROW = "input_copies", "first_row"


def single(graph: Graph) -> Graph:
    """The graph of one image's score: the image is repeated to fill the batch, and only the first output row is kept.

    The other copies have no score, so no relevance reaches them, and all booked values belong to this image.
    """
    n, *rest = graph.input_shape
    repeat = _repeat(graph)
    operators = [repeat, *_on_copies(graph, repeat)]
    output, shape = graph.output, graph.output_shape
    if shape[:1] == (n,):
        row = (1, *shape[1:])
        operators.append(
            _layout(FIRST_ROW, torch.ops.aten.slice.Tensor, (Ref(output), 0, 0, 1), row, graph.dtype, shape)
        )
        output, shape = FIRST_ROW, row
    guards = tuple(
        (replace(guard, input_shape=(1, *rest), operators=(repeat, *_on_copies(guard, repeat))), number)
        for guard, number in graph.guards
    )
    return mark_first(
        replace(
            graph, input_shape=(1, *rest), operators=tuple(operators), output=output, output_shape=shape, guards=guards,
            chosen_on=None if graph.chosen_on is None else graph.chosen_on[:1], copies=n,
        )
    )  # fmt: skip


def _repeat(graph: Graph) -> Operator:
    """The image n times. A copy, not a view, since an operator may read memory by strides."""
    n, *rest = graph.input_shape
    dtype = next((op.dtype for op in graph.operators if graph.input in op.sources), torch.get_default_dtype())
    times = [n, *(1 for _ in rest)]
    return _layout(
        COPIES, torch.ops.aten.repeat.default, (Ref(graph.input), times), graph.input_shape, dtype, (1, *rest)
    )


def _layout(
    name: str, target: Callable[..., Any], args: tuple[object, ...], shape: tuple[int, ...], dtype: torch.dtype,
    of: tuple[int, ...],
) -> Operator:  # fmt: skip
    """`target(*args)`, a layout of its first argument, which has shape `of`."""
    source = args[0]
    assert isinstance(source, Ref)
    return classified(
        Operator(
            name=name, target=target, args=args, kwargs={}, index=None, shape=shape, dtype=dtype,
            sources=(source.name,), source_shapes=(of,),
        )
    )  # fmt: skip


def _on_copies(graph: Graph, repeat: Operator) -> tuple[Operator, ...]:
    """The graph's operators, with the copies as their input."""
    return tuple(renamed(op, {graph.input: repeat.name}) for op in graph.operators)
