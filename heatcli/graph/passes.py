"""Small rewrites that make the graphs of all formats look alike; each keeps the output as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils import _pytree as pytree

from heatcli.graph.operator import Constant, Graph, Operator, Ref

Pass = Callable[[Graph], Graph]


def canonical(graph: Graph) -> Graph:
    """All passes that every captured graph goes through, in order."""
    for rewrite in (drop_identities, join_matrix_bias, split_final):
        graph = rewrite(graph)
    return graph


def renamed(op: Operator, names: dict[str, str]) -> Operator:
    """The same operator, reading other values under the names that `names` maps its own to."""
    if not any(name in names for name in op.refs):
        return op

    def swap(x: object) -> object:
        return Ref(names[x.name]) if isinstance(x, Ref) and x.name in names else x

    args, kwargs = pytree.tree_map(swap, (op.args, dict(op.kwargs)))
    return replace(op, args=args, kwargs=kwargs, sources=tuple(names.get(s, s) for s in op.sources))


def drop_identities(graph: Graph) -> Graph:
    """Remove operators that hand their only source on unchanged: clones, dropout, `·1`, `+0`, idle views."""
    names: dict[str, str] = {}
    kept: list[Operator] = []
    dtypes: dict[str, torch.dtype] = {}
    for operator in graph.operators:
        op = renamed(operator, names)
        if _is_identity(op) and dtypes.get(op.sources[0], op.dtype) == op.dtype:
            names[op.name] = op.sources[0]
        else:
            kept.append(op)
            dtypes[op.name] = op.dtype
    return replace(graph, operators=tuple(kept), output=names.get(graph.output, graph.output))


_COPIES = frozenset("clone alias detach contiguous lift_fresh_copy dropout feature_dropout native_dropout".split())
_RESHAPES = frozenset("view _unsafe_view reshape expand _to_copy squeeze flatten".split())


def _is_identity(op: Operator) -> bool:
    if len(op.sources) != 1 or op.source_shapes[0] != op.shape:
        return False
    if op.title in _COPIES or op.title in _RESHAPES:
        return True
    neutral = {"mul": 1, "div": 1, "add": 0, "sub": 0}.get(op.title)
    return neutral is not None and op.reads(0) and not op.kwargs and _is_filled(op.arg(1), neutral)


def _is_filled(x: object, value: float) -> bool:
    if isinstance(x, Constant):
        return bool((x.value == value).all())
    return isinstance(x, (int, float)) and x == value


def join_matrix_bias(graph: Graph) -> Graph:
    """mm(x, W) followed by + bias, as ONNX's Gemm and MatMul arrive, becomes one addmm(bias, x, W)."""
    uses = Counter(name for op in graph.operators for name in op.refs)
    by_name = {op.name: op for op in graph.operators}
    kept: dict[str, Operator] = {}
    for op in graph.operators:
        product = by_name.get(op.sources[0]) if op.title == "add" and len(op.sources) == 1 else None
        bias = next((x for x in op.args if isinstance(x, Constant)), None)
        if (
            product is not None and bias is not None and not op.kwargs
            and product.title == "mm" and len(product.sources) == 1 and uses[product.name] == 1
            and product.name in kept and bias.value.numel() == op.shape[-1]
        ):  # fmt: skip
            del kept[product.name]
            vector = Constant(bias.name, bias.value.reshape(-1))
            op = replace(
                product, name=op.name, target=torch.ops.aten.addmm.default, args=(vector, *product.args), shape=op.shape
            )
        kept[op.name] = op
    return replace(graph, operators=tuple(kept.values()))


def split_final(graph: Graph) -> Graph:
    """Take a final softmax, log-softmax or sigmoid off the end: what is explained is the logit before it."""
    last = graph.operators[-1] if graph.operators else None
    if last is None or last.name != graph.output or last.title not in ("_softmax", "_log_softmax", "sigmoid"):
        return graph
    return replace(
        graph, operators=graph.operators[:-1], output=last.sources[0], output_shape=last.source_shapes[0], final=last
    )
