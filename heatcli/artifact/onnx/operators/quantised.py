"""Quantised operators, computed with the real numbers that quantised values represent.

Rounding is `torch.fake_quantize…`, whose derivative is 1. The limits of the integer range are a separate clamp before
it. With a lower limit of 0, the clamp is the ReLU that fusion removed from the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Call, Node
from heatcli.artifact.onnx.operators.convolution import convolve
from heatcli.artifact.onnx.operators.elementwise import cast
from heatcli.artifact.onnx.quantised import Quantised, Scaled, along, plain, whole
from heatcli.artifact.onnx.tensors import HALF_BYTES, RANGES, dtype_of
from heatcli.artifact.onnx.value import Operator, RefusedError, Value
from heatcli.graph.quantised import rounded


def quantise(
    call: Call, x: Tensor, scale: Tensor, zero: Tensor | None, axis: int | None = None, block: int = 0, number: int = 0
) -> Quantised:
    """`x`, of any shape, rounded to multiples of its scale and clamped to the integer range.

    `scale`, `zero`: one, one for each index of `axis`, or one for each `block` along it. `number`: the ONNX type, if
    known. Raises `RefusedError` for a type that heatcli does not know.
    """
    dtype = dtype_of(number) if number else torch.uint8 if zero is None else zero.dtype
    axis = None if scale.numel() == 1 else axis
    x, scale = x.to(scale.dtype), plain(scale)
    if dtype.is_floating_point:
        spread = _spread(scale, x, axis, block)
        return Quantised(cast(x / spread, number or _number(dtype)).to(x.dtype) * spread, scale, zero, dtype, axis)
    low, high = HALF_BYTES.get(number, RANGES.get(dtype, (0, 0)))
    if low == high:
        raise RefusedError(f"quantises to {dtype}, which heatcli does not know")
    wide = x.float()
    if block or scale.dim() > 1:
        real = _rounded_blocks(wide, scale, zero, axis, block, (low, high))
        return Quantised(real.to(x.dtype), _spread(scale, x, axis, block), _maybe(zero, x, axis, block), dtype, axis)
    if axis is not None:
        axis %= x.dim()
        return Quantised(_rounded_rows(wide, scale, zero, axis, low, high).to(x.dtype), scale, zero, dtype, axis)
    step, at = scale.item(), 0 if zero is None else int(zero)
    return Quantised(rounded(wide, step, at, low, high).to(x.dtype), scale, zero, dtype)


def _rounded_rows(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, low: int, high: int) -> Tensor:
    """`x` rounded with a scale for each index of an axis."""
    step = scale.float().reshape(-1)
    at = torch.zeros_like(step) if zero is None else zero.reshape(-1).float()
    lower, upper = (along((end - at) * step, x, axis) for end in (low, high))
    cut = torch.clamp(x, lower, upper)
    # No zero point here either. The clamp has applied the limits already.
    return torch.fake_quantize_per_channel_affine(cut, step, torch.zeros_like(step), axis, low - high, high - low)


def _rounded_blocks(
    x: Tensor, scale: Tensor, zero: Tensor | None, axis: int | None, block: int, ends: tuple[int, int]
) -> Tensor:
    """`x` rounded with a scale for each block along an axis; each element counts as a row of its own."""
    step = _spread(scale, x, axis, block).float()
    at = torch.zeros_like(step) if zero is None else _spread(zero, x, axis, block).float()
    flat = [v.reshape(-1) for v in (x, step, at)]
    rows = _rounded_rows(flat[0][:, None], flat[1], flat[2], 0, *ends)
    return rows.reshape(x.shape)


def _spread(value: Tensor, x: Tensor, axis: int | None, block: int) -> Tensor:
    """A scale or zero point with the shape of `x`, or broadcast along its axis."""
    if value.dim() > 1 and axis is not None and value.numel() > 1:
        block = block or -(-x.shape[axis] // value.shape[axis])
        return torch.repeat_interleave(value, block, axis).narrow(axis, 0, x.shape[axis])
    laid = along(value, x, axis)
    assert laid is not None
    return laid


def _maybe(value: Tensor | None, x: Tensor, axis: int | None, block: int) -> Tensor | None:
    """As `_spread`; None stays None."""
    return None if value is None else _spread(value, x, axis, block)


def _number(dtype: torch.dtype) -> int:
    """The ONNX number of a torch dtype."""
    from heatcli.artifact.onnx.tensors import DTYPES

    return next(number for number, known in DTYPES.items() if known == dtype)


def dequantise(x: Value, scale: Tensor, zero: Tensor | None = None, axis: int | None = None, block: int = 0) -> Tensor:
    """(x − zero)·scale, `scale` and `zero` as for `quantise`.

    A value quantised with that scale gives its `real`; real numbers stay unchanged.
    """
    scale = plain(scale)
    if isinstance(x, Quantised):
        if x.scale is scale and x.zero_point is zero and (axis == x.axis or x.axis is None):
            return x.real
        if x.same_scale(Quantised(x.real, scale, zero, x.dtype)):
            return x.real
        x = x.whole
    if x.dtype.is_floating_point and x.dtype.itemsize > 1:
        real: Tensor = x
        return real
    real = x.to(scale.dtype)
    if zero is not None:
        real = real - _spread(zero, x, axis, block).to(scale.dtype)
    return real * _spread(scale, x, axis, block)


def _quantize_linear(call: Call, x: Value, scale: Tensor, zero: Tensor | None = None) -> Quantised:
    """ONNX's QuantizeLinear."""
    number = call.get("output_dtype", 0)
    return quantise(call, whole(x), scale, zero, call.get("axis", 1), call.get("block_size", 0), number)


