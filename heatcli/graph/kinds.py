"""The kind of an operator, and marks that depend on its place in the graph.

The kind selects the rule in a method's table. It depends on the ATen operator and on which arguments carry the image:
`mul` by a constant is affine, `mul` of two activations is a product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

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
    READING_MAPS,
    RECTIFIER,
    ROLES,
    SOFTMAX,
    SUM,
    UNKNOWN,
    facts_of,
    row_of,
)
from heatcli.graph.offsets import offsets_of, uses_own_statistics
from heatcli.graph.operator import Graph, Operator

__all__ = (
    "AFFINE", "CONVOLUTION", "DENSE", "ELEMENTWISE", "FIRST", "KINDS", "LAYOUT", "MAXIMUM", "NORMALISER", "PRODUCT",
    "RECTIFIER", "ROLES", "SOFTMAX", "SUM", "UNKNOWN", "classified", "classify", "has_fixed_statistics",
    "has_weights", "is_diagonal", "mark_first", "mark_nonnegative", "named_apart", "uses_own_statistics",
)  # fmt: skip


def classify(graph: Graph) -> Graph:
    """The same graph with the kind and the offsets of every operator."""
    return replace(graph, operators=tuple(classified(op) for op in graph.operators))


def named_apart(graph: Graph) -> Graph:
    """The same graph with distinct names for biases of different sizes that come from one tensor of the artifact."""
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
    """The operator with its kind, role and offsets."""
    if not op.sources or not op.dtype.is_floating_point:
        return replace(op, sources=(), kind="")  # a mask, an index, a shape: its value is held fixed
    if op.title in READING_MAPS and len(op.sources) > 1:
        op = replace(op, sources=op.sources[:1], source_shapes=op.source_shapes[:1])
    op = replace(op, kind=_kind(op))
    offsets = offsets_of(op)
    if offsets is None:
        return replace(op, kind=UNKNOWN)
    offsets = tuple(
        replace(o, batched=o.value.dim() == len(op.shape) and len(op.shape) > 1 and len(o.value) > 1) for o in offsets
    )
    finite = all(bool(torch.isfinite(o.value).all()) for o in offsets)
    return replace(op, role=_role(op), offsets=offsets if finite else (), finite_at_zero=finite)


def _kind(op: Operator) -> str:
    """The kind of an operator, by its row and by which arguments carry the image."""
    row = row_of(op)
    if op.is_lookup:
        return row.kind
    if any(name not in op.sources for name in op.refs) and op.title not in READING_MAPS:
        return UNKNOWN  # a mask or an index that depends on the image: exact only while its value is fixed
    if op.index and row.kind != LAYOUT:
        return UNKNOWN  # a secondary output, such as a normaliser's statistics
    if op.title in _DEPENDS:
        return _DEPENDS[op.title](op)
    if len(op.sources) > 1:
        return row.joint
    return row.kind if row.joint != UNKNOWN or op.reads(0) else UNKNOWN


def _role(op: Operator) -> str:
    """The role within the kind, or ""."""
    if op.kind == ELEMENTWISE and facts_of(op).rectifier:
        return RECTIFIER
    row = row_of(op)
    return row.role if op.kind == row.kind else ""


def is_diagonal(op: Operator) -> bool:
    """Whether the operator scales and shifts each element of its only source separately."""
    return op.kind == AFFINE and len(op.sources) == 1 and facts_of(op).diagonal


def is_choice(op: Operator) -> bool:
    """Whether each value of the output is a value of the only source."""
    return op.kind == LAYOUT and len(op.sources) == 1 and facts_of(op).picks


def is_linear_layout(op: Operator) -> bool:
    """Whether the operator rearranges one source, and what it may add between its values is zeros."""
    return op.kind == LAYOUT and len(op.sources) == 1 and facts_of(op).zero_at_zero


def has_weights(op: Operator) -> bool:
    """Whether the operator is a layer with weights: convolution or dense."""
    return op.role in (CONVOLUTION, DENSE)


def mark_first(graph: Graph) -> Graph:
    """Mark the layers with weights that read the image, and the layouts, scales and shifts before them."""
    before_first, operators = {graph.input}, []
    for op in graph.operators:
        reads_image = bool(op.sources) and all(name in before_first for name in op.sources)
        between = reads_image and (op.kind == LAYOUT or is_diagonal(op) or op.title in ("cat", "stack"))
        if between:
            before_first.add(op.name)
        first = reads_image and has_weights(op)
        as_marked = (op.first, op.before_first) == (first, between)
        operators.append(op if as_marked else replace(op, first=first, before_first=between))
    return replace(graph, operators=tuple(operators))


def mark_nonnegative(graph: Graph) -> Graph:
    """Mark the operators whose output is ≥ 0 for every image."""
    nonnegative: set[str] = set()
    for op in graph.operators:
        facts = facts_of(op)
        given = op.sources and op.sources == op.refs and all(name in nonnegative for name in op.sources)
        if facts.nonnegative or (facts.preserves_nonnegative and given):
            nonnegative.add(op.name)
    return replace(
        graph,
        operators=tuple(
            op if op.nonnegative == (op.name in nonnegative) else replace(op, nonnegative=not op.nonnegative)
            for op in graph.operators
        ),
    )  # fmt: skip


# --- kinds that depend on which arguments carry the image -------------------------------------------------------


def _divided(op: Operator) -> str:
    """a/b without rounding mode."""
    if op.argument("rounding_mode") is not None:
        return UNKNOWN
    return PRODUCT if len(op.sources) > 1 else AFFINE if op.reads(0) else ELEMENTWISE


def _power(op: Operator) -> str:
    """x to a constant power, or a constant to the power of x."""
    return ELEMENTWISE if len(op.sources) == 1 else UNKNOWN


def _matrix_product(op: Operator) -> str:
    """addmm(bias, a, b): affine with one constant factor, else a product (if the bias is constant)."""
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
    """Affine in eval mode. A normaliser with the image's own statistics, as instance norm uses it."""
    if len(op.sources) > 1 or not op.reads(0):
        return UNKNOWN
    if not uses_own_statistics(op):
        return AFFINE
    return NORMALISER if op.shape[0] == 1 else UNKNOWN


def has_fixed_statistics(op: Operator) -> bool:
    """Whether the operator is a batch norm that scales and shifts each channel by constants (eval mode)."""
    return facts_of(op).fixed_statistics and op.index in (None, 0)


def _scattered(op: Operator) -> str:
    """A sum if values replace or are added to elements; unknown if they are multiplied."""
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
