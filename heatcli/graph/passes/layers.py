"""The graph passes `join-layers`, `join-scales`, `fold-batch-norm`: a canonical form for layers with weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from heatcli.graph.kinds import classified, has_fixed_statistics, is_linear_layout
from heatcli.graph.offsets import batch_norm_scale_shift
from heatcli.graph.operator import Constant, Graph, Offset, Operator, Ref
from heatcli.graph.passes.regions import Region, Regions, squeezed
from heatcli.graph.passes.rewriting import made, replaced, uses

_ATEN = torch.ops.aten
_RESHAPES = frozenset("view _unsafe_view reshape".split())
_STEPS = frozenset("add sub rsub mul div neg".split())


def join_layers(graph: Graph) -> Graph:
    """Dense layers become linear(x, W, b) on rows [M, C], and constants added after a layer become its bias.

    A scale and a shift per channel, written as products, quotients and sums, become a batch norm.
    """
    if graph.reads_memory:
        return graph
    graph = _with_batch_norms(graph)
    graph = replaced(graph, {op.name: dense for op in graph.operators if (dense := _dense(op))})
    count, kept = uses(graph), dict[str, Operator]()
    for op in graph.operators:
        op = _biased(op, kept, count) or op
        kept[op.name] = op
    return replace(graph, operators=tuple(kept.values()))


def _dense(op: Operator) -> tuple[Operator, ...]:
    """A product of x and a constant matrix as linear(x, W, b), between reshapes if x has more than two dimensions."""
    if op.title == "addmm":
        bias, x, weight = op.args
    elif op.title == "linear" and len(op.shape) > 2:
        (x, weight), bias = op.args[:2], op.arg(2)
    elif op.title in ("mm", "bmm", "matmul"):
        (x, weight), bias = op.args, None
    else:
        return ()
    if not isinstance(weight, Constant) or not isinstance(x, Ref) or not (bias is None or isinstance(bias, Constant)):
        return ()
    matrix = _first(weight.value)
    if matrix.dim() != 2 or len(op.shape) < 2:
        return ()
    matrix = matrix if op.title == "linear" else matrix.mT
    alpha, beta = op.kwargs.get("alpha", 1), op.kwargs.get("beta", 1)
    more: list[Constant] = [Constant(weight.name, matrix if alpha == 1 else matrix * alpha)]
    if bias is not None:
        vector = _along(bias.value, len(op.shape) - 1, op.shape)
        if vector is None:
            return ()
        more.append(Constant(bias.name, vector if beta == 1 else vector * beta))
    (shape,) = op.source_shapes
    if len(shape) == 2:
        return (made(op, _ATEN.linear.default, (x, *more), {x.name: shape}),)
    count, rows, dense = prod(shape[:-1]), f"{op.name}.rows", f"{op.name}.dense"
    shapes = {x.name: shape, rows: (count, shape[-1]), dense: (count, op.shape[-1])}
    reshape = _ATEN.reshape.default
    return (
        made(op, reshape, (x, list(shapes[rows])), shapes, name=rows, shape=shapes[rows]),
        made(op, _ATEN.linear.default, (Ref(rows), *more), shapes, name=dense, shape=shapes[dense]),
        made(op, reshape, (Ref(dense), list(op.shape)), shapes),
    )


def _first(matrices: Tensor) -> Tensor:
    """[…, I, O] as [I, O], if the matrices are equal along all other dimensions."""
    for d in range(matrices.dim() - 2):
        if bool((matrices == matrices.narrow(d, 0, 1)).all()):
            matrices = matrices.narrow(d, 0, 1)
    return matrices.reshape(matrices.shape[-2:]) if matrices.shape[:-2].numel() == 1 else matrices


def _along(value: Tensor, dim: int, shape: tuple[int, ...]) -> Tensor | None:
    """An added constant as a vector along dimension `dim` of `shape`; None if it varies along another dimension."""
    if value.dim() > len(shape):
        return None
    full = squeezed(value)
    full = full.reshape((1,) * (len(shape) - full.dim()) + tuple(full.shape))
    if any(size != 1 for d, size in enumerate(full.shape) if d != dim):
        return None
    return value.reshape(-1) if value.numel() == shape[dim] else full.reshape(-1).expand(shape[dim]).contiguous()


# --- biases -------------------------------------------------------------------------------------------------------


def _biased(op: Operator, kept: dict[str, Operator], count: Counter[str]) -> Operator | None:
    """layer(x) + b as one layer, also with reshapes in between that keep the last dimension.

    `kept` is updated: the layer is replaced at its own position, and the last reshape takes the name of the sum.
    """
    if op.title not in ("add", "sub") or len(op.refs) != 1 or op.kwargs or len(op.args) != 2:
        return None
    term = next((x for x in op.args if isinstance(x, Constant)), None)
    between, layer = None, kept.get(op.refs[0])
    if term is None or layer is None or (op.title == "sub" and not op.reads(0)) or op.shape != layer.shape:
        return None
    names = [layer.name]
    while layer.title in _RESHAPES and layer.source_shapes[0][-1:] == layer.shape[-1:]:
        between, layer = between or layer, kept.get(layer.sources[0])
        if layer is None:
            return None
        names.append(layer.name)
    if layer.title not in ("linear", "convolution") or len(layer.sources) != 1 or any(count[n] != 1 for n in names):
        return None
    if between and layer.title != "linear":
        return None
    dim = 1 if layer.title == "convolution" else len(op.shape) - 1
    vector = _along(term.value, dim, op.shape)
    if vector is None or term.value.numel() == 1 != op.shape[dim]:
        return None
    biased = with_bias(layer, term.name, -vector if op.title == "sub" else vector)
    if between is None:
        del kept[layer.name]
        return replace(biased, name=op.name)
    kept[layer.name] = biased
    del kept[between.name]
    return replace(between, name=op.name)


def with_bias(layer: Operator, name: str, vector: Tensor) -> Operator:
    """The layer with a vector [C] added to its bias. The earlier offsets keep their own entries in the books."""
    old = layer.constant(2)
    bias = Constant(name, vector if old is None else old.value + vector)
    biased = classified(replace(layer, args=(*layer.args[:2], bias, *layer.args[3:])))
    (whole,) = biased.offsets
    return replace(biased, offsets=(*layer.offsets, Offset(name, vector.reshape(whole.value.shape))))


# --- batch norms --------------------------------------------------------------------------------------------------


def _is_step(op: Operator) -> bool:
    """Whether the operator only scales or shifts by constants."""
    return op.title in _STEPS and len(op.refs) == 1 and not op.kwargs and (op.title != "div" or op.reads(0))


def _with_batch_norms(graph: Graph) -> Graph:
    """Each channel times one constant plus another becomes a batch norm."""
    regions, by, gone = Regions(graph), dict[str, tuple[Operator, ...]](), set[str]()
    for end in reversed(graph.operators):
        if end.name in gone or not _is_step(end) or len(end.shape) < 2:
            continue
        matches = [norm for region in regions.ending_in(end, _is_step) if (norm := _batch_norm(region)) is not None]
        if matches:
            region, batch_norm = matches[-1]
            by[end.name] = (batch_norm,)
            gone.update(op.name for op in region.operators)
    return replaced(graph, by) if by else graph


def _batch_norm(region: Region) -> tuple[Region, Operator] | None:
    """A region that scales and shifts each channel, and the batch norm that computes it; None for other regions."""
    end, channels = region.end, region.end.shape[1]
    titles = {op.title for op in region.operators}
    if not titles & {"add", "sub", "rsub"} or not titles & {"mul", "div"} or end.shape != region.source_shape:
        return None
    ends = region.at(torch.tensor([0.0, 1.0], dtype=torch.float64))
    if ends is None or channels == 1 or tuple(ends.shape) != (2, channels, *(1,) * (len(end.shape) - 2)):
        return None
    shift, scale = (x.reshape(channels) for x in (ends[0], ends[1] - ends[0]))
    terms = [c.name for op in region.operators if op.title in ("add", "sub", "rsub") for c in op.constants]
    weight = region.name_of(scale) or f"{end.name}.scale"
    bias = region.name_of(shift) or (terms[-1] if terms else f"{end.name}.shift")
    neutral = [
        region.constant(f"{end.name}.{part}", torch.full_like(scale, x)) for part, x in (("mean", 0), ("var", 1))
    ]
    args = (
        Ref(region.source), region.constant(weight, scale), region.constant(bias, shift), *neutral, False, 0.0, 0.0
    )  # fmt: skip
    shapes = {region.source: region.source_shape}
    return region, made(end, _ATEN.native_batch_norm.default, args, shapes, index=0)


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold an eval-mode batch norm into the convolution or dense layer before it.

    The folded operator keeps both offsets, the layer's (scaled) and the batch norm's shift, each under its own name, so
    bias totals stay the same.
    """
    count, kept = uses(graph), dict[str, Operator]()
    for op in graph.operators:
        layer = kept.get(op.sources[0]) if has_fixed_statistics(op) and len(op.sources) == 1 else None
        if layer is not None and count[layer.name] == 1 and op.kind == "affine":
            folded = _folded(layer, op)
            if folded is not None:
                del kept[layer.name]
                op = folded
        kept[op.name] = op
    return replace(graph, operators=tuple(kept.values()))


