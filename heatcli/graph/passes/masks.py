"""The graph pass `join-masks`: adding a mask of −∞ becomes masked_fill.

In x + m with m = −∞ no rule can compute the share of x: every quotient by x + m is −∞/−∞.
"""

from __future__ import annotations

import math

import torch

from heatcli.graph.operator import Constant, Graph, Operator
from heatcli.graph.passes.rewriting import made, replaced

_ATEN = torch.ops.aten


def join_masks(graph: Graph) -> Graph:
    """x + m becomes masked_fill(x, m = −∞, −∞). Finite values of m are added first."""
    return replaced(graph, {op.name: filled for op in graph.operators if (filled := _filled(op))})


def _filled(op: Operator) -> tuple[Operator, ...]:
    """The operators that replace an addition of −∞; () for any other operator."""
    if op.title != "add" or len(op.sources) != 1 or op.source_shapes[0] != op.shape or op.argument("alpha") != 1:
        return ()
    (mask,) = op.constants or (None,)
    if mask is None or not mask.value.is_floating_point() or not bool(mask.value.isneginf().any()):
        return ()
    (x,) = (arg for arg in op.args if arg is not mask)
    is_masked, shapes = mask.value.isneginf(), dict(zip(op.sources, op.source_shapes, strict=True))
    before = []
    rest = torch.where(is_masked, 0, mask.value)
    if bool(rest.any()):
        name = f"{op.name}_unmasked"
        added = tuple(arg if arg is not mask else Constant(mask.name, rest) for arg in op.args)
        before = [made(op, _ATEN.add.Tensor, added, shapes, name=name)]
        x, shapes = type(x)(name), {name: op.shape}
    args = (x, Constant(f"{mask.name}.masked", is_masked), -math.inf)
    return (*before, made(op, _ATEN.masked_fill.Scalar, args, shapes))
