"""Elementwise operators of one, two or more tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.onnx.node import Call
from heatcli.artifact.onnx.quantised import Quantised, Scaled, whole
from heatcli.artifact.onnx.tensors import HALF_BYTES, dtype_of
from heatcli.artifact.onnx.value import Operator, RefusedError, Value

_ATEN = torch.ops.aten
_NARROW = (torch.uint16, torch.uint32, torch.uint64)  # torch has few kernels for these


def _one(function: Callable[[Tensor], Tensor]) -> Operator:
    """An operator of one tensor."""
    return lambda call, x: function(x)


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of two tensors, with broadcasting."""

    def run(call: Call, a: Tensor, b: Tensor) -> Tensor:
        """The function of both tensors. Raises `RefusedError` for the broadcasting of old opsets."""
        if call.opset < 7:
            raise RefusedError("broadcasts as before opset 7")
        if a.dtype in _NARROW:
            result = function(a.long(), b.long())
            return result if result.dtype == torch.bool else result.to(a.dtype)
        return function(a, b)

    return run


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of tensors, two at a time."""
    pair = _two(function)
    return lambda call, *values: functools.reduce(functools.partial(pair, call), values)


def _mean(call: Call, *values: Tensor) -> Tensor:
    """ONNX's Mean."""
    return _many(torch.add)(call, *values) / len(values)  # type: ignore[no-any-return]


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """a/b; of integers, rounded towards 0."""
    if a.dtype.is_floating_point or a.is_complex():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


