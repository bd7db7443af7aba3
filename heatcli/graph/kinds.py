"""Which kind an operator is of, and what it adds at zero input.

The kind decides which entry of a method's table walks it. It depends on the ATen operator and on which of its
arguments carry the image: `mul` by a constant is affine, `mul` of two activations is a product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from heatcli.graph.facts import (
    AFFINE,
    CONVOLUTION,
    DENSE,
    ELEMENTWISE,
    FIRST,
    KINDS,
    LAYOUT,
    MAXIMUM,
    NORMALISER,
    PRODUCT,
    RECTIFIER,
    ROLES,
    SUM,
    UNKNOWN,
    facts_of,
    row_of,
)
from heatcli.graph.operator import Constant, Graph, Offset, Operator

__all__ = (
    "AFFINE", "CONVOLUTION", "DENSE", "ELEMENTWISE", "FIRST", "KINDS", "LAYOUT", "MAXIMUM", "NORMALISER", "PRODUCT",
    "RECTIFIER", "ROLES", "SUM", "UNKNOWN", "batch_norm_scale_shift", "classified", "classify", "has_fixed_statistics",
    "has_weights", "is_diagonal", "mark_first", "mark_nonnegative", "named_apart", "uses_own_statistics",
)  # fmt: skip


def classify(graph: Graph) -> Graph:
    """The same graph, every operator with its kind and its offsets."""
    return replace(graph, operators=tuple(classified(op) for op in graph.operators))


def named_apart(graph: Graph) -> Graph:
    """The same graph; where parts of one tensor of the artifact are biases of several sizes, each has its own name."""
    sizes: dict[str, int] = {}
    operators = []
    for op in graph.operators:
        offsets = tuple(
            o if sizes.setdefault(o.name, o.size) == o.size else replace(o, name=f"{o.name} in {op.name}")
            for o in op.offsets
        )
        operators.append(replace(op, offsets=offsets) if offsets != op.offsets else op)
    return replace(graph, operators=tuple(operators))


def classified(op: Operator) -> Operator:
    """The operator with its kind and its offsets."""
    if not op.sources or not op.dtype.is_floating_point:
        return replace(op, sources=(), kind="")  # a mask, an index, a shape: the walk takes its value as given
    op = replace(op, kind=_kind(op))
    offsets = _offsets(op)
    if offsets is None:
        return replace(op, kind=UNKNOWN)
    offsets = tuple(
        replace(o, batched=o.value.dim() == len(op.shape) and len(op.shape) > 1 and len(o.value) > 1) for o in offsets
    )
    finite = all(bool(torch.isfinite(o.value).all()) for o in offsets)
    return replace(op, role=_role(op), offsets=offsets if finite else (), vanishes=finite)


def _kind(op: Operator) -> str:
    row = row_of(op)
    if any(name not in op.sources for name in op.refs):
        return UNKNOWN  # a mask or an index that the image decides: exact only while it stays the same
    if op.index and row.kind != LAYOUT:
        return UNKNOWN  # what an operator returns beside its output, such as a normaliser's statistics
    if op.title in _DEPENDS:
        return _DEPENDS[op.title](op)
    if len(op.sources) > 1:
        return row.joint
    return row.kind if row.joint != UNKNOWN or op.reads(0) else UNKNOWN


def _role(op: Operator) -> str:
    if op.kind == ELEMENTWISE and facts_of(op).rectifier:
        return RECTIFIER
    return row_of(op).role if op.kind == AFFINE else ""


def is_diagonal(op: Operator) -> bool:
    """Whether it scales and shifts each element of its only source by itself."""
    return op.kind == AFFINE and len(op.sources) == 1 and facts_of(op).diagonal


def has_weights(op: Operator) -> bool:
    """Whether it is a layer with weights: a convolution or a dense one."""
    return op.role in (CONVOLUTION, DENSE)


def mark_first(graph: Graph) -> Graph:
    """Mark the layers with weights that see the image itself, and what lies between: layouts, scales and shifts."""
    near, operators = {graph.input}, []
    for op in graph.operators:
        seen = bool(op.sources) and all(name in near for name in op.sources)
        between = seen and (op.kind == LAYOUT or is_diagonal(op) or op.title in ("cat", "stack"))
        if between:
            near.add(op.name)
        operators.append(replace(op, first=seen and has_weights(op), near=between))
    return replace(graph, operators=tuple(operators))


def mark_nonnegative(graph: Graph) -> Graph:
    """Mark the operators whose output is nowhere below 0, whatever the image."""
    known: set[str] = set()
    for op in graph.operators:
        facts = facts_of(op)
        given = op.sources and op.sources == op.refs and all(name in known for name in op.sources)
        if facts.nonnegative or (facts.preserves_nonnegative and given):
            known.add(op.name)
    return replace(graph, operators=tuple(replace(op, nonnegative=op.name in known) for op in graph.operators))


# --- kinds that depend on which arguments carry the image -------------------------------------------------------


def _divided(op: Operator) -> str:
    """a/b, where nothing is rounded."""
    if op.argument("rounding_mode") is not None:
        return UNKNOWN
    return PRODUCT if len(op.sources) > 1 else AFFINE if op.reads(0) else ELEMENTWISE


def _power(op: Operator) -> str:
    """x to a constant power, or a constant to the power of x."""
    return ELEMENTWISE if len(op.sources) == 1 else UNKNOWN


def _matrix_product(op: Operator) -> str:
    """addmm(bias, a, b): affine with one constant factor, else a product (if its bias is constant)."""
    if op.reads(0):
        return UNKNOWN
    return AFFINE if len(op.sources) == 1 else PRODUCT


def _multiply_add(op: Operator) -> str:
    """addcmul(a, b, c) = a + b·c."""
    both = op.reads(1) and op.reads(2)
    return AFFINE if not both else UNKNOWN if op.reads(0) else PRODUCT


def _convolved(op: Operator) -> str:
    """A layer with weights, or a product of two activations."""
    if len(op.sources) == 1:
        return AFFINE if op.reads(0) else UNKNOWN
    return UNKNOWN if op.reads(2) else PRODUCT


def _norm(op: Operator) -> str:
    """A Euclidean norm over some dimensions."""
    order = op.argument("ord" if op.title == "linalg_vector_norm" else "p")
    return NORMALISER if order in (2, None) else UNKNOWN


def _batch_norm(op: Operator) -> str:
    """Affine in eval mode; by the picture's own statistics, as instance norm calls it, a normaliser."""
    if len(op.sources) > 1 or not op.reads(0):
        return UNKNOWN
    if not uses_own_statistics(op):
        return AFFINE
    return NORMALISER if op.shape[0] == 1 else UNKNOWN


