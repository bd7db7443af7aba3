"""Operators of the domain com.microsoft, written by ONNX Runtime's quantiser and optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.onnx.node import Call, axes_of
from heatcli.artifact.onnx.operators import convolution, pooling, quantised
from heatcli.artifact.onnx.operators.normalisation import layer_norm
from heatcli.artifact.onnx.operators.quantised import dequantise, quantise
from heatcli.artifact.onnx.value import Operator, RefusedError, Value


def _pair(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of two quantised values, with the scale of the result."""

    def run(call: Call, a: Value, sa: Tensor, za: Tensor, b: Value, sb: Tensor, zb: Tensor, *scale: Tensor) -> Value:
        """The function of both real values, quantised again."""
        return quantise(call, function(dequantise(a, sa, za), dequantise(b, sb, zb)), *_scale(scale))

    return run


def _scale(given: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor | None]:
    """The scale of a result and its zero point; None without one."""
    scale, zero = (*given, None)[:2]
    assert scale is not None
    return scale, zero


def _one(function: Callable[[Call, Tensor], Tensor]) -> Operator:
    """An operator of one quantised value, with the scale of the result."""

    def run(call: Call, x: Value, sx: Tensor, zx: Tensor | None, *scale: Tensor) -> Value:
        """The function of the real value, quantised again."""
        return quantise(call, function(call, dequantise(x, sx, zx)), *_scale(scale))

    return run


