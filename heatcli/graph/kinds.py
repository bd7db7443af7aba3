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

from heatcli.graph.operator import Constant, Graph, Offset, Operator

AFFINE, ELEMENTWISE, MAXIMUM, SUM, PRODUCT, NORMALISER, LAYOUT = (
    "affine", "elementwise", "maximum", "sum", "product", "normaliser", "layout",
)  # fmt: skip
KINDS = (AFFINE, ELEMENTWISE, MAXIMUM, SUM, PRODUCT, NORMALISER, LAYOUT)
CONVOLUTION, DENSE, RECTIFIER, FIRST = "convolution", "dense", "rectifier", "first"
# Finer names within a kind, which a method's table may give a rule of their own; `first` goes before all.
ROLES: dict[str, str] = {CONVOLUTION: AFFINE, DENSE: AFFINE, RECTIFIER: ELEMENTWISE}
UNKNOWN = "unknown"  # walked by its exact adjoint, booked as unexplained, and told

ALWAYS: dict[str, str] = {
    name: kind
    for kind, names in {
        AFFINE: """
            mean sum neg avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d
            _adaptive_avg_pool3d adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
            _upsample_nearest_exact1d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d
            _upsample_bilinear2d_aa upsample_bicubic2d upsample_trilinear3d cumsum""",
        ELEMENTWISE: """
            relu hardtanh clamp clamp_min clamp_max leaky_relu elu celu silu gelu hardswish hardsigmoid
            sigmoid tanh softplus mish exp exp2 expm1 sqrt rsqrt abs log log2 log10 log1p reciprocal sin cos tan atan
            sinh cosh asinh erf erfc softshrink hardshrink threshold log_sigmoid_forward square sign floor ceil round
            trunc sinc""",
        MAXIMUM: """
            max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices
            adaptive_max_pool2d adaptive_max_pool3d amax amin""",
        SUM: "cat stack slice_scatter select_scatter",
        NORMALISER: "native_layer_norm native_group_norm _softmax _safe_softmax _log_softmax",
        LAYOUT: """
            view _unsafe_view reshape permute transpose t squeeze unsqueeze expand flatten slice select narrow split
            split_with_sizes chunk unbind constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
            replication_pad1d replication_pad2d replication_pad3d roll flip index index_select gather repeat
            pixel_shuffle pixel_unshuffle channel_shuffle as_strided clone alias detach contiguous _to_copy diagonal
            unfold im2col col2im repeat_interleave tril triu rot90 movedim lift_fresh_copy
            where""",
    }.items()
    for name in names.split()
}

# What these add at zero input is nothing: no need to ask them.
_NO_OFFSET = frozenset(
    """mean sum neg avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d
    relu hardtanh leaky_relu elu silu gelu hardswish tanh mish _prelu_kernel view _unsafe_view reshape permute
    transpose t squeeze unsqueeze expand flatten slice select split split_with_sizes chunk unbind roll flip clone
    norm linalg_vector_norm max_pool2d max_pool2d_with_indices adaptive_max_pool2d amax mul matmul mm bmm""".split()
)


def classify(graph: Graph) -> Graph:
    """The same graph, every operator with its kind and its offsets."""
    return replace(graph, operators=tuple(classified(op) for op in graph.operators))


def classified(op: Operator) -> Operator:
    """The operator with its kind and its offsets."""
    if not op.sources or not op.dtype.is_floating_point:
        return replace(op, sources=(), kind="")  # a mask, an index, a shape: the walk takes its value as given
    kind = _CONDITIONAL[op.title](op) if op.title in _CONDITIONAL else ALWAYS.get(op.title, UNKNOWN)
    if op.title.startswith("native_") and op.index:
        kind = UNKNOWN  # the statistics that a normaliser returns beside its output
    if any(name not in op.sources for name in op.refs):
        kind = UNKNOWN  # a mask or an index that the image decides: exact only while it stays the same
    offsets = tuple(
        replace(o, batched=o.value.dim() == len(op.shape) and len(op.shape) > 1 and len(o.value) > 1)
        for o in _offsets(replace(op, kind=kind))
    )
    finite = all(bool(torch.isfinite(o.value).all()) for o in offsets)
    role = _role(op) if kind in (AFFINE, ELEMENTWISE) else ""
    return replace(op, kind=kind, role=role, offsets=offsets if finite else (), vanishes=finite)


def _role(op: Operator) -> str:
    if op.title == "relu" or (op.title in ("hardtanh", "clamp", "clamp_min") and op.arg(1) == 0):
        return RECTIFIER
    if op.title == "convolution":
        return CONVOLUTION
    return DENSE if op.title in ("addmm", "mm", "linear", "bmm", "baddbmm", "matmul") else ""


_DIAGONAL = frozenset("add sub rsub mul div neg native_batch_norm _native_batch_norm_legit_no_training".split())


def is_diagonal(op: Operator) -> bool:
    """Whether it scales and shifts each element of its only source by itself."""
    return op.kind == AFFINE and op.title in _DIAGONAL and len(op.sources) == 1


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


_NONNEGATIVE = frozenset("relu sigmoid hardsigmoid softplus exp exp2 square abs _softmax _safe_softmax".split())
_HANDS_ON = frozenset(  # means, sums and choices of what they are given
    """mean sum avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d max_pool2d max_pool2d_with_indices
    adaptive_max_pool2d amax amin cat stack mul view _unsafe_view reshape permute transpose t squeeze unsqueeze expand
    flatten slice select split split_with_sizes chunk clone alias detach contiguous _to_copy upsample_nearest2d
    upsample_bilinear2d""".split()
)


