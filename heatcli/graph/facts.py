"""The facts known about each ATen operator: one table, one row an operator. All other name lists derive from it.

A fact that holds only for some arguments has a condition, a function of the call. `tests/graph/test_facts.py` checks
every fact on the operator itself, over sampled inputs and arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

from heatcli.graph.operator import Constant, Operator
from heatcli.system.torch_private import unrecorded

AFFINE, ELEMENTWISE, MAXIMUM, SUM, PRODUCT, NORMALISER, LAYOUT = (
    "affine", "elementwise", "maximum", "sum", "product", "normaliser", "layout",
)  # fmt: skip
KINDS = (AFFINE, ELEMENTWISE, MAXIMUM, SUM, PRODUCT, NORMALISER, LAYOUT)
CONVOLUTION, DENSE, RECTIFIER, SOFTMAX, FIRST = "convolution", "dense", "rectifier", "softmax", "first"
# Roles within a kind, for which a method's table may name a rule. `first` takes precedence over all others.
ROLES: dict[str, str] = {CONVOLUTION: AFFINE, DENSE: AFFINE, RECTIFIER: ELEMENTWISE, SOFTMAX: NORMALISER}
READING_MAPS = frozenset("roi_align roi_pool ps_roi_align ps_roi_pool".split())  # at boxes, to which no relevance goes
UNKNOWN = "unknown"  # walked by its exact adjoint, booked as unexplained and reported


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about one call of an operator f that hold for every image. False: unknown, untrue, or not relied on.

    x stands for the source, or for all sources. Weights and other constants are assumed finite.
    """

    zero_at_zero: bool = False  # f(0) = 0
    homogeneous: bool = False  # f(a·x) = a·f(x) for a > 0, so the secant from 0 is the gradient
    exact: bool = False  # piecewise linear in exact arithmetic: differences have no rounding error worth avoiding
    keeps_sign: bool = False  # f(x) never has the opposite sign of x
    keeps_order: bool = False  # f is nondecreasing
    steep: bool = False  # f' is unbounded for inputs of usual size
    nonnegative: bool = False  # f(x) ≥ 0
    preserves_nonnegative: bool = False  # f(x) ≥ 0 where all x ≥ 0
    rectifier: bool = False  # max(x, 0), or min(max(x, 0), bound)
    minimum: bool = False  # selects the smallest element, where others of its kind select the largest
    indexed: bool = False  # the second output holds each window's winning index, flattened over the last dimensions
    picks: bool = False  # each value of f(x) is a value of x
    gate: bool = False  # the output typically weights another factor of a product
    diagonal: bool = False  # with one source, scales and shifts each element separately; cheap to recompute
    fixed_statistics: bool = False  # a batch norm that scales and shifts each channel by constants (eval mode)
    overwrites: bool = False  # can overwrite its input; its vector-Jacobian product reads at most its output
    spare_output: bool = False  # its vector-Jacobian product does not read its output, which has memory of its own
    rounds_once: bool = False  # in bfloat16 returns the float32 result, rounded
    refuses_channels_last: bool = False  # torch's kernels raise for inputs and multipliers in that memory format


Condition = Callable[[Operator], bool]
_NAMES = frozenset(fact.name for fact in fields(Facts))


@dataclass(frozen=True, slots=True)
class Row:
    """One operator's row. `kind`: if one operand carries the image; `joint`: if several do.

    Without a joint kind, only the first argument may carry the image, and the others must be constants. `facts`: facts
    that always hold (True) or hold on a condition.
    """

    kind: str
    joint: str
    role: str
    facts: Mapping[str, Condition | bool]


def row(
    kind: str, facts: str = "", conditions: Mapping[str, Condition] | None = None, joint: str = UNKNOWN, role: str = ""
) -> Row:
    """A row with `facts` that always hold, separated by spaces, and `conditions` for others. Raises `ValueError`."""
    held: dict[str, Condition | bool] = {**dict.fromkeys(facts.split(), True), **(conditions or {})}
    if not held.keys() <= _NAMES:
        raise ValueError(f"no such fact: {', '.join(sorted(held.keys() - _NAMES))}")
    return Row(kind, joint, role, held)


