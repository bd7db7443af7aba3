"""Operators of quantised TorchScript and programs (pt2e), computed with the real numbers that values stand for.

A quantised layer is the layer with real weights, then `rounded`: the limits of the integer range are a clamp of their
own, with a lower limit of 0 that is the ReLU that fusion removed, and rounding is `torch.fake_quantize…`, whose
derivative is 1. ATen operators between (pooling, reshapes, ReLU) run on these real numbers. Dynamic quantisation rounds
its input by the range of each batch; that is left out, and so is the rounding of means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from heatcli.system.torch_private import library_name_of, unrecorded

_ATEN = torch.ops.aten
_RANGES = {torch.quint8: (0, 255), torch.qint8: (-128, 127), torch.qint32: (-(2**31), 2**31 - 1)}
Function = Callable[..., Any]  # a tensor, or a scale and a zero


def rounded(x: Tensor, scale: float, zero: int, low: int = 0, high: int = 255) -> Tensor:
    """`x`, of any shape, as multiples of `scale` for integers from `low` to `high`, of which `zero` is 0."""
    cut = _ATEN.clamp(x, (low - zero) * scale, (high - zero) * scale)
    # Relative to the zero point, since halves are rounded to even before it is added.
    real: Tensor = torch.fake_quantize_per_tensor_affine(cut, scale, 0, low - zero, high - zero)
    return real


def quantize(x: Tensor, scale: Any, zero: Any, dtype: torch.dtype) -> Tensor:
    """`aten::quantize_per_tensor`, of a tensor of any shape."""
    return rounded(x, float(scale), int(zero), *_RANGES[dtype])


def dequantize(x: Tensor) -> Tensor:
    """`aten::dequantize`, of a tensor of any shape: these values are real already; stored weights are not."""
    if not x.is_quantized:
        return x
    with unrecorded():
        return x.dequantize()


def quantize_decomposed(x: Tensor, scale: Any, zero: Any, low: int, high: int, *_: Any, **__: Any) -> Tensor:
    """`quantized_decomposed::quantize_per_tensor`, of a tensor of any shape; `scale` and `zero` may be tensors []."""
    with unrecorded():
        step, start = float(scale), int(zero)
    return x if step == _BY_BATCH else rounded(x, step, start, low, high)


_BY_BATCH = 0.0  # instead of a scale that is taken from the batch: nothing is rounded


def by_batch(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """`quantized_decomposed::choose_qparams` and its kin, by which dynamic quantisation rounds: scale and zero."""
    with unrecorded():
        return torch.full((), _BY_BATCH, device=x.device), torch.zeros((), dtype=torch.int64, device=x.device)


def unrounded(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Operators that round by a scale for each row of the batch, or undo that."""
    return x


def dequantize_decomposed(x: Tensor, scale: Any, zero: Any, *_: Any, **__: Any) -> Tensor:
    """`quantized_decomposed::dequantize_per_tensor`: quantised values are real already; stored integers are not."""
    if x.is_floating_point():
        return x
    real: Tensor = _ATEN.mul(_ATEN.sub(_ATEN._to_copy(x, dtype=torch.float32), zero), scale)
    return real


def dequantize_channels(x: Tensor, scales: Tensor, zeros: Tensor | None, axis: int, *_: Any, **__: Any) -> Tensor:
    """`quantized_decomposed::dequantize_per_channel` of stored integers, a scale [C] and a zero [C] along `axis`."""
    shape = [-1 if i == axis % x.dim() else 1 for i in range(x.dim())]
    zero: Any = 0 if zeros is None else _ATEN.view(zeros, shape)
    return dequantize_decomposed(x, _ATEN.view(_ATEN._to_copy(scales, dtype=torch.float32), shape), zero)


def quantize_channels(
    x: Tensor, scales: Tensor, zeros: Tensor, axis: int, low: int, high: int, *_: Any, **__: Any
) -> Tensor:
    """`quantized_decomposed::quantize_per_channel` of real weights, a scale [C] and a zero [C] along `axis`."""
    real: Tensor = torch.fake_quantize_per_channel_affine(
        x, _ATEN._to_copy(scales, dtype=torch.float32), _ATEN._to_copy(zeros, dtype=torch.int32), axis, low, high
    )
    return real