def uses_own_statistics(op: Operator) -> bool:
    """Whether a batch norm standardises by the statistics of what it is given (training mode)."""
    return op.title == "native_batch_norm" and not facts_of(op).fixed_statistics


def has_fixed_statistics(op: Operator) -> bool:
    """Whether it is a batch norm that scales and shifts each channel by constants (eval mode)."""
    return facts_of(op).fixed_statistics and op.index in (None, 0)


def _scattered(op: Operator) -> str:
    """Values put into places, or added there; it is no sum where they are multiplied."""
    return SUM if op.argument("reduce") in (None, "add") else UNKNOWN


_DEPENDS: dict[str, Callable[[Operator], str]] = {
    "div": _divided,
    "pow": _power,
    "addmm": _matrix_product,
    "baddbmm": _matrix_product,
    "addcmul": _multiply_add,
    "norm": _norm,
    "linalg_vector_norm": _norm,
    "convolution": _convolved,
    "native_batch_norm": _batch_norm,
    "scatter": _scattered,
}


# --- what an operator adds at zero input ------------------------------------------------------------------------


def _offsets(op: Operator) -> tuple[Offset, ...] | None:
    """The operator's biases: named parameters where the artifact names them, else `<operator>.offset`.

    None where it cannot be run at zero, so that nobody knows them.
    """
    if op.kind == UNKNOWN or op.kind == MAXIMUM:
        return ()
    named = _NAMED.get(op.title)
    if named is not None:
        return named(op)
    if facts_of(op).zero_at_zero:
        return ()
    if op.kind in (SUM, AFFINE) and op.title in ("add", "sub", "rsub"):
        return _constant_term(op)
    return _measured(op)


def _channelwise(value: Tensor, op: Operator) -> Tensor:
    """[C] laid along dimension 1 of the operator's output."""
    return value.reshape(1, -1, *(1,) * (len(op.shape) - 2))


