"""Pooling: maxima, means and norms over windows, and over whole pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.onnx.node import Call, integers, numbers
from heatcli.artifact.onnx.operators.convolution import padded, pads_of
from heatcli.artifact.onnx.value import Operator, RefusedError

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_WHOLE_MAX = {1: functional.adaptive_max_pool1d, 2: functional.adaptive_max_pool2d, 3: functional.adaptive_max_pool3d}


class _Windows:
    """The windows of a pooling operator, with one number for each spatial dimension."""

    def __init__(self, call: Call, size: Sequence[int]) -> None:
        rank = len(size)
        self.rank, self.kernel = rank, list(call.get("kernel_shape"))
        self.strides, self.dilations = (list(call.get(name) or [1] * rank) for name in ("strides", "dilations"))
        self.before, self.after = pads_of(call, size, self.kernel)
        ceil = bool(call.get("ceil_mode", 0)) and call.get("auto_pad", "NOTSET") == "NOTSET"
        self.count = [self._count(i, size[i], ceil) for i in range(rank)]
        # How far the last window extends beyond the input.
        self.reach = [
            (self.count[i] - 1) * self.strides[i]
            + (self.kernel[i] - 1) * self.dilations[i]
            + 1
            - size[i]
            - self.before[i]
            for i in range(rank)
        ]

    def _count(self, i: int, size: int, ceil: bool) -> int:
        """How many windows fit along dimension `i` of `size` elements."""
        room = size + self.before[i] + self.after[i] - ((self.kernel[i] - 1) * self.dilations[i] + 1)
        count: int = (-(-room // self.strides[i]) if ceil else room // self.strides[i]) + 1
        beyond = ceil and (count - 1) * self.strides[i] >= size + self.before[i]
        return count - beyond  # no window starts beyond the input

    @property
    def plain(self) -> bool:
        """Whether torch's arguments suffice: equal padding on both sides, at most half a window, whole windows."""
        alike = all(b == a <= k // 2 for b, a, k in zip(self.before, self.after, self.kernel, strict=True))
        return alike and all(r <= a for r, a in zip(self.reach, self.after, strict=True))

    def by_ceiling(self, size: Sequence[int]) -> bool:
        """Whether torch's ceil mode, with the front padding on both sides, includes all windows."""
        for i, n in enumerate(size):
            span = (self.kernel[i] - 1) * self.dilations[i] + 1
            count = -(-(n + 2 * self.before[i] - span) // self.strides[i]) + 1
            count -= (count - 1) * self.strides[i] >= n + self.before[i]
            if not 0 <= self.before[i] <= self.kernel[i] // 2 or count < self.count[i]:
                return False
        return True

    def edged(self, x: Tensor) -> Tensor:
        """`x` padded by its edge elements, which are in every window that extends beyond: maxima are unchanged."""
        for axis, (before, reach) in enumerate(zip(self.before, self.reach, strict=True), 2):
            places = [min(max(i, 0), x.shape[axis] - 1) for i in range(-before, x.shape[axis] + reach)]
            x = torch.index_select(x, axis, integers(x, places))
        return x

    def filled(self, x: Tensor, value: float) -> Tensor:
        """`x` padded so that no window extends beyond it."""
        return padded(x, self.before, self.reach, value)


def _max_pool(call: Call, x: Tensor) -> Any:
    """ONNX's MaxPool."""
    windows = _Windows(call, x.shape[2:])
    if not x.dtype.is_floating_point:
        return _max_pool_float(call, x.float(), windows, x.dtype)
    return _max_pool_float(call, x, windows, x.dtype)


def _max_pool_float(call: Call, x: Tensor, windows: _Windows, dtype: torch.dtype) -> Any:
    """Maxima of real numbers, and their indices if the node wants them."""
    if windows.rank not in _MAX:
        raise RefusedError(f"pools {windows.rank} dimensions; heatcli knows 1 to 3")
    how: dict[str, Any] = {"stride": windows.strides, "dilation": windows.dilations, "return_indices": call.wants(1)}
    before = [0] * windows.rank
    if windows.plain or (windows.by_ceiling(x.shape[2:]) and not call.wants(1)):
        # In torch's ceil mode the last windows may extend beyond the input. It may yield more windows than needed.
        pooled = _MAX[windows.rank](x, windows.kernel, padding=windows.before, ceil_mode=not windows.plain, **how)
    elif set(windows.dilations) == {1} and not call.wants(1):
        pooled = _MAX[windows.rank](windows.edged(x), windows.kernel, **how)
    else:
        pooled = _MAX[windows.rank](windows.filled(x, -math.inf), windows.kernel, **how)
        before = windows.before
    values, places = pooled if call.wants(1) else (pooled, None)
    for axis, count in enumerate(windows.count, 2):
        values = values if values.shape[axis] == count else values.narrow(axis, 0, count)
    values = values.to(dtype)
    if places is None:
        return values
    filled = [n + max(b, 0) + max(r, 0) for n, b, r in zip(x.shape[2:], before, windows.reach, strict=True)]
    size = list(x.shape[2:]) if windows.plain else filled
    return values, _places(places, size, before, x.shape, call.get("storage_order", 0))


def _places(places: Tensor, size: Sequence[int], before: Sequence[int], shape: Sequence[int], order: int) -> Tensor:
    """Indices into a padded plane of `size` as indices into the whole tensor of `shape`."""
    coordinates = []
    for n in reversed(size):
        coordinates.append(places % n)
        places = torch.div(places, n, rounding_mode="floor")
    coordinates = [c - b for c, b in zip(reversed(coordinates), before, strict=True)]
    spatial = list(zip(coordinates, shape[2:], strict=True))
    flat = torch.zeros_like(places)
    for coordinate, n in reversed(spatial) if order else spatial:
        flat = flat * n + coordinate
    planes = torch.arange(shape[0] * shape[1], device=places.device).reshape(shape[0], shape[1], *(1,) * len(spatial))
    return flat + planes * math.prod(shape[2:])


def _max_unpool(call: Call, x: Tensor, places: Tensor, wanted: Tensor | None = None) -> Tensor:
    """ONNX's MaxUnpool."""
    rank = x.dim() - 2
    kernel, strides = list(call.get("kernel_shape")), list(call.get("strides") or [1] * rank)
    pads = list(call.get("pads") or [0] * 2 * rank)
    size = [
        (n - 1) * s + k - pads[i] - pads[i + rank]
        for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    whole = [*x.shape[:2], *size]
    flat = torch.zeros(math.prod(whole), dtype=x.dtype, device=x.device)
    y = torch.scatter(flat, 0, places.reshape(-1), x.reshape(-1)).reshape(whole)
    shape = numbers(wanted) or whole
    return padded(y, [0] * len(shape), [want - n for want, n in zip(shape, whole, strict=True)])


def _average_pool(call: Call, x: Tensor) -> Tensor:
    """ONNX's AveragePool: sums over windows, divided by the elements that count."""
    windows = _Windows(call, x.shape[2:])
    with_pads = bool(call.get("count_include_pad", 0))
    no_pads = not any(windows.before) and not any(r > 0 for r in windows.reach)
    if windows.rank in _MEAN and windows.plain and set(windows.dilations) == {1}:
        return _MEAN[windows.rank](x, windows.kernel, windows.strides, windows.before, False, with_pads or no_pads)
    sums = _window_sums(windows, windows.filled(x, 0.0))
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if with_pads:
        ones = padded(ones, windows.before, windows.after, 1.0)
        beyond = [r - a for r, a in zip(windows.reach, windows.after, strict=True)]
        ones = padded(ones, [0] * windows.rank, beyond)
    else:
        ones = windows.filled(ones, 0.0)
    return sums / _window_sums(windows, ones)


def _window_sums(windows: _Windows, x: Tensor) -> Tensor:
    """Sums over windows [N, C, …] that lie inside `x`."""
    if windows.rank in _MEAN and set(windows.dilations) == {1}:
        means: Tensor = _MEAN[windows.rank](x, windows.kernel, windows.strides)
        sums: Tensor = means * math.prod(windows.kernel)
        return sums
    channels, rank = x.shape[1], windows.rank
    ones = torch.ones(channels, 1, *windows.kernel, dtype=x.dtype, device=x.device)
    return torch.convolution(x, ones, None, windows.strides, [0] * rank, windows.dilations, False, [0] * rank, channels)


def _norm_pool(call: Call, x: Tensor) -> Tensor:
    """ONNX's LpPool."""
    windows, p = _Windows(call, x.shape[2:]), call.get("p", 2)
    return torch.pow(_window_sums(windows, windows.filled(torch.pow(torch.abs(x), p), 0.0)), 1 / p)


def _over_space(x: Tensor) -> list[int]:
    """The dimensions after batch and channels."""
    return list(range(2, x.dim()))


def _global_max(call: Call, x: Tensor) -> Tensor:
    """ONNX's GlobalMaxPool."""
    rank = x.dim() - 2
    return _WHOLE_MAX[rank](x, 1) if rank in _WHOLE_MAX else torch.amax(x, _over_space(x), True)


def _global_norm(call: Call, x: Tensor) -> Tensor:
    """ONNX's GlobalLpPool."""
    norm: Tensor = torch.linalg.vector_norm(x, call.get("p", 2), _over_space(x), True)
    return norm


OPERATORS: dict[str, Operator] = {
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
    "AveragePool": _average_pool,
    "LpPool": _norm_pool,
    "GlobalAveragePool": lambda call, x: torch.mean(x, _over_space(x), True),
    "GlobalMaxPool": _global_max,
    "GlobalLpPool": _global_norm,
}