def mark_nonnegative(graph: Graph) -> Graph:
    """Mark the operators whose output is nowhere below 0, whatever the image."""
    known: set[str] = set()
    for op in graph.operators:
        hands_on = op.title in _HANDS_ON or (op.title == "add" and not op.kwargs)
        given = op.sources and op.sources == op.refs and not op.constants and all(name in known for name in op.sources)
        if op.role == RECTIFIER or op.title in _NONNEGATIVE or (hands_on and given):
            known.add(op.name)
    return replace(graph, operators=tuple(replace(op, nonnegative=op.name in known) for op in graph.operators))


# --- kinds that depend on which arguments carry the image -------------------------------------------------------


def _two(one: str, both: str) -> Callable[[Operator], str]:
    """`one` if a single operand carries the image, `both` if both do."""
    return lambda op: both if len(op.sources) > 1 else one


def _divided(op: Operator) -> str:
    if op.arg(2) is not None or "rounding_mode" in op.kwargs:
        return UNKNOWN
    return _two(AFFINE if op.reads(0) else ELEMENTWISE, PRODUCT)(op)


def _only(position: int, otherwise: str = UNKNOWN) -> Callable[[Operator], str]:
    """Affine where the image comes in at `position` alone (weights and biases are constants)."""
    return lambda op: AFFINE if len(op.sources) == 1 and op.reads(position) else otherwise


def _matrix_product(op: Operator) -> str:
    """addmm(bias, a, b): affine with one constant factor, else a product (if its bias is constant)."""
    if op.reads(0):
        return UNKNOWN
    return _two(AFFINE, PRODUCT)(op)


def _multiply_add(op: Operator) -> str:
    """addcmul(a, b, c) = a + b·c."""
    both = op.reads(1) and op.reads(2)
    return AFFINE if not both else UNKNOWN if op.reads(0) else PRODUCT


def _norm(op: Operator) -> str:
    """A Euclidean norm over some dimensions."""
    return NORMALISER if op.arg(1, 2) in (2, None) else UNKNOWN


def _batch_norm(op: Operator) -> str:
    """Affine in eval mode; by the picture's own statistics, as instance norm calls it, a normaliser."""
    if not uses_own_statistics(op):
        return _only(0)(op)
    return NORMALISER if len(op.sources) == 1 and op.reads(0) and op.shape[0] == 1 else UNKNOWN


def uses_own_statistics(op: Operator) -> bool:
    """Whether a batch norm standardises by the statistics of what it is given (training mode)."""
    return op.title == "native_batch_norm" and bool(op.arg(5))


_BATCH_NORM = frozenset("native_batch_norm _native_batch_norm_legit_no_training".split())


def has_fixed_statistics(op: Operator) -> bool:
    """Whether it is a batch norm that scales and shifts each channel by constants (eval mode)."""
    return op.title in _BATCH_NORM and op.index in (None, 0) and not uses_own_statistics(op)


_CONDITIONAL: dict[str, Callable[[Operator], str]] = {
    "add": _two(AFFINE, SUM),
    "sub": _two(AFFINE, SUM),
    "rsub": _two(AFFINE, SUM),
    "mul": _two(AFFINE, PRODUCT),
    "div": _divided,
    "maximum": _two(ELEMENTWISE, MAXIMUM),
    "minimum": _two(ELEMENTWISE, MAXIMUM),
    "max": lambda op: MAXIMUM if op.index in (None, 0) else UNKNOWN,
    "min": lambda op: MAXIMUM if op.index in (None, 0) else UNKNOWN,
    "pow": _two(ELEMENTWISE, UNKNOWN),
    "_prelu_kernel": _two(ELEMENTWISE, UNKNOWN),
    "prelu": _two(ELEMENTWISE, UNKNOWN),
    "mm": _two(AFFINE, PRODUCT),
    "bmm": _two(AFFINE, PRODUCT),
    "matmul": _two(AFFINE, PRODUCT),
    "addmm": _matrix_product,
    "baddbmm": _matrix_product,
    "addcmul": _multiply_add,
    "norm": _norm,
    "linalg_vector_norm": _norm,
    "linear": _only(0),
    "convolution": _only(0, PRODUCT),
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _only(0),
    "masked_fill": _two(LAYOUT, UNKNOWN),
}


# --- what an operator adds at zero input ------------------------------------------------------------------------


def _offsets(op: Operator) -> tuple[Offset, ...]:
    """The operator's biases: named parameters where the artifact names them, else `<operator>.offset`."""
    if op.kind == UNKNOWN or op.kind == MAXIMUM:
        return ()
    named = _NAMED.get(op.title)
    if named is not None:
        return named(op)
    if op.title in _NO_OFFSET:
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
    alpha = op.kwargs.get("alpha", op.arg(2, 1))
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[op.title]
    position = 1 if op.reads(0) else 0
    term, factor = op.arg(position), factors[position]
    if isinstance(term, Constant):
        return (Offset(term.name, term.value.to(op.dtype) * factor),)
    return (Offset(f"{op.name}.offset", torch.tensor(float(term) * factor, dtype=op.dtype)),)


def _measured(op: Operator) -> tuple[Offset, ...]:
    """Run it at zero input; what comes out is its offset, per channel (dimension 1)."""
    device = next((c.value.device for c in op.constants), torch.device("cpu"))
    with torch.no_grad():
        try:
            zeros = [torch.zeros(shape, dtype=op.dtype, device=device) for shape in op.source_shapes]
            value = op.run({}, zeros)
        except (RuntimeError, TypeError):
            return ()
    if not bool(value.any()):
        return ()
    if op.kind == ELEMENTWISE and value.dim() > 1:
        value = value[:1].flatten(2).mean(2) if value.dim() > 2 else value[:1]
        return (Offset(f"{op.name}.offset", value.reshape(1, -1, *(1,) * (len(op.shape) - 2))),)
    return (Offset(f"{op.name}.offset", value[:1]),)


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
