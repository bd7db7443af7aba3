"""Selections by sign and sums in one vectorised pass. torch.where, masks and float64 sums are slower on a CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from heatcli.graph.operator import collect
from heatcli.rules import numerics
from heatcli.rules.numerics import per_image, wide
from heatcli.system.torch_private import select_between

_DOT = 1 << 15  # elements of an image above which one call per image is cheaper than storing the products


def above_zero(m: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """m where x ≥ 0, else 0; tensors of one shape. Written to `out` if given."""
    return select_between(m, x, -torch.finfo(x.dtype).tiny, math.inf, out)


def below_zero(m: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """m where x < 0, else 0; tensors of one shape. Written to `out` if given."""
    return select_between(m, x, -math.inf, 0.0, out)


def quotient(top: Tensor, bottom: Tensor, level: Tensor, tolerance: Tensor | float, fixed: bool) -> Tensor:
    """top/bottom, or `level` where |bottom| ≤ tolerance; the tensors broadcast.

    `fixed`: the walk is recorded, for runtimes in which a selection may multiply by 0, which keeps infinity.
    """
    if fixed:
        return numerics.quotient(top, bottom, level, tolerance)
    close = bottom.detach().abs().neg_().add_(tolerance)
    return below_zero(top / bottom, close).add_(above_zero(level, close))


def row_sums(x: Tensor) -> Tensor:
    """Sum over all but the first dimension, float64 [N]; ten times as fast as `per_image`.

    Sums over positions are float32, exact enough for activations; the sum over channels is float64.
    """
    if x.dim() <= 2 or x.shape[:2].numel() == x.numel():
        return per_image(x)
    return wide(x.sum(tuple(range(2, x.dim())))).sum(1)


def row_dots(x: Tensor, y: Tensor, fixed: bool) -> Tensor:
    """Σ x·y over all but the first dimension, float64 [N], without storing the products where that is faster.

    `fixed`: the walk is recorded, for compilation too, where products take no memory.
    """
    if fixed or x.device.type != "cpu" or x.stride() != y.stride() or x.shape[1:].numel() < _DOT:
        return row_sums(x * y)
    return wide(torch.stack([torch.dot(a, b) for a, b in zip(_flat(x), _flat(y), strict=True)]))


def _flat(x: Tensor) -> Tensor:
    """[N, …] as [N, M] in memory order, so that channels last needs no copy."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return (x.permute(0, 2, 3, 1) if last else x).reshape(len(x), -1)


def summed(multiplier: Tensor, bias: Tensor | None) -> Tensor:
    """The multiplier [N, …] summed over the positions that share an element of the bias.

    The sum serves booking and absorption alike.
    """
    return multiplier if bias is None else collect(multiplier, bias)