def _power(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """ONNX's Pow: x^y, in the type of x."""
    exponent = call.number(1, y)
    if not x.dtype.is_floating_point and y.dtype.is_floating_point:
        return torch.pow(x.to(y.dtype), y).to(x.dtype)
    return torch.pow(x, exponent).to(x.dtype)


def _modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """ONNX's Mod."""
    function = torch.fmod if call.get("fmod", 0) else torch.remainder
    return _two(function)(call, a, b)  # type: ignore[no-any-return]


def _shift(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """ONNX's BitShift."""
    x, by = a.long(), b.long()
    moved = x << by if call.get("direction") == "LEFT" else x >> by
    return moved.to(a.dtype)


def _not_finite(call: Call, x: Tensor) -> Tensor:
    """ONNX's IsInf."""
    is_infinite = torch.zeros_like(x, dtype=torch.bool)
    for sign, name in ((1, "detect_positive"), (-1, "detect_negative")):
        is_infinite = is_infinite | (x == sign * math.inf) if call.get(name, 1) else is_infinite
    return is_infinite


def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """ONNX's Clip: min(max(x, low), high)."""
    ends: list[Any] = [call.get("min"), call.get("max")] if call.opset < 11 else [
        None if end is None else call.number(i, end) for i, end in ((1, low), (2, high))
    ]  # fmt: skip
    limits = torch.finfo(x.dtype) if x.dtype.is_floating_point else torch.iinfo(x.dtype)
    for i, limit in enumerate((limits.min, limits.max)):  # the dtype's own limits are no bounds
        if not isinstance(ends[i], Tensor) and ends[i] is not None and (ends[i] == limit or math.isinf(ends[i])):
            ends[i] = None
    if ends == [None, None]:
        return x
    if isinstance(ends[0], Tensor) == isinstance(ends[1], Tensor) or None in ends:
        return torch.clamp(x, *ends)
    return torch.clamp(torch.clamp(x, min=ends[0]), max=ends[1])


def _gelu(call: Call, x: Tensor) -> Tensor:
    """ONNX's Gelu."""
    return functional.gelu(x, approximate=call.get("approximate", "none"))


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """ONNX's HardSigmoid: clamp(α·x + β, 0, 1)."""
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return functional.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0, 1)


def _shrink(call: Call, x: Tensor) -> Tensor:
    """ONNX's Shrink: x + bias below −λ, x − bias above λ, else 0."""
    at, by = call.get("lambd", 0.5), call.get("bias", 0.0)
    if x.dtype.is_floating_point and by in (0, at) and at >= 0:
        return functional.hardshrink(x, at) if by == 0 else functional.softshrink(x, at)
    zero = torch.zeros_like(x)
    return torch.where(x < -at, x + by, torch.where(x > at, x - by, zero)).to(x.dtype)


def _swish(call: Call, x: Tensor) -> Tensor:
    """ONNX's Swish: x·sigmoid(α·x)."""
    alpha = call.get("alpha", 1.0)
    return functional.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def _swiglu(call: Call, x: Tensor, gate: Tensor | None = None) -> Tensor:
    """ONNX's SwiGLU."""
    if gate is None:
        x, gate = torch.chunk(x, 2, -1)
    return _swish(call, x) * gate


def _selu(call: Call, x: Tensor) -> Tensor:
    """ONNX's Selu: γ·x above 0, γ·α·(eˣ − 1) below."""
    alpha, gamma = call.get("alpha", 1.67326319217681884765625), call.get("gamma", 1.05070102214813232421875)
    return _ATEN.elu(x, alpha, gamma, 1)  # type: ignore[no-any-return]


def _prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """ONNX's PRelu: x above 0, slope·x below."""
    if not x.dtype.is_floating_point:
        return torch.where(x >= 0, x, x * slope)
    return _ATEN._prelu_kernel(x, slope)  # type: ignore[no-any-return]


def _where(call: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """ONNX's Where."""
    return torch.where(condition, x, y)


def cast(x: Tensor, number: int, saturate: bool = True) -> Tensor:
    """`x`, of any shape, as the ONNX type of that number.

    float8 is clamped to its range, 4-bit integers keep their lowest bits.
    """
    dtype = dtype_of(number)
    if number in HALF_BYTES:
        low, high = HALF_BYTES[number]
        whole = torch.trunc(x.float()).to(torch.int64) & 15
        return torch.where(whole > high, whole - 16, whole).to(dtype) if low < 0 else whole.to(dtype)
    if dtype.is_floating_point and dtype.itemsize == 1:
        return _float8(x, dtype, saturate)
    return x.to(dtype)


def _float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """As `cast`, for the types of 8 bits; `saturate`: clamp instead of overflowing."""
    ends = torch.finfo(dtype)
    wide = x.float()
    if not saturate:
        lost = math.nan if "fn" in str(dtype) else math.inf
        over = wide.to(dtype).float()
        beyond = (wide.abs() > ends.max) & (over.abs() >= ends.max) & ~torch.isnan(wide)
        step = torch.where(beyond & _rounds_beyond(wide, ends), torch.sign(wide) * lost, wide)
        return step.to(dtype)
    finite = torch.where(torch.isnan(wide), wide, wide.clamp(ends.min, ends.max))
    return finite.to(dtype)


def _rounds_beyond(x: Tensor, ends: torch.finfo) -> Tensor:
    """Whether x would round beyond the largest number if the exponent range had no limit."""
    step = 2.0 ** math.floor(math.log2(ends.max)) * ends.eps
    return x.abs() >= ends.max + step / 2


def _cast(call: Call, x: Value) -> Value:
    """ONNX's Cast."""
    if isinstance(x, Scaled) and dtype_of(call.get("to")) == x.real.dtype:
        return x  # integers already held as real numbers
    if isinstance(x, Quantised) and dtype_of(call.get("to")).is_floating_point:
        return x.counts.to(dtype_of(call.get("to")))
    return cast(whole(x), call.get("to"), bool(call.get("saturate", 1)))


def _multiply(call: Call, a: Value, b: Value) -> Value:
    """ONNX's Mul."""
    if isinstance(a, Scaled) or isinstance(b, Scaled):
        return a.times(whole(b)) if isinstance(a, Scaled) and not isinstance(b, Scaled) else b.times(a)
    return _two(torch.mul)(call, whole(a), whole(b))


def _bit_cast(call: Call, x: Tensor) -> Tensor:
    """The same bytes, read as another type of equal size."""
    return x.view(dtype_of(call.get("to")))


def _cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    """ONNX's CastLike."""
    if call.get("to"):
        return cast(x, call.get("to"))
    if like.dtype.is_floating_point and like.dtype.itemsize == 1:
        return _float8(x, like.dtype, bool(call.get("saturate", 1)))
    return x.to(like.dtype)


def _random(call: Call, *values: Tensor) -> Tensor:
    """Refuse a random operator."""
    raise RefusedError("is a random operator; an explanation needs a network that always says the same")


def _dropout(call: Call, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Any:
    """ONNX's Dropout in evaluation mode, which changes nothing."""
    if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
        raise RefusedError("is a random operator (Dropout in training mode); export the network for inference")
    return (x, torch.ones_like(x, dtype=torch.bool)) if call.wants(1) else x


OPERATORS: dict[str, Operator] = {
    "Abs": _one(torch.abs), "Acos": _one(torch.acos), "Acosh": _one(torch.acosh), "Asin": _one(torch.asin),
    "Asinh": _one(torch.asinh), "Atan": _one(torch.atan), "Atanh": _one(torch.atanh), "Ceil": _one(torch.ceil),
    "Cos": _one(torch.cos), "Cosh": _one(torch.cosh), "Erf": _one(torch.erf), "Exp": _one(torch.exp),
    "Floor": _one(torch.floor), "HardSwish": _one(functional.hardswish), "Identity": lambda call, x: x,
    "IsNaN": _one(torch.isnan), "Log": _one(torch.log), "Mish": _one(functional.mish), "Neg": _one(torch.neg),
    "BitCast": _bit_cast, "Not": _one(torch.logical_not), "BitwiseNot": _one(torch.bitwise_not),
    "Reciprocal": _one(torch.reciprocal),
    "Relu": _one(torch.relu), "Round": _one(torch.round), "Sigmoid": _one(torch.sigmoid), "Sign": _one(torch.sign),
    "Sin": _one(torch.sin), "Sinh": _one(torch.sinh), "Softplus": _one(functional.softplus),
    "Softsign": _one(functional.softsign), "Sqrt": _one(torch.sqrt), "Tan": _one(torch.tan), "Tanh": _one(torch.tanh),
    "Add": _two(torch.add), "Sub": _two(torch.sub), "Mul": _multiply, "Div": _two(_divide),
    "Pow": _power, "Mod": _modulo, "And": _two(torch.logical_and), "Or": _two(torch.logical_or),
    "Xor": _two(torch.logical_xor), "BitwiseAnd": _two(torch.bitwise_and), "BitwiseOr": _two(torch.bitwise_or),
    "BitwiseXor": _two(torch.bitwise_xor), "BitShift": _shift, "Equal": _two(torch.eq), "Less": _two(torch.lt),
    "Greater": _two(torch.gt), "LessOrEqual": _two(torch.le), "GreaterOrEqual": _two(torch.ge),
    "Max": _many(torch.maximum), "Min": _many(torch.minimum), "Sum": _many(torch.add), "Mean": _mean,
    "Where": _where, "Clip": _clip, "IsInf": _not_finite, "PRelu": _prelu, "Selu": _selu, "Gelu": _gelu,
    "Elu": lambda call, x: functional.elu(x, call.get("alpha", 1.0)),
    "Celu": lambda call, x: torch.celu(x, call.get("alpha", 1.0)),
    "LeakyRelu": lambda call, x: functional.leaky_relu(x, call.get("alpha", 0.01)),
    "ThresholdedRelu": lambda call, x: functional.threshold(x, call.get("alpha", 1.0), 0.0),
    "HardSigmoid": _hard_sigmoid, "Shrink": _shrink, "Swish": _swish, "SwiGLU": _swiglu,
    "Cast": _cast, "CastLike": _cast_like, "Dropout": _dropout,
    **dict.fromkeys(
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split(), _random
    ),
}  # fmt: skip