def dequantize_groups(x: Tensor, scales: Tensor, zeros: Tensor | None, *more: Any, **_: Any) -> Tensor:
    """`quantized_decomposed::dequantize_per_channel_group` of integers [C, K], scales and zeros [C, K / size].

    `more`: lowest and highest integer, dtype, size.
    """
    groups = _ATEN.view(x, [x.shape[0], -1, more[3]])
    zero: Any = 0 if zeros is None else _ATEN.unsqueeze(zeros, -1)
    real = dequantize_decomposed(groups, _ATEN.unsqueeze(_ATEN._to_copy(scales, dtype=torch.float32), -1), zero)
    found: Tensor = _ATEN.view(real, list(x.shape))
    return found


def _convolution(dims: int, relu: bool = False) -> Function:
    """`quantized::conv…d`. Raises `NotImplementedError` for operators of old exporters, which hold the strides."""
    way = torch.ops.quantized

    def run(x: Tensor, packed: Any, scale: float, zero: int, *more: Any) -> Tensor:
        if more:
            raise NotImplementedError(f"quantized::conv{dims}d of an old torch; quantise it again")
        with unrecorded():
            kind = "conv2d" if dims == 1 else f"conv{dims}d"
            weight, bias = getattr(way, f"{kind if dims > 1 else 'conv1d'}_unpack")(packed)
            weight = weight.dequantize()
            stride, padding, dilation = (
                getattr(way, f"{kind}_{what}")(packed)[-dims:] for what in ("stride", "padding", "dilation")
            )
            groups = getattr(way, f"{kind}_groups")(packed)
        y = _ATEN.convolution(x, weight, bias, stride, padding, dilation, False, [0] * dims, groups)
        return rounded(_ATEN.relu(y) if relu else y, scale, zero)

    return run


def _dense(x: Tensor, packed: Any) -> Tensor:
    """A dense layer with packed weights, before rounding."""
    with unrecorded():
        weight, bias = torch.ops.quantized.linear_unpack(packed)
        weight = weight.dequantize()
    y: Tensor = torch.nn.functional.linear(x, weight, bias)
    return y


def _linear(relu: bool = False) -> Function:
    """`quantized::linear`, or with `relu` the one fused with a ReLU."""

    def run(x: Tensor, packed: Any, scale: float, zero: int) -> Tensor:
        y = _dense(x, packed)
        return rounded(_ATEN.relu(y) if relu else y, scale, zero)

    return run


def _dynamic(relu: bool = False) -> Function:
    """`quantized::linear_dynamic`; its output is not rounded."""

    def run(x: Tensor, packed: Any, reduce_range: bool = False) -> Tensor:  # noqa: ARG001 (of the input's rounding)
        y = _dense(x, packed)
        return _ATEN.relu(y) if relu else y

    return run


def _binary(operator: Any, relu: bool = False) -> Function:
    """An operator of two arguments, rounded by the output's scale and zero point where there is a scale."""

    def run(a: Tensor, b: Any, scale: float | None = None, zero: int = 0) -> Tensor:
        y = operator(a, b)
        y = _ATEN.relu(y) if relu else y
        return y if scale is None else rounded(y, scale, zero)

    return run


def _unary(operator: Any) -> Function:
    """An operator with the output's scale and zero point behind its own arguments."""

    def run(x: Tensor, *given: Any) -> Tensor:
        *own, scale, zero = given
        return rounded(operator(x, *own), scale, zero)

    return run


def _leaky_relu(x: Tensor, slope: float, inplace: bool, scale: float, zero: int) -> Tensor:  # noqa: ARG001
    return rounded(_ATEN.leaky_relu(x, slope), scale, zero)


def _relu6(x: Tensor, inplace: bool = False) -> Tensor:  # noqa: ARG001
    y: Tensor = _ATEN.hardtanh(x, 0, 6)
    return y


def _cat(parts: Sequence[Tensor], dim: int, scale: float | None = None, zero: int | None = None) -> Tensor:
    y: Tensor = _ATEN.cat(list(parts), dim)
    return y if scale is None else rounded(y, scale, zero or 0)