def table(rows: Iterable[tuple[str, Row]]) -> dict[str, Row]:
    """Rows by operator; operators that share a row are separated by spaces. Raises `ValueError` for a duplicate."""
    rows_by_name: dict[str, Row] = {}
    for names, shared_row in rows:
        for name in names.split():
            if name in rows_by_name:
                raise ValueError(f"two rows for {name}")
            rows_by_name[name] = shared_row
    return rows_by_name


# --- conditions ---------------------------------------------------------------------------------------------------

Range = tuple[float, float]


def _range(value: Any, absent: float = math.nan) -> Range:
    """(minimum, maximum) of a number or a constant tensor. None gives (absent, absent), other values nan."""
    if isinstance(value, Constant) and value.value.numel():
        return float(value.value.min()), float(value.value.max())
    number = absent if value is None else float(value) if isinstance(value, int | float) else math.nan
    return number, number


def _number(op: Operator, name: str) -> float:
    """The value of an argument that is a number or a tensor of equal elements; else nan, which fails every test."""
    low, high = _range(op.argument(name))
    return low if low == high else math.nan


def _is_zero(name: str) -> Condition:
    return lambda op: _number(op, name) == 0


def _is_nonnegative(name: str) -> Condition:
    return lambda op: _number(op, name) >= 0


def _bounds(holds: Callable[[Range, Range], bool]) -> Condition:
    """A condition on the bounds of min(max(x, low), high). Each bound is a range, as a tensor bounds each element."""

    def condition(op: Operator) -> bool:
        """Whether the bounds of that call fulfil the condition."""
        if op.title in ("maximum", "minimum"):
            bound = op.arg(1 if op.reads(0) else 0)
            low, high = (bound, None) if op.title == "maximum" else (None, bound)
        else:
            ends = ("min_val", "max_val") if op.title == "hardtanh" else ("min", "max")
            low, high = (op.argument(end) for end in ends)
        return holds(_range(low, -math.inf), _range(high, math.inf))

    return condition


_LEAST, _ZERO, _MOST = (-math.inf, -math.inf), (0, 0), (math.inf, math.inf)
_at_zero = _bounds(lambda low, high: high == _ZERO or low[1] <= 0 <= high[0])
_CAPPED: dict[str, Condition] = {
    "zero_at_zero": _at_zero,
    "keeps_sign": _at_zero,
    "homogeneous": _bounds(
        lambda low, high: (low in (_LEAST, _ZERO) and high in (_ZERO, _MOST)) or (low[0] >= 0 and high == _ZERO)
    ),
}
_CLAMPED: dict[str, Condition] = {
    **_CAPPED,
    "nonnegative": _bounds(lambda low, high: low[0] >= 0 and high[0] >= 0),
    "rectifier": _bounds(lambda low, high: low == _ZERO and high[0] > 0),
}


def _elu_rises(op: Operator) -> bool:
    """scale·x above 0, alpha·scale·(exp(input_scale·x) − 1) below."""
    alpha, scale, inner = (_number(op, name) for name in ("alpha", "scale", "input_scale"))
    return scale >= 0 and alpha * scale * inner >= 0


def _threshold_rises(op: Operator) -> bool:
    """x above the threshold, else a value."""
    return _number(op, "value") <= _number(op, "threshold")


def _threshold_at_zero(op: Operator) -> bool:
    """f(0) = 0: either 0 is above the threshold, or the value below it is 0."""
    return _number(op, "threshold") < 0 or _number(op, "value") == 0


def _threshold_keeps_sign(op: Operator) -> bool:
    value = _number(op, "value")
    return value == 0 or (value < 0 and _number(op, "threshold") <= 0)


def _threshold_stays_above(op: Operator) -> bool:
    return _number(op, "threshold") >= 0 and _number(op, "value") >= 0


def _is_relu(op: Operator) -> bool:
    return _number(op, "threshold") == 0 and _number(op, "value") == 0


def _softplus_stays_above(op: Operator) -> bool:
    """log(1 + exp(beta·x))/beta, and x where beta·x exceeds the threshold."""
    return _number(op, "beta") > 0 and _number(op, "threshold") >= 0