def _folded(layer: Operator, norm: Operator) -> Operator | None:
    """The layer with the scale and shift of the batch norm in its weight and bias; None where that cannot be done."""
    scale, shift = batch_norm_scale_shift(norm)
    convolution = layer.title == "convolution"
    transposed = convolution and layer.arg(6)
    weight = layer.constant(1) if convolution or (layer.title == "linear" and len(layer.shape) == 2) else None
    if weight is None or len(layer.sources) != 1 or layer.kwargs or (transposed and layer.arg(8) > 1):
        return None
    shape = [-1 if d == (1 if transposed else 0) else 1 for d in range(weight.value.dim())]
    scaled = Constant(weight.name, weight.value * scale.reshape(shape))
    old = layer.constant(2)
    bias = Constant(norm.offsets[0].name, shift if old is None else shift + old.value * scale)
    along = (1, -1, *(1,) * (len(norm.shape) - 2))
    offsets = [Offset(o.name, o.value.reshape(along) * scale.reshape(along)) for o in layer.offsets]
    return replace(
        layer, name=norm.name, args=(layer.args[0], scaled, bias, *layer.args[3:]), offsets=(*offsets, *norm.offsets),
        shape=norm.shape,
    )  # fmt: skip


# --- scales -------------------------------------------------------------------------------------------------------


