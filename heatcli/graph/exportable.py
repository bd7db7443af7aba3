"""ATen operators in terms of those that every runtime has, for explained models.

Runtimes for inference have no backward operators, and torch's exporter leaves out some forward ones, or writes another
function. `exportable` says what is written in their place: torch's decompositions or the functions of this file.
Functions take ATen's arguments, and return NotImplemented where the operator itself can stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.axes import (
    PADDINGS,
    RESIZES,
    adaptive_avg_pool,
    adaptive_avg_pool_back,
    avg_pool,
    avg_pool_back,
    pad_back,
    resize,
    resize_back,
)
from heatcli.graph.sampling import grid_sampled, grid_sampler_back
from heatcli.graph.scans import cumprod, cumulative, kthvalue, median, median_of_all
from heatcli.graph.writes import (
    as_strided,
    as_strided_scatter,
    diagonal_scatter,
    index_fill,
    index_put,
    index_reduce,
    masked_scatter_back,
    scatter_reduce,
    unfold_back,
    view,
)
from heatcli.system.torch_private import unrecorded, written_forward

_ATEN = torch.ops.aten


def _convolution_back(
    m: Tensor, x: Tensor, weights: Tensor, bias_sizes: Sequence[int] | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The multipliers of a convolution's input, weights and bias. `m` [N, K, …], `x` [N, C, …]."""
    count = weights.dim() - 2
    steps, sides, holes = ([*each] * (count // len(each)) for each in (stride, padding, dilation))
    how = steps, sides, holes, transposed, groups
    return (
        _by_input(m, x, weights, *how) if wanted[0] else None,
        _by_weights(m, x, weights, *how) if wanted[1] else None,
        m.sum((0, *range(2, m.dim()))) if wanted[2] else None,
    )


def _by_input(
    m: Tensor, x: Tensor, weights: Tensor, stride: list[int], padding: list[int], dilation: list[int], transposed: bool,
    groups: int,
) -> Tensor:  # fmt: skip
    """The multiplier of the input: a transposed convolution, or the plain one of a transposed one.

    In ONNX Runtime a plain convolution with turned weights is faster if the stride is 1, and twice as fast if a stride
    puts zeros between the multipliers of channels that are apart (depthwise).
    """
    count = weights.dim() - 2
    none = [0] * count
    if transposed:
        return _convolved(m, weights, stride, padding, dilation, False, none, groups)
    around = [d * (k - 1) - p for k, p, d in zip(weights.shape[2:], padding, dilation, strict=True)]
    sizes = zip(x.shape[2:], m.shape[2:], weights.shape[2:], stride, padding, dilation, strict=True)
    short = [size - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for size, out, k, s, p, d in sizes]
    apart = groups == x.shape[1] == m.shape[1] > 1
    if min(around) < 0 or (not apart and max(stride) > 1):
        return _convolved(m, weights, stride, padding, dilation, True, short, groups)
    ones = [1] * count
    if max(stride) > 1:
        one = weights.new_ones(groups, 1, *ones)
        m = _convolved(m, one, stride, none, ones, True, short, groups)
    return _convolved(m, _turned(weights, groups), ones, around, dilation, False, none, groups)


def _by_weights(
    m: Tensor, x: Tensor, weights: Tensor, stride: list[int], padding: list[int], dilation: list[int], transposed: bool,
    groups: int,
) -> Tensor:  # fmt: skip
    """The multiplier of the weights: what is read, convolved with what is written; images are summed as channels.

    Stride and dilation change their places. Of a transposed convolution `m` is read and `x` written.
    """
    read, written = (m, x) if transposed else (x, m)
    n, channels = read.shape[:2]
    read = read.reshape(n, groups, -1, *read.shape[2:]).transpose(0, 2)
    read = read.reshape(channels // groups, -1, *read.shape[3:])
    none = [0] * len(stride)
    made = _convolved(read, written.transpose(0, 1), dilation, padding, stride, False, none, groups).transpose(0, 1)
    for axis, size in enumerate(weights.shape[2:], 2):
        made = made.narrow(axis, 0, size)
    return made


def _convolved(x: Tensor, weights: Tensor, *how: Any) -> Tensor:
    """A convolution without bias."""
    return _ATEN.convolution.default(x, weights, None, *how)  # type: ignore[no-any-return]


def _turned(weights: Tensor, groups: int) -> Tensor:
    """The weights [K, C/groups, …] of the plain convolution that walks back through one of stride 1, [C, K/groups, …].

    ONNX Runtime turns constants when it loads the file.
    """
    if any(size > 1 for size in weights.shape[2:]):
        weights = weights.flip(tuple(range(2, weights.dim())))
    if groups == 1:
        return weights.transpose(0, 1)
    apart = weights.reshape(groups, -1, *weights.shape[1:]).transpose(1, 2)
    return apart.reshape(-1, *apart.shape[2:])


def _max_pool(count: int, m: Tensor, x: Tensor, *windows: Any) -> Tensor:
    """Each window's multiplier goes to its winner, whose index among `count` axes the forward run returned last."""
    indices = windows[-1]
    plane = torch.zeros_like(x).flatten(-count)
    return plane.scatter_add(-1, indices.flatten(-count), m.flatten(-count)).reshape(x.shape)


def _threshold(m: Tensor, x: Tensor, threshold: float) -> Tensor:
    """The multiplier where x is above the threshold, else 0. ONNX Runtime multiplies much faster than it selects."""
    return m * (x > threshold).to(m.dtype)


def _hardtanh(m: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """The multiplier where low < x < high, else 0."""
    inside = [side for side, end in ((x > low, low), (x < high, high)) if abs(end) != math.inf]
    return m * (inside[0] if len(inside) == 1 else (x > low) & (x < high)).to(m.dtype)


def _in_windows(x: Tensor, sizes: Sequence[int]) -> Any:
    """Adaptive max pooling: […, *sizes] and the winners' indices.

    Windows of equal size that are apart are pooled as such. Of others the pixels are laid out apart before.
    """
    count = len(sizes)
    plane = x.shape[-count:]
    pooling = _ATEN.max_pool2d_with_indices if count == 2 else _ATEN.max_pool3d_with_indices
    if not any(size % cells for size, cells in zip(plane, sizes, strict=True)):
        kernel = [size // cells for size, cells in zip(plane, sizes, strict=True)]
        return pooling.default(x, kernel, kernel)
    with unrecorded():  # tables are constants
        tables = [_window_table(size, cells).to(x.device) for size, cells in zip(plane, sizes, strict=True)]
        places = torch.arange(math.prod(plane), device=x.device).reshape(plane)
        for axis, table in enumerate(tables):
            places = places.index_select(axis, table)
        places = places.flatten()
    for axis, table in enumerate(tables):
        x = x.index_select(axis - count, table)
    kernel = [len(table) // cells for table, cells in zip(tables, sizes, strict=True)]
    most, index = pooling.default(x, kernel, kernel)
    return most, places.index_select(0, index.flatten()).reshape(index.shape)


def _window_table(size: int, cells: int) -> Tensor:
    """The positions of each cell's window, one window behind the other, int64; short ones repeat their last one."""
    starts = [cell * size // cells for cell in range(cells)]
    ends = [-(-(cell + 1) * size // cells) for cell in range(cells)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    return torch.tensor(
        [min(start + i, end - 1) for start, end in zip(starts, ends, strict=True) for i in range(longest)]
    )


def _copysign(size: Tensor, x: Tensor) -> Tensor:
    """|size| with the sign of x. The sign of 0 is plus, since the result is then multiplied by that 0."""
    return size.abs() - (x < 0).to(x.dtype) * (2 * size.abs())


def _addcdiv(x: Tensor, top: Tensor, bottom: Tensor, *, value: float = 1) -> Tensor:
    """x + value · top/bottom; torch's decomposition multiplies by −1, too."""
    return x - top / bottom if value == -1 else x + top / bottom * value


def _copy(into: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
    """`x` in the shape and dtype of `into`; torch's ONNX exporter leaves the broadcast out."""
    return x.to(into.dtype).expand_as(into).clone()


def _rrelu(
    x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    """A leaky ReLU whose slope is the mean of the bounds, as outside training."""
    return NotImplemented if training else _ATEN.leaky_relu.default(x, (lower + upper) / 2)


def _trilinear(
    a: Tensor, b: Tensor, c: Tensor, apart_a: Sequence[int], apart_b: Sequence[int], apart_c: Sequence[int],
    summed: Sequence[int], unroll: int = 1,
) -> Tensor:  # fmt: skip
    """The sum over products of three tensors, each with dimensions of size 1 put in."""
    product: Tensor | float = 1.0
    for tensor, places in ((a, apart_a), (b, apart_b), (c, apart_c)):
        shape = list(tensor.shape)
        for place in sorted(places):
            shape.insert(place, 1)
        product = product * tensor.reshape(shape)
    assert isinstance(product, Tensor)
    return product.sum(tuple(summed)) if summed else product


def _shrink_back(m: Tensor, x: Tensor, lambd: float) -> Tensor:
    """The multiplier where |x| is above the threshold, else 0."""
    return m * (x.abs() > lambd).to(m.dtype)


def _farther(larger: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """fmax or fmin: the larger or the smaller one, of a number and nan the number."""
    pick = torch.maximum if larger else torch.minimum
    return lambda a, b: torch.where(a.isnan(), b, torch.where(b.isnan(), a, pick(a, b)))


def _hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    """√(a² + b²)."""
    return (a * a + b * b).sqrt()


def _between_by_number(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """a + weight · (b − a), from the nearer end."""
    return a + weight * (b - a) if abs(weight) < 0.5 else b - (b - a) * (1 - weight)


def _between(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """The same with a weight for each element."""
    return torch.where(weight.abs() < 0.5, a + weight * (b - a), b - (b - a) * (1 - weight))


def _most(operator: Any) -> Callable[..., Any]:
    """max or min along an axis, also of booleans, which ONNX does not compare."""

    def written(x: Tensor, dim: int, keepdim: bool = False) -> Any:
        """Values and indices."""
        if x.dtype != torch.bool:
            return NotImplemented
        values, indices = operator(x.to(torch.int32), dim, keepdim)
        return values.to(torch.bool), indices

    return written


def _distances(a: Tensor, b: Tensor, p: float, compute_mode: int | None = None) -> Tensor:
    """The p-norm of a − b for rows of `a` […, P, M] and of `b` […, R, M]: […, P, R]."""
    apart = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs()
    if p == 0:
        return (apart != 0).to(a.dtype).sum(-1)
    if p == math.inf:
        return apart.amax(-1)
    if p == 1:
        return apart.sum(-1)
    return (apart * apart).sum(-1).sqrt() if p == 2 else (apart**p).sum(-1) ** (1 / p)


def _distances_back(m: Tensor, a: Tensor, b: Tensor, p: float, distances: Tensor) -> Tensor:
    """The multiplier of `a` in `_distances`; 0 where rows are equal."""
    apart, m = a.unsqueeze(-2) - b.unsqueeze(-3), m.unsqueeze(-1)
    size, distance = apart.abs(), distances.unsqueeze(-1)
    if p == 0:
        return torch.zeros_like(a)
    if p == math.inf:
        slope = apart.sign() * (size == distance).to(m.dtype)
    elif p == 1:
        slope = apart.sign()
    else:
        same = distance == 0
        slope = apart if p == 2 else apart.sign() * (size + (size == 0).to(m.dtype)) ** (p - 1) * (size > 0).to(m.dtype)
        distance = torch.where(same, 1.0, distance)
        slope = torch.where(same, 0.0, slope / (distance if p == 2 else distance ** (p - 1)))
    return (m * slope).sum(-2)


def _laid_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose results lie in memory as those of kernels do: a view of them is possible, then."""

    def laid_out(x: Any) -> Any:
        """A tensor whose dimensions, channels perhaps last, are in order."""
        if not isinstance(x, Tensor) or x.is_contiguous():
            return x
        last = x.dim() in _CHANNELS_LAST and x.is_contiguous(memory_format=_CHANNELS_LAST[x.dim()])
        return x if last else x.contiguous()

    def written(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        return tuple(map(laid_out, found)) if isinstance(found, tuple | list) else laid_out(found)

    return written


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


_WRITTEN: Mapping[str, Callable[..., Any]] = {  # by the name of the operator whose backward it is
    "convolution": _convolution_back,
    **{f"max_pool{n}d_with_indices": partial(_max_pool, n) for n in (2, 3)},
    **{f"adaptive_max_pool{n}d": partial(_max_pool, n) for n in (2, 3)},
    **{f"avg_pool{n}d": partial(avg_pool_back, n) for n in (2, 3)},
    **{f"_adaptive_avg_pool{n}d": partial(adaptive_avg_pool_back, n) for n in (2, 3)},
    **{f"grid_sampler_{n}d": grid_sampler_back for n in (2, 3)},
    "_cdist": _distances_back,
    "unfold": unfold_back,
    "masked_scatter": masked_scatter_back,
    **{f"{kind}shrink": _shrink_back for kind in ("soft", "hard")},
    "threshold": _threshold,
    "hardtanh": _hardtanh,
    **{name: resize_back(name) for name in RESIZES},
    **{name: pad_back(name) for name in PADDINGS},
}


@cache
def exportable() -> Mapping[Any, Callable[..., Any]]:
    """ATen's backward operators, and forward ones that ONNX lacks → functions of their arguments."""
    own: dict[Any, Callable[..., Any]] = {
        **written_forward(_WRITTEN),
        **{getattr(_ATEN, name).default: resize(name) for name in RESIZES},
        _ATEN.adaptive_max_pool2d.default: _in_windows,
        _ATEN.adaptive_max_pool3d.default: _in_windows,
        _ATEN.grid_sampler_3d.default: grid_sampled,
        _ATEN.avg_pool2d.default: partial(avg_pool, 2),
        _ATEN.avg_pool3d.default: partial(avg_pool, 3),
        _ATEN._adaptive_avg_pool3d.default: partial(adaptive_avg_pool, 3),
        _ATEN.cumprod.default: cumprod,
        _ATEN.cummax.default: cumulative(largest=True),
        _ATEN.cummin.default: cumulative(largest=False),
        _ATEN.kthvalue.default: kthvalue,
        _ATEN.median.dim: median,
        _ATEN.median.default: median_of_all,
        _ATEN.max.dim: _most(_ATEN.max.dim),
        _ATEN.min.dim: _most(_ATEN.min.dim),
        _ATEN.lerp.Scalar: _between_by_number,
        _ATEN.lerp.Tensor: _between,
        _ATEN.hypot.default: _hypotenuse,
        _ATEN.fmax.default: _farther(larger=True),
        _ATEN.fmin.default: _farther(larger=False),
        _ATEN._cdist_forward.default: _distances,
        _ATEN.diagonal_scatter.default: diagonal_scatter,
        _ATEN.index_put.default: index_put,
        _ATEN.index_fill.int_Scalar: index_fill,
        _ATEN.index_fill.int_Tensor: index_fill,
        _ATEN.scatter_reduce.two: scatter_reduce,
        _ATEN.index_reduce.default: index_reduce,
        _ATEN.copysign.Tensor: _copysign,
        _ATEN.addcdiv.default: _addcdiv,
        _ATEN.copy.default: _copy,
        _ATEN.rrelu_with_noise.default: _rrelu,
        _ATEN.rrelu_with_noise_functional.default: lambda x, noise, *given: (_rrelu(x, noise, *given), noise),
        _ATEN._trilinear.default: _trilinear,
    }
    return {operator: _laid_out(function) for operator, function in own.items()}


@cache
def without_strides() -> Mapping[Any, Callable[..., Any]]:
    """Operators that read memory by strides, for records in which nothing is written in place → functions."""
    return {
        _ATEN.as_strided.default: as_strided,
        _ATEN.as_strided_scatter.default: as_strided_scatter,
        _ATEN.view.default: view,
    }