def _channels_last(function: Callable[[Call, Tensor], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    """The operator on [N, H, W, C] if `channels_last` is set."""

    def run(call: Call, x: Tensor) -> Tensor:
        """The operator, with channels moved first and back."""
        if not call.get("channels_last", 0):
            return function(call, x)
        return torch.movedim(function(call, torch.movedim(x, -1, 1)), 1, -1)

    return run


def _quantised_concat(call: Call, scale: Tensor, zero: Tensor, *values: Value) -> Value:
    """com.microsoft's QLinearConcat."""
    parts = [dequantise(*values[i : i + 3]) for i in range(0, len(values), 3)]
    return quantise(call, torch.cat(parts, call.get("axis")), scale, zero)


def _quantised_gemm(
    call: Call, a: Value, sa: Tensor, za: Tensor, b: Value, sb: Tensor, zb: Tensor, c: Tensor | None = None,
    *scale: Tensor,
) -> Value:  # fmt: skip
    """com.microsoft's QGemm."""
    alpha, transposed = call.get("alpha", 1.0), call.get("transB", 0)
    left = dequantise(a, sa, za)
    right = dequantise(b, sb, zb, 0 if transposed else 1)
    left, right = left.t() if call.get("transA", 0) else left, right.t() if transposed else right
    if c is not None and not c.dtype.is_floating_point:
        c = c.to(left.dtype) * (sa.reshape(()) * sb.reshape(-1))
    y = torch.mm(left, right) * alpha if c is None else torch.addmm(c, left, right, alpha=alpha, beta=alpha)
    return quantise(call, y, *_scale(scale)) if scale and scale[0] is not None else y


def _reduce_mean(call: Call, x: Tensor) -> Tensor:
    """The mean over the axes."""
    axes = call.get("axes")
    return torch.mean(x, axes_of(axes or range(x.dim()), x.dim()), bool(call.get("keepdims", 1)))


def _activated(call: Call, y: Tensor) -> Tensor:
    """The activation fused into an operator. Raises `RefusedError` for an unknown one."""
    name, more = call.get("activation", ""), call.get("activation_params") or []
    known: dict[str, Callable[[], Tensor]] = {
        "": lambda: y,
        "Relu": lambda: torch.relu(y),
        "Tanh": lambda: torch.tanh(y),
        "Sigmoid": lambda: torch.sigmoid(y),
        "LeakyRelu": lambda: functional.leaky_relu(y, more[0]),
        "Clip": lambda: torch.clamp(y, more[0], more[1]),
        "HardSigmoid": lambda: torch.clamp(y * more[0] + more[1], 0, 1),
    }
    if name not in known:
        raise RefusedError(f"has an activation {name!r} that heatcli does not know")
    return known[name]()


def _fused_conv(call: Call, x: Tensor, w: Tensor, bias: Tensor | None = None, other: Tensor | None = None) -> Tensor:
    """com.microsoft's FusedConv."""
    y = convolution.convolve(call, x, w, bias)
    return _activated(call, y if other is None else y + other)


def _fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """com.microsoft's FusedMatMul."""
    if call.get("transBatchA", 0) or call.get("transBatchB", 0):
        raise RefusedError("transposes batches, which heatcli does not know")
    a = a.mT if call.get("transA", 0) else a
    b = b.mT if call.get("transB", 0) else b
    alpha = call.get("alpha", 1.0)
    y = torch.matmul(a, b)
    return y if alpha == 1 else y * alpha


def _fused_gemm(call: Call, *values: Tensor) -> Tensor:
    """com.microsoft's FusedGemm."""
    y: Tensor = convolution.OPERATORS["Gemm"](call, *values)
    return _activated(call, y)


def _quick_gelu(call: Call, x: Tensor) -> Tensor:
    """com.microsoft's QuickGelu."""
    return x * torch.sigmoid(x * call.get("alpha", 1.702))


def _fast_gelu(call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """com.microsoft's FastGelu."""
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def _skip_norm(
    call: Call, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, more: Tensor | None = None
) -> tuple[Tensor, ...]:
    """com.microsoft's SkipLayerNormalization."""
    summed = x + skip
    summed = summed if more is None else summed + more
    y, mean, deviation = layer_norm(summed, summed.dim() - 1, scale, bias, call.get("epsilon", 1e-12))
    return y, mean, deviation, summed


def _quantised_pool(call: Call, x: Tensor) -> Tensor:
    """The mean over windows [N, C, …]."""
    y: Tensor = pooling.OPERATORS["AveragePool"](call, x)
    return y


def _nhwc_max_pool(call: Call, x: Tensor) -> Any:
    """com.microsoft's NhwcMaxPool."""
    return torch.movedim(pooling.OPERATORS["MaxPool"](call, torch.movedim(x, -1, 1)), 1, -1)


def _dynamic_matmul(
    call: Call, a: Tensor, b: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """com.microsoft's DynamicQuantizeMatMul."""
    x, _, _ = quantised.OPERATORS["DynamicQuantizeLinear"](call, a)
    y = torch.matmul(x.real, dequantise(b, scale, zero, -1))
    return y if bias is None else y + bias


def _integer_matmul(
    call: Call, a: Value, b: Value, sa: Value, sb: Tensor, za: Tensor | None = None, zb: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """com.microsoft's MatMulIntegerToFloat."""
    y = torch.matmul(dequantise(a, sa, za), dequantise(b, sb, zb, -1))
    return y if bias is None else y + bias


# Operators that receive quantised values unconverted.
QUANTISED: dict[str, Operator] = {
    "QuantizeLinear": quantised.OPERATORS["QuantizeLinear"],
    "DequantizeLinear": quantised.OPERATORS["DequantizeLinear"],
    "QLinearConv": quantised.OPERATORS["QLinearConv"],
    "QLinearAdd": _pair(torch.add),
    "QLinearMul": _pair(torch.mul),
    "QLinearSigmoid": _one(lambda call, x: torch.sigmoid(x)),
    "QLinearLeakyRelu": _one(lambda call, x: functional.leaky_relu(x, call.get("alpha", 0.01))),
    "QLinearSoftmax": _one(lambda call, x: torch.softmax(x, call.get("axis", -1))),
    "QLinearGlobalAveragePool": _one(_channels_last(lambda call, x: torch.mean(x, list(range(2, x.dim())), True))),
    "QLinearAveragePool": _one(_channels_last(_quantised_pool)),
    "QLinearReduceMean": _one(_reduce_mean),
    "QLinearConcat": _quantised_concat,
    "QGemm": _quantised_gemm,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _integer_matmul,
}

OPERATORS: dict[str, Operator] = {
    **QUANTISED,
    "FusedConv": _fused_conv,
    "FusedMatMul": _fused_matmul,
    "FusedGemm": _fused_gemm,
    "Gelu": lambda call, x: functional.gelu(x),
    "BiasGelu": lambda call, x, bias: functional.gelu(x + bias),
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_norm,
    "NhwcMaxPool": _nhwc_max_pool,
}
