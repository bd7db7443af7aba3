"""Convolutions, matrix products, and other operators with weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.onnx.node import Call
from heatcli.artifact.onnx.value import Operator


def pads_of(call: Call, size: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial dimension, from `pads` or `auto_pad`."""
    rank, mode = len(size), call.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return [0] * rank, [0] * rank
    if mode == "NOTSET":
        pads = list(call.get("pads") or [0] * 2 * rank)
        return pads[:rank], pads[rank:]
    strides, dilations = (call.get(name) or [1] * rank for name in ("strides", "dilations"))
    before, after = [], []
    for n, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-n // stride) - 1) * stride + (k - 1) * dilation + 1 - n, 0)
        less, more = total // 2, total - total // 2
        before.append(less if mode == "SAME_UPPER" else more)
        after.append(more if mode == "SAME_UPPER" else less)
    return before, after


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` [N, C, …] with its last dimensions padded; negative numbers crop."""
    flat = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv, in any number of dimensions."""
    rank = x.dim() - 2
    before, after = pads_of(call, x.shape[2:], weight.shape[2:])
    strides, dilations = (call.get(name) or [1] * rank for name in ("strides", "dilations"))
    if before != after or min(before) < 0:
        x, before = padded(x, before, after), [0] * rank
    return torch.convolution(x, weight, bias, strides, before, dilations, False, [0] * rank, call.get("group", 1))


def _transposed(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """ONNX's ConvTranspose."""
    rank = x.dim() - 2
    strides, dilations = (call.get(name) or [1] * rank for name in ("strides", "dilations"))
    extra = list(call.get("output_padding") or [0] * rank)
    full = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(x.shape[2:], strides, weight.shape[2:], dilations, strict=True)
    ]
    before, after = _transposed_pads(call, x.shape[2:], full, strides, extra)
    group = call.get("group", 1)
    if (
        before == after
        and min(before) >= 0
        and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    ):
        return torch.convolution(x, weight, bias, strides, before, dilations, True, extra, group)
    y = torch.convolution(x, weight, None, strides, [0] * rank, dilations, True, [0] * rank, group)
    y = padded(y, [-p for p in before], [e - p for p, e in zip(after, extra, strict=True)])
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * rank)


def _transposed_pads(
    call: Call, size: Sequence[int], full: Sequence[int], strides: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The crop before and after each dimension of the `full` output, to which `extra` is added first."""
    mode, wanted = call.get("auto_pad", "NOTSET"), call.get("output_shape")
    if wanted is None and mode in ("NOTSET", "VALID"):
        return pads_of(call, size, size)
    wanted = list(wanted)[-len(size) :] if wanted else [n * s for n, s in zip(size, strides, strict=True)]
    totals = [f + e - w for f, e, w in zip(full, extra, wanted, strict=True)]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """ONNX's Gemm: α·A·B + β·C."""
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    a = a.t() if call.get("transA", 0) else a
    b = b.t() if call.get("transB", 0) else b
    if not a.dtype.is_floating_point:
        alpha, beta = int(alpha), int(beta)
    if c is not None:
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)
    return torch.mm(a, b) if alpha == 1 else torch.mm(a, b) * alpha


def _matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """ONNX's MatMul."""
    return torch.matmul(a, b)


def _einsum(call: Call, *values: Tensor) -> Tensor:
    """ONNX's Einsum."""
    return torch.einsum(call.get("equation").replace(" ", ""), *values)


OPERATORS: dict[str, Operator] = {
    "Conv": convolve,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Det": lambda call, x: torch.linalg.det(x),
}
