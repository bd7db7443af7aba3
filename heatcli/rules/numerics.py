"""Sums and quotients for several rules."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x, of any shape, in float64, the dtype of booked sums; on the CPU if the device has no float64 (MPS)."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def per_image(relevance: Tensor) -> Tensor:
    """Sum of [N, …] over all but the first dimension, float64 [N]."""
    if relevance.dim() == 1 or relevance.device.type == "mps":
        return wide(relevance).reshape(len(relevance), -1).sum(1)
    return relevance.sum(tuple(range(1, relevance.dim())), dtype=torch.float64)


def signed(size: float, x: Tensor) -> Tensor:
    """`size` with the sign of each element of x."""
    return torch.copysign(x.new_full((), size), x)


def quotient(top: Tensor, bottom: Tensor, level: Tensor, tolerance: Tensor | float = 0.0) -> Tensor:
    """top/bottom, or `level` where |bottom| ≤ tolerance; the tensors broadcast."""
    near = bottom.detach().abs() <= tolerance
    return torch.where(near, level, top / torch.where(near, 1, bottom))  # 1: autograd must not divide by 0


def exponential_slope(a: Tensor, b: Tensor) -> Tensor:
    """(eᵃ − eᵇ)/(a − b) of each element, or its limit where a = b; a and b broadcast."""
    d = torch.where(a.isneginf() | b.isneginf(), -math.inf, a - b)
    near = d.abs() < 1e-3
    return torch.where(near, torch.exp((a + b) / 2), (torch.exp(a) - torch.exp(b)) / torch.where(near, 1, d))
