"""Offsets: the operator's output at zero input, the biases of the network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from heatcli.graph.facts import AFFINE, ELEMENTWISE, MAXIMUM, SUM, UNKNOWN, facts_of
from heatcli.graph.operator import Constant, Offset, Operator


def offsets_of(op: Operator) -> tuple[Offset, ...] | None:
    """The operator's biases: named parameters where the artifact names them, else `<operator>.offset`.

    None if the operator cannot be run at zero, so its biases are unknown.
    """
    if op.kind == UNKNOWN or op.kind == MAXIMUM:
        return ()
    named = None if op.is_lookup else _NAMED.get(op.title)
    if named is not None:
        return named(op)
    if facts_of(op).zero_at_zero:
        return ()
    if op.kind in (SUM, AFFINE) and op.title in ("add", "sub", "rsub"):
        return _constant_term(op)
    return _measured(op)


def _channelwise(value: Tensor, op: Operator) -> Tensor:
    """[C] broadcast along dimension 1 of the operator's output."""
    return value.reshape(1, -1, *(1,) * (len(op.shape) - 2))


def _bias_at(position: int, channels: bool) -> Callable[[Operator], tuple[Offset, ...]]:
    """A function that finds the bias at `position`. `channels`: the bias is [C], along dimension 1 of the output."""

    def offset(op: Operator) -> tuple[Offset, ...]:
        bias = op.constant(position)
        if bias is None:
            return ()
        return (Offset(bias.name, _channelwise(bias.value, op) if channels else bias.value),)

    return offset


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
    """The constant c of x + c, x − c or c − x, under its own name."""
    if len(op.sources) > 1:
        return ()
    alpha = op.argument("alpha")
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[op.title]
    position = 1 if op.reads(0) else 0
    term, factor = op.arg(position), factors[position]
    if isinstance(term, Constant):
        return (Offset(term.name, term.value.to(op.dtype) * factor),)
    return (Offset(f"{op.name}.offset", torch.tensor(float(term) * factor, dtype=op.dtype)),)


def _joined(op: Operator) -> tuple[Offset, ...] | None:
    """The constants that are joined with the image, such as a class token, each in its place and under its own name."""
    dim = op.arg(1, 0) % len(op.shape)
    if dim == 0:
        return _measured(op)
    offsets, start, shapes = [], 0, iter(op.source_shapes)
    for part in op.arg(0):
        value = part.value if isinstance(part, Constant) else None
        shape = next(shapes) if value is None else tuple(value.shape)
        width = 1 if op.title == "stack" else shape[dim] if len(shape) == len(op.shape) else 0
        if value is not None and width and bool(value.any()):
            value = (value.unsqueeze(dim) if op.title == "stack" else value).to(op.dtype)
            value = value[:1] if _is_alike(value, value[:1]) else value
            offsets.append(Offset(part.name, value, place=(dim, start)))
        start += width
    return tuple(offsets)


def _measured(op: Operator) -> tuple[Offset, ...] | None:
    """The operator's output at zero input. None if the operator cannot be run there.

    The offset of an elementwise operator has one value for each channel (dimension 1) if all positions are equal.
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


_NAMED: dict[str, Callable[[Operator], tuple[Offset, ...] | None]] = {
    "convolution": _bias_at(2, channels=True),
    "linear": _bias_at(2, channels=False),
    "addmm": _scaled_bias,
    "baddbmm": _scaled_bias,
    "native_batch_norm": _batch_norm_shift,
    "_native_batch_norm_legit_no_training": _batch_norm_shift,
    "native_layer_norm": _bias_at(3, channels=False),
    "native_group_norm": _bias_at(2, channels=True),
    "cat": _joined,
    "stack": _joined,
    "_softmax": _softmax_at_zero,
    "_safe_softmax": _softmax_at_zero,
    "_log_softmax": _softmax_at_zero,
}


def uses_own_statistics(op: Operator) -> bool:
    """Whether a batch norm standardises by the statistics of its input (training mode)."""
    return op.title == "native_batch_norm" and not facts_of(op).fixed_statistics
