"""Cumulative operators and choices by order for explained models, which have no operators for them.

A scan joins each element with what is 1, 2, 4, … places before, so it takes a number of steps that is the logarithm of
the size (Hillis and Steele 1986). Functions take ATen's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from heatcli.system.torch_private import unrecorded

# (later elements, earlier ones) → joined; each is a state of one or more tensors.
Join = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]


def _scanned(state: Sequence[Tensor], dim: int, join: Join) -> Sequence[Tensor]:
    """Each element joined with all that stand before it along `dim`."""
    if not state[0].dim():
        return state
    size, step = state[0].shape[dim], 1
    while step < size:
        later = [x.narrow(dim, step, size - step) for x in state]
        earlier = [x.narrow(dim, 0, size - step) for x in state]
        joined = join(later, earlier)
        state = [torch.cat([x.narrow(dim, 0, step), y], dim) for x, y in zip(state, joined, strict=True)]
        step *= 2
    return state


def cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """The product of each element and all before it."""
    x = x if dtype is None else x.to(dtype)
    return _scanned([x], dim, lambda later, earlier: [later[0] * earlier[0]])[0]


def cumulative(largest: bool) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """cummax or cummin: (x, dim) → the largest or smallest element so far, and its index; the last of equal ones."""

    def join(later: Sequence[Tensor], earlier: Sequence[Tensor]) -> Sequence[Tensor]:
        """The better of both."""
        stays = later[0] >= earlier[0] if largest else later[0] <= earlier[0]
        return [torch.where(stays, a, b) for a, b in zip(later, earlier, strict=True)]

    def written(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Values and indices."""
        with unrecorded():  # the indices are constants
            shape = [x.shape[dim] if i == dim % x.dim() else 1 for i in range(x.dim())]
            places = torch.arange(x.shape[dim], device=x.device).reshape(shape)
        values, indices = _scanned([x, torch.zeros_like(x, dtype=torch.int64) + places], dim, join)
        return values, indices

    return written


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The k-th smallest element along `dim`, counted from 1, and its index."""
    values, indices = x.sort(dim)
    chosen = values.narrow(dim, k - 1, 1), indices.narrow(dim, k - 1, 1)
    return chosen if keepdim else (chosen[0].squeeze(dim), chosen[1].squeeze(dim))


def median(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The element in the middle along `dim`, of two the smaller one, and its index."""
    return kthvalue(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def median_of_all(x: Tensor) -> Any:
    """The element in the middle of all."""
    return median(x.flatten(), 0)[0]
