"""Graph passes: small, named rewrites, each optional to the caller.

A pass takes a classified graph and returns another with the same output (`logit` and `centre-logits` choose another
output on purpose). Passes name no architecture: they match operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from heatcli.graph.kinds import SUM, batch_norm_scale_shift, classified, mark_first, mark_nonnegative
from heatcli.graph.mixed_precision import mixed_precision
from heatcli.graph.operator import Constant, Graph, Offset, Operator, Ref, bypassed, renamed
from heatcli.graph.outputs import final_activation, is_whole

Pass = Callable[[Graph], Graph]


def apply(graph: Graph, names: Iterable[str]) -> Graph:
    """Run the passes of those names, in the order of the registry."""
    wanted = set(names)
    for name, rewrite in PASSES.items():
        if name in wanted:
            graph = rewrite(graph)
    return mark_nonnegative(mark_first(channels_last(graph)))


def channels_last(graph: Graph) -> Graph:
    """Lay the weights of 2-D convolutions out channels last, which their kernels are faster with; no value changes."""
    if graph.reads_memory:
        return graph

    def with_weight_last(op: Operator) -> Operator:
        """A 2-D convolution with its weight so in memory; any other operator as it is."""
        weight = op.constant(1) if op.title == "convolution" else None
        if weight is None or weight.value.dim() != 4:
            return op
        value = weight.value.contiguous(memory_format=torch.channels_last)
        return replace(op, args=(op.args[0], Constant(weight.name, value), *op.args[2:]))

    return replace(graph, operators=tuple(with_weight_last(op) for op in graph.operators), channels_last=True)


def needed_for(output: str, operators: Iterable[Operator]) -> tuple[Operator, ...]:
    """Those of the operators, given in forward order, that the value `output` is computed from."""
    needed, kept = {output}, []
    for op in reversed(list(operators)):
        if op.name in needed:
            needed.update(op.refs)
            kept.append(op)
    return tuple(reversed(kept))


# --- drop-identities ----------------------------------------------------------------------------------------------

_COPIES = frozenset("clone alias detach contiguous lift_fresh_copy dropout feature_dropout native_dropout".split())
_RESHAPES = frozenset("view _unsafe_view reshape expand _to_copy squeeze flatten".split())


def drop_identities(graph: Graph) -> Graph:
    """Remove operators that hand their only source on unchanged: clones, dropout, `·1`, `+0`, idle views."""
    return graph if graph.reads_memory else bypassed(graph, _is_identity)


def _is_identity(op: Operator, of: Operator | None) -> bool:
    if op.source_shapes[0] != op.shape or (of is not None and of.dtype != op.dtype):
        return False
    if op.title in _COPIES or op.title in _RESHAPES:
        return True
    neutral = {"mul": 1, "div": 1, "add": 0, "sub": 0}.get(op.title)
    return neutral is not None and op.reads(0) and not op.kwargs and _is_filled(op.arg(1), neutral)


def _is_filled(x: object, value: float) -> bool:
    if isinstance(x, Constant):
        return bool((x.value == value).all())
    return isinstance(x, (int, float)) and x == value


# --- join-matrix-bias ---------------------------------------------------------------------------------------------


def join_matrix_bias(graph: Graph) -> Graph:
    """mm(x, W) followed by + bias, as ONNX's Gemm and MatMul arrive, becomes one addmm(bias, x, W)."""
    uses = _uses(graph)
    kept: dict[str, Operator] = {}
    for op in graph.operators:
        product = kept.get(op.sources[0]) if op.title == "add" and len(op.sources) == 1 else None
        bias = next((x for x in op.args if isinstance(x, Constant)), None)
        joins = (
            product is not None and bias is not None and not op.kwargs and product.title == "mm"
            and len(product.sources) == 1 and uses[product.name] == 1 and bias.value.numel() == op.shape[-1]
        )  # fmt: skip
        if joins and product is not None and bias is not None:
            del kept[product.name]
            vector = Constant(bias.name, bias.value.reshape(-1))
            target = torch.ops.aten.addmm.default
            op = classified(replace(product, name=op.name, target=target, args=(vector, *product.args), shape=op.shape))
        kept[op.name] = op
    return replace(graph, operators=tuple(kept.values()))


def _uses(graph: Graph) -> Counter[str]:
    return Counter([*(name for op in graph.operators for name in op.refs), graph.output])


# --- join-gates ---------------------------------------------------------------------------------------------------

_GATES = {"sigmoid": torch.ops.aten.silu.default, "hardsigmoid": torch.ops.aten.hardswish.default}


def join_gates(graph: Graph) -> Graph:
    """x·sigmoid(x) becomes silu(x), x·hardsigmoid(x) hardswish(x): one activation, as other formats have it."""
    by_name = {op.name: op for op in graph.operators}
    operators = []
    for op in graph.operators:
        if op.title == "mul" and len(op.sources) == 2:
            for gate, value in (op.sources, op.sources[::-1]):
                activation = by_name.get(gate)
                if activation and activation.title in _GATES and activation.sources == (value,):
                    target = _GATES[activation.title]
                    op = classified(
                        replace(op, target=target, args=(Ref(value),), sources=(value,), source_shapes=(op.shape,))
                    )
                    break
        operators.append(op)
    return replace(graph, operators=needed_for(graph.output, operators))


