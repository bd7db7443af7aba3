"""Vector-Jacobian products written in forward operators, which a runtime for inference can run.

torch's decompositions are used where torch has them; the others are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from heatcli.system.torch_private import written_forward

_ATEN = torch.ops.aten


def _convolution(
    m: Tensor, x: Tensor, weights: Tensor, bias_sizes: Any, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """The multiplier of a convolution's input: a transposed convolution, or the plain one of a transposed one.

    `m` [N, K, …], `x` [N, C, …]. Multipliers of weight and bias are not computed.
    """
    if wanted[1] or wanted[2]:
        return NotImplemented
    none = [0] * len(stride)
    if transposed:
        back = _ATEN.convolution.default(m, weights, None, stride, padding, dilation, False, none, groups)
        return back, None, None
    around = [d * (k - 1) - p for k, p, d in zip(weights.shape[2:], padding, dilation, strict=True)]
    if all(s == 1 for s in stride) and min(around) >= 0:
        turned = _turned(weights, groups)
        return _ATEN.convolution.default(m, turned, None, stride, around, dilation, False, none, groups), None, None
    sizes = zip(x.shape[2:], m.shape[2:], weights.shape[2:], stride, padding, dilation, strict=True)
    short = [size - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for size, out, k, s, p, d in sizes]
    back = _ATEN.convolution.default(m, weights, None, stride, padding, dilation, True, short, groups)
    return back, None, None


def _turned(weights: Tensor, groups: int) -> Tensor:
    """The weights [K, C/groups, …] of the plain convolution that walks back through one of stride 1, [C, K/groups, …].

    ONNX Runtime turns constants when it loads the file. Its plain convolution is several times as fast as its
    transposed one if channels are apart (depthwise), and a little faster elsewhere.
    """
    if any(size > 1 for size in weights.shape[2:]):
        weights = weights.flip(tuple(range(2, weights.dim())))
    if groups == 1:
        return weights.transpose(0, 1)
    apart = weights.reshape(groups, -1, *weights.shape[1:]).transpose(1, 2)
    return apart.reshape(-1, *apart.shape[2:])


def _max_pool(
    m: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, indices: Tensor
) -> Tensor:
    """Each window's multiplier goes to its winner, whose index in the plane the forward run returned."""
    plane = torch.zeros_like(x).flatten(-2)
    return plane.scatter_add(-1, indices.flatten(-2), m.flatten(-2)).reshape(x.shape)


def _threshold(m: Tensor, x: Tensor, threshold: float) -> Tensor:
    """The multiplier where x is above the threshold, else 0. ONNX Runtime multiplies much faster than it selects."""
    return m * (x > threshold).to(m.dtype)


def _hardtanh(m: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """The multiplier where low < x < high, else 0."""
    inside = [side for side, end in ((x > low, low), (x < high, high)) if abs(end) != math.inf]
    return m * (inside[0] if len(inside) == 1 else (x > low) & (x < high)).to(m.dtype)


def _avg_pool(
    m: Tensor, x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool,
    count_include_pad: bool, divisor: int | None,
) -> Any:  # fmt: skip
    """Each window's multiplier over the window's size, spread by a transposed convolution with ones."""
    kernel = list(kernel) * 2 if len(kernel) == 1 else list(kernel)
    steps = list(stride or kernel)
    steps = steps * 2 if len(steps) == 1 else steps
    sides = list(padding) * 2 if len(padding) == 1 else list(padding)
    if ceil_mode:
        return NotImplemented
    if divisor is None and not count_include_pad:
        counts = _ATEN.avg_pool2d.default(torch.ones_like(x[:1, :1]), kernel, steps, sides, False, True, 1)
        m = m / counts
    else:
        m = m / (divisor or kernel[0] * kernel[1])
    channels = x.shape[-3]
    ones = torch.ones(channels, 1, *kernel, dtype=x.dtype, device=x.device)
    sizes = zip(x.shape[-2:], m.shape[-2:], kernel, steps, sides, strict=True)
    short = [size - ((out - 1) * s - 2 * p + k) for size, out, k, s, p in sizes]
    return _ATEN.convolution.default(m, ones, None, steps, sides, [1, 1], True, short, channels)


def _adaptive_avg_pool(m: Tensor, x: Tensor) -> Tensor:
    """Each cell's multiplier, spread evenly over the rows and the columns that the cell is the mean of."""
    high, wide = (_shares(x.shape[d], m.shape[d]).to(m) for d in (-2, -1))
    return high.mT @ m @ wide


def _shares(size: int, cells: int) -> Tensor:
    """The weight of each of `size` positions in the mean of each cell, [cells, size]."""
    places, cell = torch.arange(size)[None], torch.arange(cells)[:, None]
    start, end = cell * size // cells, -(-(cell + 1) * size // cells)
    return ((places >= start) & (places < end)).double() / (end - start)


def _copysign(size: Tensor, x: Tensor) -> Tensor:
    """|size| with the sign of x. The sign of 0 is plus, since the result is then multiplied by that 0."""
    return size.abs() - (x < 0).to(x.dtype) * (2 * size.abs())


def _addcdiv(x: Tensor, top: Tensor, bottom: Tensor, *, value: float = 1) -> Tensor:
    """x + value · top/bottom; torch's decomposition multiplies by −1, too."""
    return x - top / bottom if value == -1 else x + top / bottom * value


def _copy(into: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
    """`x` in the shape and dtype of `into`; torch's ONNX exporter leaves the broadcast out."""
    return x.to(into.dtype).expand_as(into).clone()


_OWN: Mapping[str, Callable[..., Any]] = {  # by the name of the operator whose backward it is
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool,
    "threshold": _threshold,
    "hardtanh": _hardtanh,
    "avg_pool2d": _avg_pool,
    "_adaptive_avg_pool2d": _adaptive_avg_pool,
}


@cache
def exportable() -> Mapping[Any, Callable[..., Any]]:
    """ATen's backward operators, and forward ones that ONNX lacks → functions of their arguments."""
    return {
        **written_forward(_OWN),
        _ATEN.copysign.Tensor: _copysign,
        _ATEN.addcdiv.default: _addcdiv,
        _ATEN.copy.default: _copy,
    }