def _power_at_zero(op: Operator) -> bool:
    return op.reads(0) and _range(op.argument("exponent"))[0] > 0


def _mean_of_windows(op: Operator) -> bool:
    divisor = op.argument("divisor_override")
    return divisor is None or divisor > 0


def _is_unbatched(op: Operator) -> bool:
    """A volume without batch dimension: of four dimensions, as images in channels last memory are."""
    return len(op.source_shapes[0]) == 4


def _adds_no_less(op: Operator) -> bool:
    """a + alpha·b with alpha ≥ 0 and no negative constant."""
    return _number(op, "alpha") >= 0 and all(op.reads(i) or _range(op.arg(i))[0] >= 0 for i in (0, 1))


def _scales_by_no_less(op: Operator) -> bool:
    return all(op.reads(i) or _range(op.arg(i))[0] >= 0 for i in (0, 1))


def _joins_sources_alone(op: Operator) -> bool:
    """Whether all joined tensors carry the image."""
    return not op.constants and len(op.refs) == len(op.sources)


def _writes_sources_alone(op: Operator) -> bool:
    """Whether the values written and the tensor written into carry the image, so that constants are only indices."""
    numbers = [x for x in (*op.args, *op.kwargs.values()) if isinstance(x, float)]
    return not numbers and not any(constant.value.is_floating_point() for constant in op.constants)


def _joins_no_less(op: Operator) -> bool:
    return all(_range(constant)[0] >= 0 for constant in op.constants)


def _adds_two(op: Operator) -> bool:
    """a + b of two activations, rounded once."""
    return op.reads(0) and op.reads(1) and _number(op, "alpha") == 1


def _other_is_zero(op: Operator) -> bool:
    """where(mask, a, b): each of a and b carries the image or is 0."""
    return all(op.reads(i) or _range(op.arg(i)) == (0, 0) for i in (1, 2))


# --- the table ----------------------------------------------------------------------------------------------------

_MEAN = "zero_at_zero preserves_nonnegative"
_PARTS = "zero_at_zero preserves_nonnegative"  # and zeros between them
_CHOICE = f"{_PARTS} picks"