def join_prelu(graph: Graph) -> Graph:
    """where(x ≥ 0, x, c·x), as ONNX's PRelu arrives, becomes prelu(x, c)."""
    by_name = {op.name: op for op in graph.operators}
    operators = []
    for op in graph.operators:
        if op.title == "where" and len(op.args) == 3 and all(isinstance(a, Ref) for a in op.args):
            condition, _, scaled = (by_name.get(a.name) for a in op.args)
            x = op.args[1].name
            slope = next(iter(scaled.constants), None) if scaled is not None and scaled.title == "mul" else None
            if (
                slope is not None and scaled is not None and scaled.sources == (x,)
                and condition is not None and condition.title in ("ge", "gt") and next(iter(condition.refs)) == x
                and _is_filled(condition.arg(1), 0)
            ):  # fmt: skip
                shape = (1,) * (len(op.shape) - slope.value.dim()) + tuple(slope.value.shape)
                args = (Ref(x), Constant(slope.name, slope.value.reshape(shape)))
                op = classified(
                    replace(
                        op,
                        target=torch.ops.aten._prelu_kernel.default,
                        args=args,
                        sources=(x,),
                        source_shapes=(op.shape,),
                    )
                )
        operators.append(op)
    return replace(graph, operators=needed_for(graph.output, operators))


# --- fold-batch-norm ----------------------------------------------------------------------------------------------


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold an eval-mode BatchNorm into the convolution or dense layer before it.

    The folded operator keeps both offsets apart, the layer's (scaled) and the BatchNorm's shift, each under its own
    name: bias totals read as before.
    """
    uses = _uses(graph)
    kept: dict[str, Operator] = {}
    for op in graph.operators:
        layer = kept.get(op.sources[0]) if "batch_norm" in op.title and len(op.sources) == 1 else None
        if layer is not None and uses[layer.name] == 1 and op.kind == "affine":
            folded = _folded(layer, op)
            if folded is not None:
                del kept[layer.name]
                op = folded
        kept[op.name] = op
    return replace(graph, operators=tuple(kept.values()))


def _folded(layer: Operator, norm: Operator) -> Operator | None:
    scale, shift = batch_norm_scale_shift(norm)
    convolution = layer.title == "convolution"
    transposed = convolution and layer.arg(6)
    weight = layer.constant(1) if convolution else layer.constant(2) if layer.title == "addmm" else None
    if weight is None or len(layer.sources) != 1 or layer.kwargs or (transposed and layer.arg(8) > 1):
        return None
    out = 0 if convolution and not transposed else 1
    shape = [-1 if d == out else 1 for d in range(weight.value.dim())]
    scaled = Constant(weight.name, weight.value * scale.reshape(shape))
    old = layer.constant(2 if convolution else 0)
    bias = Constant(norm.offsets[0].name, shift if old is None else shift + old.value * scale)
    args = (layer.args[0], scaled, bias, *layer.args[3:]) if convolution else (bias, layer.args[1], scaled)
    along = (1, -1, *(1,) * (len(norm.shape) - 2))
    offsets = [Offset(o.name, o.value.reshape(along) * scale.reshape(along)) for o in layer.offsets]
    return replace(layer, name=norm.name, args=args, offsets=(*offsets, *norm.offsets), shape=norm.shape)


# --- what is explained --------------------------------------------------------------------------------------------


def logit(graph: Graph) -> Graph:
    """Take a final softmax, log-softmax or sigmoid off the end (views after it stay): the logit is explained."""
    last = final_activation(graph)
    if last is None or _uses(graph)[last.name] > 1 or not is_whole(graph, last):
        return graph
    names = {last.name: last.sources[0]}
    operators = tuple(renamed(op, names) for op in graph.operators if op is not last)
    return replace(graph, operators=operators, output=names.get(graph.output, graph.output), final=last)


def centre_logits(graph: Graph) -> Graph:
    """Explain z_c − mean_j z_j, the logit less the mean of all: DeepLIFT's normalisation for softmax outputs.

    Shrikumar et al. 2017, sec. 3.6: contributions are normalised by subtracting their mean over all classes.
    """
    if len(graph.output_shape) != 2:
        return graph
    aten, dtype = torch.ops.aten, graph.operators[-1].dtype
    n, classes = graph.output_shape
    mean = Operator(
        name="class_mean", target=aten.mean.dim, args=(Ref(graph.output), [1], True), kwargs={}, index=None,
        shape=(n, 1), dtype=dtype, sources=(graph.output,), source_shapes=((n, classes),),
    )  # fmt: skip
    centred = Operator(
        name="centred", target=aten.sub.Tensor, args=(Ref(graph.output), Ref("class_mean")), kwargs={}, index=None,
        shape=(n, classes), dtype=dtype, sources=(graph.output, "class_mean"), source_shapes=((n, classes), (n, 1)),
        kind=SUM,
    )  # fmt: skip
    return replace(graph, operators=(*graph.operators, classified(mean), centred), output="centred", centred=True)


PASSES: dict[str, Pass] = {
    "drop-identities": drop_identities,
    "join-matrix-bias": join_matrix_bias,
    "join-gates": join_gates,
    "join-prelu": join_prelu,
    "fold-batch-norm": fold_batch_norm,
    "logit": logit,
    "mixed-precision": mixed_precision,
    "centre-logits": centre_logits,
}
DEFAULT = ("drop-identities", "join-matrix-bias", "join-gates", "join-prelu", "fold-batch-norm", "logit")
OUTPUTS: dict[str, tuple[str, ...]] = {
    "logit": ("logit",),
    "centred-logit": ("logit", "centre-logits"),
    "probability": (),
}