def _batch_norm(relu: bool = False) -> Function:
    """`quantized::batch_norm` in evaluation mode."""

    def run(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, scale: float,
        zero: int,
    ) -> Tensor:  # fmt: skip
        y = torch.nn.functional.batch_norm(x, mean, var, weight, bias, eps=eps)
        return rounded(_ATEN.relu(y) if relu else y, scale, zero)

    return run


_BOTH = (False, True)
# `library::name` → what computes it, on real numbers.
QUANTISED: dict[str, Function] = {
    "aten::quantize_per_tensor": quantize,
    "aten::dequantize": dequantize,
    "quantized_decomposed::quantize_per_tensor": quantize_decomposed,
    "quantized_decomposed::dequantize_per_tensor": dequantize_decomposed,
    "quantized_decomposed::quantize_per_channel": quantize_channels,
    "quantized_decomposed::fake_quant_per_channel": quantize_channels,
    "quantized_decomposed::dequantize_per_channel": dequantize_channels,
    "quantized_decomposed::dequantize_per_channel_group": dequantize_groups,
    "quantized_decomposed::choose_qparams": by_batch,
    "quantized_decomposed::choose_qparams_symmetric": by_batch,
    "quantized_decomposed::choose_qparams_per_token": by_batch,
    "quantized_decomposed::choose_qparams_per_token_asymmetric": by_batch,
    "quantized_decomposed::_choose_qparams_per_token_asymmetric_impl": by_batch,
    "quantized_decomposed::quantize_per_token": unrounded,
    "quantized_decomposed::dequantize_per_token": unrounded,
    "quantized::linear": _linear(), "quantized::linear_relu": _linear(relu=True),
    "quantized::linear_dynamic": _dynamic(), "quantized::linear_relu_dynamic": _dynamic(relu=True),
    "quantized::add": _binary(_ATEN.add), "quantized::add_relu": _binary(_ATEN.add, relu=True),
    "quantized::mul": _binary(_ATEN.mul), "quantized::mul_relu": _binary(_ATEN.mul, relu=True),
    "quantized::add_scalar": _binary(_ATEN.add), "quantized::mul_scalar": _binary(_ATEN.mul),
    "quantized::matmul": _binary(torch.matmul),
    "quantized::cat": _cat, "quantized::leaky_relu": _leaky_relu, "quantized::relu6": _relu6,
    "quantized::hardswish": _unary(_ATEN.hardswish), "quantized::sigmoid": _unary(_ATEN.sigmoid),
    "quantized::softmax": _unary(torch.softmax),
    **{f"quantized::conv{dims}d{'_relu' * relu}": _convolution(dims, relu) for dims in (1, 2, 3) for relu in _BOTH},
    **{f"quantized::batch_norm{of}{'_relu' * r}": _batch_norm(r) for of in ("", "1d", "2d", "3d") for r in _BOTH},
}  # fmt: skip


# Operators on whole numbers, in which the image is no longer a real number: `library::name` → what to do.
WHOLE_NUMBERS = {"aten::_int_mm": "quantise the weights alone, or by pt2e, which are explained in real numbers"}


def quantises(graph: Any) -> bool:
    """Whether a TorchScript graph has quantised operators. Stored weights alone are none."""
    return any(graph.findNode(kind) for kind in QUANTISED if kind != "aten::dequantize")


def quantises_program(graph: torch.fx.Graph) -> bool:
    """Whether the graph of a program rounds values. Stored weights alone are none."""
    rounding = ("quantized_decomposed::quantize_per_tensor", "quantized_decomposed::quantize_per_token")
    return any(library_name_of(node.target) in rounding for node in graph.nodes)


def biases(module: Any) -> dict[str, Tensor]:
    """The biases of a module's quantised layers by name, such as `features.0.bias`.

    Unpacking again gives the same tensors, by which the recorder knows their names.
    """
    found = {}
    for name, part in module.named_modules() if isinstance(module, torch.jit.ScriptModule) else ():
        packed = getattr(part, "_packed_params", None)
        if isinstance(packed, torch.ScriptObject):
            kind = str(packed._type().qualified_name()).rpartition(".")[2].partition("PackedParams")[0].lower()
            unpack = getattr(torch.ops.quantized, f"{kind}_unpack", None)
            bias = None if unpack is None else unpack(packed)[1]
            if isinstance(bias, Tensor):
                found[f"{name.removesuffix('._packed_params')}.bias"] = bias
    return found