TABLE: Mapping[str, Row] = table((
    # layers with weights
    ("convolution", row(AFFINE, "spare_output", joint=PRODUCT, role=CONVOLUTION)),
    ("linear", row(AFFINE, "spare_output", role=DENSE)),
    ("addmm", row(AFFINE, "spare_output", joint=PRODUCT, role=DENSE)),
    ("baddbmm", row(AFFINE, joint=PRODUCT, role=DENSE)),
    ("mm", row(AFFINE, "zero_at_zero spare_output", joint=PRODUCT, role=DENSE)),
    ("bmm matmul", row(AFFINE, "zero_at_zero", joint=PRODUCT, role=DENSE)),
    # scales and shifts
    ("native_batch_norm", row(
        AFFINE, "diagonal spare_output", {"fixed_statistics": lambda op: not op.argument("training")})),
    ("_native_batch_norm_legit_no_training", row(AFFINE, "diagonal fixed_statistics")),
    ("add", row(
        AFFINE, "diagonal spare_output", {"preserves_nonnegative": _adds_no_less, "rounds_once": _adds_two}, joint=SUM,
    )),
    ("sub rsub", row(AFFINE, "diagonal", joint=SUM)),
    ("mul", row(
        AFFINE, "zero_at_zero diagonal", {"preserves_nonnegative": _scales_by_no_less}, joint=PRODUCT)),
    ("div", row(AFFINE, "diagonal steep", joint=PRODUCT)),
    ("addcmul", row(AFFINE, joint=PRODUCT)),
    ("neg", row(AFFINE, "zero_at_zero diagonal")),
    # means and sums
    ("mean sum cumsum", row(AFFINE, _MEAN)),
    ("avg_pool1d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", row(AFFINE, _MEAN)),
    ("_adaptive_avg_pool2d _adaptive_avg_pool3d", row(AFFINE, _MEAN)),
    ("avg_pool2d avg_pool3d", row(AFFINE, "zero_at_zero", {"preserves_nonnegative": _mean_of_windows})),
    ("upsample_nearest1d upsample_nearest2d upsample_nearest3d", row(AFFINE, _MEAN)),
    ("_upsample_nearest_exact1d _upsample_nearest_exact2d", row(AFFINE, _MEAN)),
    ("upsample_linear1d upsample_bilinear2d upsample_trilinear3d _upsample_bilinear2d_aa", row(AFFINE, _MEAN)),
    ("upsample_bicubic2d", row(AFFINE, "zero_at_zero")),
    ("roi_align", row(AFFINE, _MEAN)),  # of the maps
    # nonlinearities that are piecewise linear
    ("relu", row(
        ELEMENTWISE,
        "zero_at_zero homogeneous exact keeps_sign keeps_order nonnegative rectifier overwrites rounds_once")),
    ("leaky_relu prelu _prelu_kernel", row(ELEMENTWISE, "zero_at_zero homogeneous exact")),
    ("abs", row(ELEMENTWISE, "zero_at_zero homogeneous exact nonnegative")),
    ("hardtanh", row(ELEMENTWISE, "exact keeps_order rounds_once", _CLAMPED)),
    ("clamp clamp_min", row(ELEMENTWISE, "exact keeps_order", _CLAMPED)),
    ("clamp_max", row(ELEMENTWISE, "exact keeps_order", _CAPPED)),
    ("maximum", row(ELEMENTWISE, "exact keeps_order", _CLAMPED, joint=MAXIMUM)),
    ("minimum", row(ELEMENTWISE, "exact keeps_order minimum", _CAPPED, joint=MAXIMUM)),
    ("threshold", row(
        ELEMENTWISE, "exact", {
            "zero_at_zero": _threshold_at_zero, "keeps_sign": _threshold_keeps_sign, "keeps_order": _threshold_rises,
            "homogeneous": _is_relu, "rectifier": _is_relu, "nonnegative": _threshold_stays_above,
        })),
    ("hardsigmoid", row(ELEMENTWISE, "keeps_order nonnegative gate")),
    ("softshrink hardshrink", row(ELEMENTWISE, "zero_at_zero")),
    # smooth ones
    ("silu gelu hardswish mish", row(ELEMENTWISE, "zero_at_zero keeps_sign")),
    ("tanh", row(ELEMENTWISE, "zero_at_zero keeps_sign keeps_order gate")),
    ("sigmoid", row(ELEMENTWISE, "keeps_order nonnegative gate")),
    ("elu", row(
        ELEMENTWISE, "zero_at_zero",
        {"keeps_sign": _elu_rises, "keeps_order": _elu_rises, "steep": lambda op: _number(op, "input_scale") < 0})),
    ("celu", row(ELEMENTWISE, "zero_at_zero", {"steep": lambda op: _number(op, "alpha") < 0})),
    ("softplus", row(ELEMENTWISE, "", {"nonnegative": _softplus_stays_above, "gate": _softplus_stays_above})),
    ("exp", row(ELEMENTWISE, "steep nonnegative gate")),
    ("exp2", row(ELEMENTWISE, "steep nonnegative")),
    ("square", row(ELEMENTWISE, "zero_at_zero nonnegative")),
    ("sqrt expm1 log1p tan sinh", row(ELEMENTWISE, "zero_at_zero steep")),
    ("rsqrt reciprocal log log2 log10 cosh", row(ELEMENTWISE, "steep")),
    ("pow", row(ELEMENTWISE, "steep", {"zero_at_zero": _power_at_zero})),
    ("sin atan asinh erf", row(ELEMENTWISE, "zero_at_zero")),
    ("cos erfc sinc log_sigmoid_forward", row(ELEMENTWISE)),
    # step functions: the derivative is 0
    ("sign floor ceil round trunc", row(ELEMENTWISE, "zero_at_zero")),
    # maxima
    ("max_pool1d", row(MAXIMUM, "zero_at_zero preserves_nonnegative")),
    ("max_pool3d", row(MAXIMUM, "zero_at_zero preserves_nonnegative", {"refuses_channels_last": _is_unbatched})),
    ("max_pool2d", row(MAXIMUM, "zero_at_zero preserves_nonnegative rounds_once")),
    ("max_pool2d_with_indices", row(MAXIMUM, "zero_at_zero preserves_nonnegative indexed rounds_once")),
    ("max_pool3d_with_indices", row(
        MAXIMUM, "zero_at_zero preserves_nonnegative indexed", {"refuses_channels_last": _is_unbatched})),
    ("adaptive_max_pool2d adaptive_max_pool3d", row(MAXIMUM, "zero_at_zero preserves_nonnegative indexed")),
    ("amax max", row(MAXIMUM, "zero_at_zero preserves_nonnegative")),
    ("amin min", row(MAXIMUM, "zero_at_zero preserves_nonnegative minimum")),
    # sums of tensors
    ("cat", row(
        SUM, "spare_output rounds_once",
        {"zero_at_zero": _joins_sources_alone, "preserves_nonnegative": _joins_no_less}, joint=SUM)),
    ("stack slice_scatter select_scatter", row(
        SUM, "", {"zero_at_zero": _joins_sources_alone, "preserves_nonnegative": _joins_no_less}, joint=SUM)),
    ("diagonal_scatter index_put index_copy index_add scatter_add scatter", row(
        SUM, "", {"zero_at_zero": _writes_sources_alone}, joint=SUM)),  # in-place writes: graph/recorder.py
    ("col2im", row(SUM, "zero_at_zero preserves_nonnegative")),  # overlapping patches are summed
    # normalisers
    ("native_layer_norm native_group_norm _log_softmax", row(NORMALISER)),
    ("_fused_rms_norm", row(NORMALISER, "zero_at_zero")),
    ("_softmax _safe_softmax", row(NORMALISER, "nonnegative gate", role=SOFTMAX)),
    ("norm linalg_vector_norm", row(NORMALISER, "zero_at_zero nonnegative")),
    # layouts
    ("view _unsafe_view reshape flatten squeeze unsqueeze expand permute transpose t movedim", row(LAYOUT, _CHOICE)),
    ("clone alias detach contiguous lift_fresh_copy _to_copy", row(LAYOUT, _CHOICE)),
    ("slice select narrow split split_with_sizes chunk unbind index index_select gather", row(LAYOUT, _CHOICE)),
    ("unsafe_split unsafe_split_with_sizes unsafe_chunk", row(LAYOUT, _CHOICE)),
    ("diagonal unfold as_strided", row(LAYOUT, _CHOICE)),
    ("im2col tril triu", row(LAYOUT, _PARTS)),
    ("repeat repeat_interleave roll flip rot90", row(LAYOUT, _CHOICE)),
    ("pixel_shuffle pixel_unshuffle channel_shuffle", row(LAYOUT, _CHOICE)),
    ("reflection_pad1d reflection_pad2d reflection_pad3d", row(LAYOUT, _CHOICE)),
    ("replication_pad1d replication_pad2d replication_pad3d", row(LAYOUT, _CHOICE)),
    ("constant_pad_nd", row(
        LAYOUT, "", {"zero_at_zero": _is_zero("value"), "preserves_nonnegative": _is_nonnegative("value")})),
    ("masked_fill", row(LAYOUT, "", {"zero_at_zero": _is_zero("value")})),
    ("where", row(LAYOUT, "", {"zero_at_zero": _other_is_zero}, joint=LAYOUT)),
))  # fmt: skip

_NOTHING = row(UNKNOWN)
_LOOKUP = row(ELEMENTWISE, "zero_at_zero exact")  # a table that no token has read is no bias
_KNOWN: WeakKeyDictionary[Operator, Facts] = WeakKeyDictionary()


def row_of(op: Operator) -> Row:
    """The operator's row, or an empty row if the table has none."""
    return _LOOKUP if op.is_lookup else TABLE.get(op.title, _NOTHING)


def facts_of(op: Operator) -> Facts:
    """The facts that hold for this call. Conditions are evaluated once and cached."""
    known = _KNOWN.get(op)
    if known is None:
        with unrecorded():  # values of constants are read while a record is made, too
            held = {name: fact if isinstance(fact, bool) else fact(op) for name, fact in row_of(op).facts.items()}
        known = _KNOWN[op] = Facts(**held)
    return known
