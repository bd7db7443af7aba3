"""Candidates: the elements among which each maximum of an operator chooses, along a new first dimension."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.operator import Operator


def candidates(operator: Operator, inputs: Sequence[Tensor]) -> Tensor:
    """The candidates of each maximum of `operator`: [K, *output], padded with −∞ (for minima with +∞).

    The rows are those of `inputs`: a reference may have one row where the batch has several.
    """
    title = operator.title
    if title in ("maximum", "minimum"):
        return torch.stack(torch.broadcast_tensors(*inputs))  # type: ignore[no-untyped-call]
    (x,) = inputs
    if title in ("amax", "amin", "max", "min"):
        return _along(x, operator)
    windows = _adaptive_windows if title.startswith("adaptive") else _pooling_windows
    space = dimensions(operator)
    tables = windows(operator, tuple(x.shape[-space:]), operator.shape[-space:])
    return _gathered(x, tables)


def dimensions(operator: Operator) -> int:
    """The number of dimensions of a pooling's windows, the last ones of its input."""
    return int(operator.title[operator.title.index("pool") + 4])


def _along(x: Tensor, operator: Operator) -> Tensor:
    """The elements along the reduced dimensions, as the first dimension."""
    dims = operator.arg(1)
    whole = dims is None or dims == []
    chosen = range(x.dim()) if whole else [dims] if isinstance(dims, int) else dims
    gone = sorted(d % x.dim() for d in chosen)
    kept = [d for d in range(x.dim()) if d not in gone]
    laid_out = x.permute(*gone, *kept).reshape(-1, *(x.shape[d] for d in kept))
    for d in gone if len(operator.shape) == x.dim() else ():  # keepdim
        laid_out = laid_out.unsqueeze(d + 1)
    return laid_out


def _pooling_windows(operator: Operator, sizes: Sequence[int], out: Sequence[int]) -> list[Tensor]:
    """For each dimension, the input positions of each output's window, int64 [out, K]; −1 is padding."""
    n = len(sizes)

    def each(value: Any, otherwise: Sequence[int]) -> Sequence[int]:
        """A setting as one number for each dimension."""
        given = [value] if isinstance(value, int) else list(value or [])
        return given * n if len(given) == 1 else given or otherwise

    kernel = each(operator.arg(1), ())
    stride, padding, dilation = (
        each(operator.arg(i), otherwise) for i, otherwise in ((2, kernel), (3, [0] * n), (4, [1] * n))
    )
    tables = []
    for d in range(n):
        position = torch.arange(out[d])[:, None] * stride[d] - padding[d] + torch.arange(kernel[d])[None] * dilation[d]
        tables.append(torch.where((position >= 0) & (position < sizes[d]), position, -1))
    return tables


def _adaptive_windows(operator: Operator, sizes: Sequence[int], out: Sequence[int]) -> list[Tensor]:  # noqa: ARG001
    """As `_pooling_windows`, for adaptive pooling."""
    tables = []
    for size, cells in zip(sizes, out, strict=True):
        spans = [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
        width = max(end - start for start, end in spans)
        position = torch.tensor([start for start, _ in spans])[:, None] + torch.arange(width)[None]
        tables.append(torch.where(position < torch.tensor([end for _, end in spans])[:, None], position, -1))
    return tables


def _gathered(x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """The inputs at every combination of one column of each table: [K, …, *out]."""
    space = len(tables)
    choices = []
    for columns in itertools.product(*(range(table.shape[1]) for table in tables)):
        part, real = x, torch.ones((1,) * space, dtype=torch.bool)
        for d, (table, column) in enumerate(zip(tables, columns, strict=True)):
            chosen = table[:, column]
            part = part.index_select(d - space, chosen.clamp(min=0).to(x.device))
            real = real & (chosen >= 0).reshape([-1 if i == d else 1 for i in range(space)])
        choices.append(part.masked_fill(~real.to(x.device), -math.inf))
    return torch.stack(choices)
