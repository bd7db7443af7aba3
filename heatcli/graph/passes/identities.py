"""The graph pass `drop-identities`."""

from __future__ import annotations

from heatcli.graph.operator import Graph, Operator, bypassed
from heatcli.graph.passes.rewriting import is_filled

_COPIES = frozenset("clone alias detach contiguous lift_fresh_copy dropout feature_dropout native_dropout".split())
_RESHAPES = frozenset("view _unsafe_view reshape expand _to_copy squeeze flatten".split())


def drop_identities(graph: Graph) -> Graph:
    """Remove operators that return their only source unchanged: clones, dropout, `·1`, `+0`, views of equal shape."""
    return graph if graph.reads_memory else bypassed(graph, _is_identity)


def _is_identity(op: Operator, of: Operator | None) -> bool:
    """Whether the operator returns its source, computed by `of` (None: the image), unchanged."""
    if op.source_shapes[0] != op.shape or (of is not None and of.dtype != op.dtype):
        return False
    if op.title in _COPIES or op.title in _RESHAPES:
        return True
    neutral = {"mul": 1, "div": 1, "add": 0, "sub": 0}.get(op.title)
    return neutral is not None and op.reads(0) and not op.kwargs and is_filled(op.arg(1), neutral)
