"""Operators that create tensors from shapes and numbers; these are constants in a graph."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Call, integers, numbers
from heatcli.artifact.onnx.tensors import dtype_of
from heatcli.artifact.onnx.value import Operator


def _shape(call: Call, x: Tensor) -> Tensor:
    """ONNX's Shape."""
    return integers(x, list(x.shape)[call.get("start", 0) : call.get("end")])


def _filled(call: Call, shape: Tensor) -> Tensor:
    """ONNX's ConstantOfShape."""
    value = call.get("value")
    value = torch.zeros(1) if value is None else value
    return torch.full(numbers(shape), value.item(), dtype=value.dtype, device=shape.device)


def _range(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """ONNX's Range: start, start + delta … below limit."""
    first, last, step = (v.item() for v in (start, limit, delta))
    count = max(math.ceil((last - first) / step), 0)
    return (torch.arange(count, device=start.device) * delta + start).to(start.dtype)


def _eye(call: Call, x: Tensor) -> Tensor:
    """ONNX's EyeLike in the shape of x."""
    dtype = dtype_of(call.get("dtype")) if call.get("dtype") else x.dtype
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    diagonal: Tensor = columns[None] - rows[:, None] == call.get("k", 0)
    return diagonal.to(dtype)


def _one_hot(call: Call, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """ONNX's OneHot: `values` [off, on]."""
    size = int(depth.reshape(-1)[0])
    axis = call.get("axis", -1) % (index.dim() + 1)
    shape = [1] * (index.dim() + 1)
    shape[axis] = size
    places = torch.where(index < 0, index + size, index).unsqueeze(axis)
    hot = places == torch.arange(size, device=index.device).reshape(shape)
    return torch.where(hot, values[1], values[0])


def _not_zero(call: Call, x: Tensor) -> Tensor:
    """ONNX's NonZero."""
    return torch.nonzero(x).t()


def _unique(call: Call, x: Tensor) -> tuple[Tensor, ...]:
    """Unique elements or slices, sorted or in order of appearance."""
    axis = call.get("axis")
    x, dim = (torch.reshape(x, [-1]), 0) if axis is None else (x, axis)
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=dim)
    inverse = inverse.reshape(-1)
    size = counts.shape[0]
    places = torch.arange(inverse.shape[0], device=x.device)
    first = torch.scatter_reduce(torch.full((size,), len(places), device=x.device), 0, inverse, places, "amin")
    if not call.get("sorted", 1):
        order = torch.argsort(first)
        values, first, counts = torch.index_select(values, dim, order), first[order], counts[order]
        inverse = torch.argsort(order)[inverse]
    return values, first, inverse, counts


def _window(weights: list[float]) -> Operator:
    """The window Σ weights[k]·cos(2πk·i/n), for i < size."""

    def run(call: Call, size: Tensor) -> Tensor:
        """The window of that many samples."""
        count = int(size)
        n = count if call.get("periodic", 1) else count - 1
        places = torch.arange(count, device=size.device, dtype=torch.float64)
        window: Any = sum(w * torch.cos(places * (2 * math.pi * k / n)) for k, w in enumerate(weights))
        return window.to(dtype_of(call.get("output_datatype", 1)))  # type: ignore[no-any-return]

    return run


OPERATORS: dict[str, Operator] = {
    "Shape": _shape,
    "Size": lambda call, x: torch.tensor(x.numel(), device=x.device),
    "ConstantOfShape": _filled,
    "Range": _range,
    "EyeLike": _eye,
    "OneHot": _one_hot,
    "NonZero": _not_zero,
    "Unique": _unique,
    "HannWindow": _window([0.5, -0.5]),
    "HammingWindow": _window([25 / 46, -21 / 46]),
    "BlackmanWindow": _window([0.42, -0.5, 0.08]),
}
