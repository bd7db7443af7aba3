"""Candidates: the elements among which each maximum of an operator chooses, along a new first dimension."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatcli.graph.operator import Operator

Positions = NDArray[np.int64]  # numbers, not tensors, so that a recording sees no choice that depends on data


def candidates(operator: Operator, inputs: Sequence[Tensor]) -> Tensor:
    """The candidates of each maximum of `operator`: [K, *output], padded with −∞ (for minima with +∞).

    The rows are those of `inputs`: a reference may have one row where the batch has several.
    """
    return torch.stack(list(each_candidate(operator, inputs)))


def each_candidate(operator: Operator, inputs: Sequence[Tensor]) -> Iterable[Tensor]:
    """As `candidates`, one after the other."""
    title = operator.title
    if title in ("maximum", "minimum"):
        return torch.broadcast_tensors(*inputs)  # type: ignore[no-any-return, no-untyped-call]
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


def _pooling_windows(operator: Operator, sizes: Sequence[int], out: Sequence[int]) -> list[Positions]:
    """For each dimension, the input positions of each output's window [out, K]; −1 is padding."""
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
        position = np.arange(out[d])[:, None] * stride[d] - padding[d] + np.arange(kernel[d])[None] * dilation[d]
        tables.append(np.where((position >= 0) & (position < sizes[d]), position, -1))
    return tables


def _adaptive_windows(operator: Operator, sizes: Sequence[int], out: Sequence[int]) -> list[Positions]:  # noqa: ARG001
    """As `_pooling_windows`, for adaptive pooling."""
    tables = []
    for size, cells in zip(sizes, out, strict=True):
        spans = [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
        width = max(end - start for start, end in spans)
        position = np.array([start for start, _ in spans])[:, None] + np.arange(width)[None]
        tables.append(np.where(position < np.array([end for _, end in spans])[:, None], position, -1))
    return tables


def _gathered(x: Tensor, tables: Sequence[Positions]) -> Iterator[Tensor]:
    """The inputs at every combination of one column of each table: K tensors […, *out]."""
    space = len(tables)
    for columns in itertools.product(*(range(table.shape[1]) for table in tables)):
        part, real = x, np.ones((1,) * space, bool)
        for d, (table, column) in enumerate(zip(tables, columns, strict=True)):
            chosen = table[:, column]
            part = _selected(part, d - space, chosen)
            real = real & (chosen >= 0).reshape([-1 if i == d else 1 for i in range(space)])
        yield part if real.all() else part.masked_fill(torch.tensor(~real, device=x.device), -math.inf)


def _selected(x: Tensor, dim: int, chosen: Positions) -> Tensor:
    """The positions `chosen` of a dimension, anything for −1; a view where they rise by equal distances."""
    step, *others = np.unique(np.diff(chosen)).tolist() or [1]
    if others or step <= 0 or chosen[0] < 0:
        return x.index_select(dim, torch.tensor(chosen.clip(0), device=x.device))
    selected: Tensor = x.movedim(dim, 0)[int(chosen[0]) : int(chosen[-1]) + 1 : step].movedim(0, dim)
    return selected