def _bias_at(position: int, channels: bool) -> Callable[[Operator], tuple[Offset, ...]]:
    """What finds the bias among an operator's arguments; `channels`: it is [C], along dimension 1 of the output."""

    def offsets(op: Operator) -> tuple[Offset, ...]:
        """The bias, if it is a constant."""
        bias = op.constant(position)
        if bias is None:
            return ()
        return (Offset(bias.name, _channelwise(bias.value, op) if channels else bias.value),)

    return offsets


def _scaled_bias(op: Operator) -> tuple[Offset, ...]:
    bias, beta = op.constant(0), op.kwargs.get("beta", 1)
    return () if bias is None else (Offset(bias.name, bias.value * beta),)


def batch_norm_scale_shift(op: Operator) -> tuple[Tensor, Tensor]:
    """Eval-mode batch norm as `scale·x + shift`, each [C]."""
    weight, bias, mean, variance = (op.constant(i) for i in range(1, 5))
    assert mean is not None
    assert variance is not None
    eps = op.arg(7) if op.title == "native_batch_norm" else op.arg(6)
    scale = torch.rsqrt(variance.value + eps)
    if weight is not None:
        scale = scale * weight.value
    shift = -mean.value * scale
    return scale, shift if bias is None else shift + bias.value


def _batch_norm_shift(op: Operator) -> tuple[Offset, ...]:
    if uses_own_statistics(op):
        return _bias_at(2, channels=True)(op)
    bias = op.constant(2)
    name = bias.name if bias is not None else f"{op.name}.shift"
    return (Offset(name, _channelwise(batch_norm_scale_shift(op)[1], op)),)


def _softmax_at_zero(op: Operator) -> tuple[Offset, ...]:
    classes = op.shape[op.arg(1)]
    value = -math.log(classes) if op.title == "_log_softmax" else 1 / classes
    return (Offset(f"{op.name}.offset", torch.full((), value, dtype=op.dtype)),)


def _constant_term(op: Operator) -> tuple[Offset, ...]:
    """x + c, x − c, c − x: the constant, under its name."""
    if len(op.sources) > 1:
        return ()
    alpha = op.argument("alpha")
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[op.title]
    position = 1 if op.reads(0) else 0
    term, factor = op.arg(position), factors[position]
    if isinstance(term, Constant):
        return (Offset(term.name, term.value.to(op.dtype) * factor),)
    return (Offset(f"{op.name}.offset", torch.tensor(float(term) * factor, dtype=op.dtype)),)


def _measured(op: Operator) -> tuple[Offset, ...] | None:
    """Run it at zero input; what comes out is its offset. None where it cannot be run there.

    The offset of an elementwise operator has one value for each channel (dimension 1) where all positions are alike.
    """
    device = next((c.value.device for c in op.constants), torch.device("cpu"))
    with torch.no_grad():
        try:
            zeros = [torch.zeros(shape, dtype=op.dtype, device=device) for shape in op.source_shapes]
            value = op.run({}, zeros)
        except (RuntimeError, TypeError):
            return None
    if not bool(value.any()):
        return ()
    if value.dim() and _is_alike(value, value[:1]):
        value = value[:1]
    if op.kind == ELEMENTWISE and value.dim() > 2:
        first = value[(slice(None), slice(None), *(slice(1),) * (value.dim() - 2))]
        value = first if _is_alike(value, first) else value
    return (Offset(f"{op.name}.offset", value),)


def _is_alike(values: Tensor, some: Tensor) -> bool:
    return bool(((values == some) | (values.isnan() & some.isnan())).all())


_NAMED: dict[str, Callable[[Operator], tuple[Offset, ...]]] = {
    "convolution": _bias_at(2, channels=True),
    "linear": _bias_at(2, channels=False),
    "addmm": _scaled_bias,
    "baddbmm": _scaled_bias,
    "native_batch_norm": _batch_norm_shift,
    "_native_batch_norm_legit_no_training": _batch_norm_shift,
    "native_layer_norm": _bias_at(3, channels=False),
    "native_group_norm": _bias_at(2, channels=True),
    "_softmax": _softmax_at_zero,
    "_safe_softmax": _softmax_at_zero,
    "_log_softmax": _softmax_at_zero,
}