def _dequantize_linear(call: Call, x: Value, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """ONNX's DequantizeLinear."""
    real = dequantise(x, scale, zero, call.get("axis", 1), call.get("block_size", 0))
    number = call.get("output_dtype", 0)
    return real.to(dtype_of(number)) if number else real


def _dynamic(call: Call, x: Value) -> tuple[Value, ...]:
    """ONNX's DynamicQuantizeLinear: the scale is that of the input's range."""
    x = whole(x)
    low, high = (torch.clamp(torch.amin(x), max=0.0), torch.clamp(torch.amax(x), min=0.0))
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    # The range is that of the values, so nothing is clamped, and the zero point has no effect.
    at = torch.zeros(1, dtype=torch.int32, device=x.device)
    real = torch.fake_quantize_per_tensor_affine(x, scale, at, -255, 255)
    factor = Scaled(torch.ones_like(scale), scale, 1)
    whole_zero = zero.to(torch.uint8)
    return Quantised(real, scale, whole_zero, torch.uint8), factor, whole_zero


def _from_zero(x: Value, zero: Tensor | None, axis: int | None = None) -> tuple[Tensor, Tensor | None]:
    """x − zero as integers, or as real numbers together with the scale to divide the result by (else None)."""
    if isinstance(x, Quantised) and x.axis is None and x.scale.numel() == 1 and _same(x.zero_point, zero):
        return x.real, x.scale
    x = whole(x).float()
    if zero is None:
        return x, None
    laid = along(zero, x, axis)
    assert laid is not None
    return x - laid.float(), None


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two scales or zero points are equal."""
    if a is b:
        return True
    ends = [torch.zeros(()) if v is None else v.float().reshape(-1) for v in (a, b)]
    return ends[0].numel() == ends[1].numel() and bool((ends[0] == ends[1]).all())


def _undivided(y: Tensor, scales: list[Tensor | None]) -> Value:
    """The integers y/scale, with the division by the first scale deferred, since it is usually multiplied back."""
    known = [scale for scale in scales if scale is not None]
    for scale in known[1:]:
        y = y / scale
    return Scaled(y, known[0], -1) if known else torch.round(y).to(torch.int32)


def _matmul_integer(
    call: Call,
    a: Value,
    b: Value,
    zero_a: Tensor | None = None,
    zero_b: Tensor | None = None,
) -> Value:
    """ONNX's MatMulInteger."""
    left, scale_a = _from_zero(a, zero_a, -2)
    right, scale_b = _from_zero(b, zero_b, -1)
    return _undivided(torch.matmul(left, right), [scale_a, scale_b])


def _conv_integer(call: Call, x: Value, w: Value, zero_x: Tensor | None = None, zero_w: Tensor | None = None) -> Value:
    """ONNX's ConvInteger."""
    left, scale_x = _from_zero(x, zero_x)
    right, scale_w = _from_zero(w, zero_w, 0)
    return _undivided(convolve(call, left, right), [scale_x, scale_w])


def _qlinear_conv(
    call: Call, x: Value, xs: Tensor, xz: Tensor, w: Value, ws: Tensor, wz: Tensor, ys: Tensor, yz: Tensor,
    bias: Tensor | None = None,
) -> Quantised:  # fmt: skip
    """ONNX's QLinearConv."""
    real = dequantise(w, ws, wz, 0)
    if bias is not None and not bias.dtype.is_floating_point:
        bias = bias.to(real.dtype) * (xs.reshape(()) * ws.reshape(-1))
    return quantise(call, convolve(call, dequantise(x, xs, xz), real, bias), ys, yz)


def _qlinear_matmul(
    call: Call, a: Value, sa: Tensor, za: Tensor, b: Value, sb: Tensor, zb: Tensor, ys: Tensor, yz: Tensor
) -> Quantised:
    """ONNX's QLinearMatMul."""
    left = dequantise(a, sa, za, -2 if sa.dim() == 1 else None)
    right = dequantise(b, sb, zb, -1 if sb.dim() == 1 else None)
    return quantise(call, torch.matmul(left, right), ys, yz)


def _real(axis: int | None) -> Callable[..., Tensor]:
    """A function that dequantises weights with a scale for each index of an axis."""
    return lambda node, w, scale, zero=None: dequantise(w, scale, zero, axis)


def _real_as_said(node: Node, w: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """As `_real`, by the node's own axis and block size."""
    get = node.attributes.get
    real = dequantise(w, scale, zero, get("axis", 1), get("block_size", 0))
    number = int(get("output_dtype", 0))
    return real.to(dtype_of(number)) if number else real


def _real_bias(node: Node, bias: Tensor, xs: Tensor, ws: Tensor) -> Tensor:
    """A bias of integers, whose scale is that of the input times that of the weights."""
    return bias.to(ws.dtype) * (xs.reshape(()) * ws.reshape(-1))


# Operator → index of a weight → (indices of the inputs with its scale, the function that dequantises it).
WEIGHTS: dict[str, dict[int, tuple[tuple[int, ...], Callable[..., Any]]]] = {
    "DequantizeLinear": {0: ((1, 2), _real_as_said)},
    "QLinearConv": {8: ((1, 4), _real_bias), 3: ((4, 5), _real(0))},
    "QLinearMatMul": {3: ((4, 5), _real(-1))},
    "QGemm": {6: ((1, 4), _real_bias)},
}

OPERATORS: dict[str, Operator] = {
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic,
    "ConvInteger": _conv_integer,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
}