def join_scales(graph: Graph) -> Graph:
    """Move scalar factors of a matrix product's operands behind the product: (q·s₁)(k·s₂) becomes (q·k)·s.

    So attention scores are walked in one way, whether the exporter scales queries, keys, both or scores.
    """
    if graph.reads_memory:
        return graph
    count, kept = uses(graph), dict[str, Operator]()
    for op in graph.operators:
        product = op.title in ("bmm", "matmul", "mm") and len(op.sources) == len(op.refs) == 2
        own_factor = _factor(op)
        if not product and own_factor is None:
            kept[op.name] = op
            continue
        factor, names = 1.0 if own_factor is None else own_factor, {}
        for name in dict.fromkeys(op.refs):
            source, part = _lifted(name, kept, count)
            factor, names[name] = factor * part ** op.refs.count(name), source
        args = tuple(Ref(names[x.name]) if isinstance(x, Ref) else x for x in op.args)
        if factor == (own_factor or 1.0):
            kept[op.name] = op
            continue
        if product:
            shapes = dict(zip(op.refs, op.source_shapes, strict=True))
            unscaled = made(op, op.target, args, {names[n]: s for n, s in shapes.items()}, name=f"{op.name}.unscaled")
            kept[unscaled.name], args = unscaled, (Ref(unscaled.name),)
            count[unscaled.name] = 1
        (source,) = (x.name for x in args if isinstance(x, Ref))
        kept[op.name] = made(op, _ATEN.mul.Tensor, (Ref(source), factor), {source: op.shape})
    return replaced(replace(graph, operators=tuple(kept.values())), {})


def _factor(op: Operator) -> float | None:
    """The number that the operator multiplies its only source by; None for any other operator."""
    if op.title not in ("mul", "div") or len(op.refs) != 1 or len(op.sources) != 1 or op.kwargs or len(op.args) != 2:
        return None
    if op.title == "div" and not op.reads(0):
        return None
    other = op.args[1 if op.reads(0) else 0]
    if isinstance(other, Constant):
        if other.value.numel() != 1 or op.shape != op.source_shapes[0]:
            return None
        other = float(other.value)
    return float(other) if op.title == "mul" else 1 / float(other)


def _lifted(name: str, kept: dict[str, Operator], count: Counter[str]) -> tuple[str, float]:
    """The value `name` without its scalar factor, also through linear layouts of the scaled value; and the factor.

    Applies only if nothing else reads the values in between. The layouts stay in `kept` under their names.
    """
    layouts: list[Operator] = []
    op = kept.get(name)
    while op is not None and is_linear_layout(op) and count[op.name] == 1:
        layouts.append(op)
        op = kept.get(op.refs[0])
    factor = None if op is None or count[op.name] != 1 else _factor(op)
    if op is None or factor is None:
        return name, 1.0
    if not layouts:
        return op.sources[0], factor
    last = layouts[-1]
    args = tuple(Ref(op.sources[0]) if isinstance(x, Ref) else x for x in last.args)
    kept[last.name] = replace(last, args=args, sources=op.sources)
    return name, factor
