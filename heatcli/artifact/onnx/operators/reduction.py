"""Sums, means, maxima and norms over dimensions; sorting and cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Call, axes_of, numbers
from heatcli.artifact.onnx.value import Operator


def _over(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """A reduction. Its axes are an attribute, or in newer opsets an input."""

    def run(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
        """The reduction over the node's axes."""
        axes = call.get("axes") if given is None else numbers(given)
        if not axes and call.get("noop_with_empty_axes", 0):
            return function(x.unsqueeze(-1), [x.dim()], False)
        dims = axes_of(axes or range(x.dim()), x.dim())
        if not x.dim():
            return function(x.reshape(1), [0], False)
        return function(x, dims, bool(call.get("keepdims", 1)))

    return run


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Σ x."""
    return torch.sum(x, dims, keep, dtype=x.dtype)


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """The mean of x."""
    if x.dtype.is_floating_point:
        return torch.mean(x, dims, keep)
    return torch.div(_sum(x, dims, keep), math.prod(x.shape[d] for d in dims), rounding_mode="trunc").to(x.dtype)


def _extreme(largest: bool) -> Callable[[Tensor, list[int], bool], Tensor]:
    """The maximum, or the minimum."""

    def run(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        """The extremum; over no elements the dtype's opposite limit."""
        if all(x.shape[d] for d in dims):
            return (torch.amax if largest else torch.amin)(x, dims, keep)
        end: float
        if x.dtype == torch.bool:
            end = not largest
        elif x.dtype.is_floating_point:
            end = -math.inf if largest else math.inf
        else:
            limits = torch.iinfo(x.dtype)
            end = limits.min if largest else limits.max
        shape = torch.sum(x, dims, keep).shape
        return torch.full(shape, end, dtype=x.dtype, device=x.device)

    return run


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Π x."""
    for d in sorted(dims, reverse=True):
        x = torch.prod(x, d, keep, dtype=x.dtype)
    return x


def _l1(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Σ |x|."""
    return _sum(torch.abs(x), dims, keep)


def _l2(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """√(Σ x²)."""
    if x.dtype.is_floating_point:
        norm: Tensor = torch.linalg.vector_norm(x, 2, dims, keep)
        return norm
    return torch.sqrt(_sum(torch.square(x), dims, keep).float()).to(x.dtype)


def _log_sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """log Σ x."""
    return torch.log(_sum(x, dims, keep))


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """log Σ eˣ."""
    return torch.logsumexp(x, dims, keep)


def _sum_square(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """Σ x²."""
    return _sum(torch.square(x), dims, keep)


def _place(function: Callable[[Tensor, int, bool], Tensor]) -> Operator:
    """ArgMax and ArgMin."""

    def run(call: Call, x: Tensor) -> Tensor:
        """The index of the extremum along the node's axis."""
        axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
        if not call.get("select_last_index", 0):
            return function(x, axis, keep)
        last: Tensor = x.shape[axis] - 1 - function(torch.flip(x, [axis]), axis, keep)
        return last

    return run


def _top_k(call: Call, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """TopK; of equal elements the first comes first."""
    axis, count = call.get("axis", -1), call.get("k") if k is None else numbers(k)[0]
    values, places = torch.sort(x, dim=axis, descending=bool(call.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def _cumulated(function: Callable[[Tensor, int], Tensor], start: float) -> Operator:
    """CumSum and CumProd."""

    def run(call: Call, x: Tensor, along: Tensor) -> Tensor:
        """Sums or products along an axis, in reverse or without the element itself where the node says so."""
        (axis,) = axes_of(numbers(along), x.dim())
        back = bool(call.get("reverse", 0))
        x = torch.flip(x, [axis]) if back else x
        y = function(x, axis)
        if call.get("exclusive", 0):
            first = torch.full_like(y.narrow(axis, 0, 1), start)
            y = torch.cat([first, y.narrow(axis, 0, y.shape[axis] - 1)], axis)
        y = y.to(x.dtype)
        return torch.flip(y, [axis]) if back else y

    return run


OPERATORS: dict[str, Operator] = {
    "ReduceSum": _over(_sum),
    "ReduceMean": _over(_mean),
    "ReduceMax": _over(_extreme(True)),
    "ReduceMin": _over(_extreme(False)),
    "ReduceProd": _over(_product),
    "ReduceL1": _over(_l1),
    "ReduceL2": _over(_l2),
    "ReduceLogSum": _over(_log_sum),
    "ReduceLogSumExp": _over(_log_sum_exp),
    "ReduceSumSquare": _over(_sum_square),
    "ArgMax": _place(torch.argmax),
    "ArgMin": _place(torch.argmin),
    "TopK": _top_k,
    "CumSum": _cumulated(lambda x, axis: torch.cumsum(x, axis), 0),
    "CumProd": _cumulated(lambda x, axis: torch.cumprod(x, axis), 1),
}
