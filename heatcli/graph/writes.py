"""Writes to parts of a tensor, and reads by strides, where torch's exporter refuses or writes another function.

Functions take ATen's arguments, and return NotImplemented where the operator itself can stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from heatcli.system.torch_private import unrecorded

_ATEN = torch.ops.aten


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """`values` in place of the elements of `x` where a mask, the only index that is no None, is true; or added to them.

    Element number i under the mask takes row i of the values, unless there is one value for all.
    """
    axis = next((i for i, index in enumerate(indices) if index is not None), 0)
    mask = indices[axis] if indices else None
    if mask is None or mask.dtype != torch.bool or any(index is not None for index in indices[axis + 1 :]):
        return NotImplemented
    behind = x.dim() - axis - mask.dim()
    wide = mask.reshape(*mask.shape, *[1] * behind)
    rows = values.dim() - 1 - behind
    if rows >= 0:
        each = values.shape[rows] > 1
        lead, places, rest = values.shape[:rows], mask.shape if each else [1] * mask.dim(), values.shape[rows + 1 :]
        values = (values.index_select(rows, _rank(mask)) if each else values).reshape(*lead, *places, *rest)
    written = torch.where(wide, values, 0.0 if accumulate else x)
    return x + written if accumulate else written.expand_as(x)


def _rank(mask: Tensor) -> Tensor:
    """Which of the true elements each one is, in order: int64 [elements]; of others the one before."""
    return (mask.flatten().to(torch.int64).cumsum(0) - 1).clamp(min=0)


def _along(x: Tensor, dim: int) -> list[int]:
    """The shape of values along one dimension of `x`."""
    return [-1 if i == dim % x.dim() else 1 for i in range(x.dim())]


def diagonal_scatter(x: Tensor, part: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """`x` with `part` on a diagonal."""
    rows, columns = x.shape[dim1], x.shape[dim2]
    with unrecorded():  # the mask and the table are constants
        mask = torch.ones(rows, columns, dtype=torch.bool, device=x.device).triu(offset).tril(offset)
        place = (torch.arange(rows, device=x.device) + min(offset, 0)).clamp(0, part.shape[-1] - 1)
    wide = part.index_select(-1, place).unsqueeze(-1)  # […, rows, 1]
    return torch.where(mask, wide, x.movedim((dim1, dim2), (-2, -1))).movedim((-2, -1), (dim1, dim2))


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, values: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """The mean of the values for each place, and of its own; torch's exporter overwrites."""
    if reduce != "mean":
        return NotImplemented
    counts = torch.zeros_like(x).scatter_add(dim, index, torch.ones_like(values))
    sums = torch.zeros_like(x).scatter_add(dim, index, values)
    if include_self:
        return (x + sums) / (counts + 1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), x)


def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Any:
    """The elements of `x` at places in memory, as a gather: of each image alone where that is so."""
    found = _places(x, size, stride, storage_offset)
    if found is None:
        return NotImplemented
    rows, table = found
    flat = x.reshape(rows, -1)
    with unrecorded():
        whole = len(table) == x.numel() // rows and bool((table == torch.arange(len(table), device=x.device)).all())
    return (flat if whole else flat.index_select(1, table)).reshape(list(size))


def as_strided_scatter(
    x: Tensor, part: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Any:
    """`x` with `part` at places in memory, each of which is written once."""
    found = _places(x, size, stride, storage_offset)
    if found is None:
        return NotImplemented
    rows, table = found
    flat, written = x.reshape(rows, -1), part.reshape(rows, -1)
    with unrecorded():  # constants
        rank = torch.full((flat.shape[1],), -1, device=x.device).scatter(0, table, torch.arange(len(table)))
        mask, order = rank >= 0, rank.clamp(min=0)
        if int(mask.sum()) != len(table):  # a place is written twice
            return NotImplemented
    if written.shape[1] > 1:
        written = written.index_select(1, order)
    return torch.where(mask, written, flat).reshape(x.shape)


def _places(
    x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None
) -> tuple[int, Tensor] | None:
    """How many rows `x` has, each read alike, and the places in a row that are read, int64; None if `x` has gaps.

    A row is an image if each image is read alike, else all of `x`.
    """
    with unrecorded():
        order = torch.arange(x.numel())
        start = 0 if storage_offset is None else storage_offset - x.storage_offset()
        memory = torch.full((1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)),), -1)
        memory.as_strided(x.shape, x.stride()).copy_(order.reshape(x.shape))
        last = start + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if start < 0 or last >= len(memory) or not x.numel():
            return None
        table = memory.as_strided(list(size), list(stride), start).flatten()
        if bool((table < 0).any()):
            return None
        n = size[0] if size and x.numel() % size[0] == 0 else 1
        each = table.reshape(n, -1) - torch.arange(n)[:, None] * (x.numel() // n)
        if bool((each == each[0]).all()) and bool(((each >= 0) & (each < x.numel() // n)).all()):
            return n, each[0].to(x.device)
        return 1, table.to(x.device)


def index_fill(x: Tensor, dim: int, index: Tensor, value: float | Tensor) -> Tensor:
    """`x` with `value` at the places `index` along `dim`."""
    size = x.shape[dim]
    with unrecorded():
        places = torch.arange(size, device=x.device)
    chosen = (index.reshape(-1, 1).remainder(size) == places).any(0)
    return torch.where(chosen.reshape(_along(x, dim)), value, x)


def masked_scatter_back(m: Tensor, mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """The multiplier [*sizes] of the values that `masked_scatter` writes where the mask is true, in their order."""
    mask = mask.expand_as(m).flatten()
    into = m.new_zeros(math.prod(sizes))
    return into.scatter_add(0, _rank(mask), m.flatten() * mask.to(m.dtype)).reshape(sizes)


def index_reduce(
    x: Tensor, dim: int, index: Tensor, values: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:  # fmt: skip
    """The values joined with those of `x` at the places `index` along `dim`, by mean, prod, amax or amin."""
    where = index.reshape(_along(x, dim)).expand_as(values)
    return x.scatter_reduce(dim, where, values, reduce, include_self=include_self)


def view(x: Tensor, size: Sequence[int]) -> Any:
    """A view where the strides allow one, else a copy."""
    with unrecorded():
        try:
            _ATEN.view.default(x, size)
        except RuntimeError:
            pass
        else:
            return NotImplemented
    return _ATEN.view.default(x.contiguous(), size)


def unfold_back(m: Tensor, sizes: Sequence[int], dim: int, size: int, step: int) -> Tensor:
    """The multiplier [*sizes] of a tensor whose windows have `m` […, windows, …, size]; torch counts in int32."""
    dim = dim % len(sizes)
    with unrecorded():
        starts = torch.arange(m.shape[dim], device=m.device) * step
        places = (starts[:, None] + torch.arange(size, device=m.device)).flatten()
    return m.new_zeros(sizes).index_add(dim, places, m.movedim(-1, dim + 1).flatten(dim, dim + 1))
